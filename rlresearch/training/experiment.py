"""A plan: everything one run needs, built from plain configuration and checked, without TensorFlow."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.config.dotted import flattened
from rlresearch.config.instantiate import allowed, build, component_class, make, packages_hint, require, settings_of
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.evaluation.video import check_rendering
from rlresearch.loggers.wandb.settings import WandbSettings
from rlresearch.noise import NoNoise
from rlresearch.runners import PBT, Population, RunnerPart
from rlresearch.runners.step import TrainingStep
from rlresearch.schedules import RunLength, fitted
from rlresearch.storage.redaction import MASK
from rlresearch.training.learnability import obstacles
from rlresearch.training.optuna_trial import Trial
from rlresearch.training.settings import CheckpointSettings, EvalSettings, LoggerSettings, Settings

GROUPS: tuple[str, ...] = ("network", "buffer", "noise", "optimizer", "normalize", "env", "runner", "logger", "eval")
GROUPS += ("checkpoint", "algo")
_PARTS = ("algo.optimizer.", "algo.noise.")  # of the algorithm, which stand beside it in a configuration


class Plan(NamedTuple):
    """A run that can begin. following: paths of schedules in the trainer that last as long as the run."""

    settings: Settings
    task: Task
    trainer: TrainingStep
    runner: RunnerPart
    eval: EvalSettings
    logger: LoggerSettings
    checkpoint: CheckpointSettings
    following: tuple[str, ...] = ()


def plan(config: Mapping[str, Any], packages: Sequence[str] | None = None, begins: bool = True) -> Plan:
    """The plan for a configuration of plain dicts, lists and numbers.

    packages: where `_target_` may lead, None for anywhere, in a configuration of the user's own. begins: whether a run
    is to be made, in a folder that takes one. Errors: ConfigError, one line, on anything wrong. That nothing would be
    learned is wrong in a configuration of the user's own.
    """
    settings = _settings(config)
    if begins:
        _check_writable(settings.runs_dir)
    task = _task(config["env"], packages)
    trainer = _trainer(config, task, packages)
    last = -(-settings.total_steps // task.num_envs)
    length = RunLength(settings.total_steps, max(trainer.updates_by(last), 0))
    trainer, following = fitted(trainer, length)
    runner = build(config["runner"], "runner", packages=packages)
    require(runner, RunnerPart, "runner")
    runner.check(trainer, task)
    every = [trainer]
    if isinstance(runner, Population):
        others = [*_extremes(runner, config), *member_configs(runner, config)]
        every += [fitted(_trainer(member, task, packages), length)[0] for member in others]
    evaluation = make(EvalSettings, config["eval"], "eval")
    logger, mirrors = dict(config["logger"]), {}
    if isinstance(logger.get("wandb"), Mapping):
        mirrors["wandb"] = make(WandbSettings, logger.pop("wandb"), "logger.wandb")
    made = Plan(
        settings,
        task,
        trainer,
        runner,
        evaluation,
        make(LoggerSettings, logger, "logger", mirrors),
        make(CheckpointSettings, config["checkpoint"], "checkpoint"),
        tuple(path.removeprefix("algo.") if path.startswith(_PARTS) else path for path in following),
    )
    _check_fit(made)
    if packages is None:
        for certain in (each for own in every for each in obstacles(own, settings.total_steps) if each.certain):
            raise ConfigError(certain.sentence)
    if made.eval.video_every is not None:
        check_rendering(task, f"eval.video_every={made.eval.video_every}")
    return made


def _settings(config: Mapping[str, Any]) -> Settings:
    """The settings at the top of the configuration. ConfigError where a group is none, or a secret was left out."""
    for name in GROUPS:
        if not isinstance(config.get(name), Mapping):
            raise ConfigError(
                f"{name}={format_value(config.get(name))}: must be a group of settings; choose {name}=OPTION."
            )
    for key, value in flattened(config).items():
        if isinstance(value, str) and MASK in value:
            raise ConfigError(f"{key}={value}: is a secret, and no run directory keeps it; say it again: {key}=VALUE.")
    own = {key: value for key, value in config.items() if key not in GROUPS}
    known = [field.name for field in fields(Settings)] + list(GROUPS)
    for key, value in own.items():
        if key not in known:
            raise ConfigError(
                f"{format_value(key)}={format_value(value)}: there is no such setting{allowed_hint(key, known)}"
            )
    settings = make(Settings, own, "")
    trial = make(Trial, settings.trial or {}, "trial")
    if trial.storage is not None and trial.study is None:
        raise ConfigError("trial.study: must be the study's name, where trial.storage is set; a search sets both.")
    if settings.resume is not None:
        raise ConfigError(
            f"resume={format_value(settings.resume)}: must stand on the command line, it makes no new run."
        )
    return settings


def member_configs(runner: RunnerPart, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The configuration of each member as it would be alone: its own seed and values, `runner=device`."""
    if not isinstance(runner, Population):
        return [dict(config)]
    device = {"runner": {"_target_": "rlresearch.runners.Device"}}
    return [
        _changed({**config, **device, "seed": seed}, {key: values[index] for key, values in runner.keys.items()})
        for index, seed in enumerate(runner.of(config["seed"]))
    ]


def _extremes(runner: Population, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Configurations with the lowest and with the highest values that members may come to have."""
    bounds = runner.bounds if isinstance(runner, PBT) else {}
    return [_changed(config, {key: each[end] for key, each in bounds.items()}) for end in (0, 1) if bounds]


def _changed(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with other values at dotted keys."""
    own = copy.deepcopy(dict(config))
    for key, value in values.items():
        *path, last = key.split(".")
        node = own
        for name in path:
            node = node[name]
        node[last] = value
    return own


def _task(node: Mapping[str, Any], packages: Sequence[str] | None) -> Task:
    values = dict(node)
    if values.get("id") in ("???", ""):
        raise ConfigError("env.id is missing: name a Gymnasium environment, such as env.id=MountainCarContinuous-v0.")
    module = str(values.get("id")).rpartition(":")[0]
    if module and packages is not None and module.partition(".")[0] not in packages:
        where = f"env.id={format_value(values['id'])}: its module must be inside {' or '.join(packages)}"
        raise ConfigError(f"{where}, in what is not your own{packages_hint(module)}")
    physics = values.pop("physics", None)
    parts = {} if physics is None else {"physics": build(physics, "env.physics", packages=packages)}
    task = make(Task, values, "env", parts)
    task.spec  # noqa: B018 (makes the environment once: a wrong id or space is found here)
    return task


def _trainer(config: Mapping[str, Any], task: Task, packages: Sequence[str] | None) -> TrainingStep:
    """The algorithm with its parts: the groups noise and optimizer, and each network under its name."""
    algorithm = component_class(config["algo"], "algo", packages)
    given = {"spec", "noise", "optimizer", *config["algo"]}
    required = [each.name for each in fields(algorithm) if each.default is each.default_factory is MISSING]
    networks = [name for name in required if name not in given]
    for name, node in config["network"].items():
        if name not in {each.name for each in fields(algorithm)}:
            why = f"{algorithm.__name__} has no such network"
            raise ConfigError(f"network.{name}={format_value(node)}: {why}{allowed_hint(name, networks)}")
    for name in networks:
        if name not in config["network"]:
            if name in settings_of(config["algo"]):
                raise ConfigError(f"algo.{name} is missing: {algorithm.__name__} needs {allowed(algorithm, name)}.")
            raise ConfigError(f"network.{name} is missing: {algorithm.__name__} needs it; choose with network=OPTION.")
    parts = {name: build(node, f"network.{name}", packages=packages) for name, node in config["network"].items()}
    parts |= {name: build(config[name], name, packages=packages) for name in ("noise", "optimizer")}
    if not (isinstance(parts["noise"], NoNoise) or any(each.name == "noise" for each in fields(algorithm))):
        kind = type(parts["noise"]).__name__
        raise ConfigError(f"noise: {algorithm.__name__} explores by itself and takes no {kind}; choose noise=none.")
    algo = build(config["algo"], "algo", parts | {"spec": task.spec}, packages)
    buffer = build(config["buffer"], "buffer", {"batch_size": algo.batch_size}, packages)
    normalizer = build(config["normalize"], "normalize", packages=packages)
    trainer = make(TrainingStep, {}, "", {"algo": algo, "buffer": buffer, "normalizer": normalizer})
    algo.check()
    if algo.LEARNS_FROM != buffer.OFFERS:
        raise ConfigError(
            f"buffer: {algorithm.__name__} learns from {algo.LEARNS_FROM}, but {type(buffer).__name__} offers "
            f"{buffer.OFFERS}; leave out buffer=..., algo=... chooses one that fits."
        )
    return trainer


def _check_fit(made: Plan) -> None:
    """What no part can know alone."""
    settings, algo, buffer = made.settings, made.trainer.algo, made.trainer.buffer
    if made.task.time_limit is None and made.eval.max_episode_steps is None:
        raise ConfigError(
            f"env.id={format_value(made.task.id)}: has no time limit, and a policy that never arrives would be "
            "evaluated for ever; set one with env.max_episode_steps=STEPS, or eval.max_episode_steps=STEPS for "
            "evaluations alone."
        )
    for key, count in (("algo.batch_size", algo.batch_size), ("env.num_envs", made.task.num_envs)):
        if buffer.capacity < count:
            raise ConfigError(f"buffer.capacity={buffer.capacity}: must be at least {key}, which is {count}.")
    if isinstance(made.runner, PBT) and (made.eval.every_steps or settings.total_steps) >= settings.total_steps:
        raise ConfigError(
            f"eval.every_steps={format_value(made.eval.every_steps)}: must be below total_steps, which is "
            f"{settings.total_steps}: runner=pbt chooses between members at evaluations before the last."
        )


def _check_writable(runs_dir: str) -> None:
    """The folder, or the nearest above it that exists, takes files: tried with one that has no name."""
    folder, why = Path(runs_dir).absolute(), None if runs_dir else "is empty"
    try:
        folder = next(each for each in (folder, *folder.parents) if each.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        wrong = "cannot be written" if os.path.isdir(folder) else "is not a folder"
        why = f"'{format_value(str(folder))}' {wrong} ({getattr(error, 'strerror', None) or error})"
    if why:
        raise ConfigError(f"runs_dir={format_value(runs_dir)}: {why}; choose another with runs_dir=PATH.")
