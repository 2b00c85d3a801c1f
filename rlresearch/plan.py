"""A plan: everything one run needs, built from plain configuration and checked, without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import annotated_types as at

from rlresearch.build import build, make, resolve
from rlresearch.display import CONSOLES
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, nearest
from rlresearch.trainer import Trainer

GROUPS = ("network", "buffer", "noise", "optimizer", "env", "runner", "logger", "eval", "algo")


@dataclass(frozen=True)
class Settings:
    """The keys at the top of the configuration; `conf/config.yaml` says what each means."""

    total_steps: Annotated[int, at.Gt(0)] = 20_000
    seed: Annotated[int, at.Interval(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "gpu"] = "auto"
    deterministic: bool = False
    threads: Annotated[int, at.Gt(0)] | None = None
    compile_cache: bool = True
    runs_dir: str = "runs"


@dataclass(frozen=True)
class EvalSettings:
    """every_steps: transitions between evaluations, None for only at the end; episodes: of each;
    final_episodes: of the last one.
    """

    every_steps: Annotated[int, at.Gt(0)] | None = 5_000
    episodes: Annotated[int, at.Gt(0)] = 10
    final_episodes: Annotated[int, at.Gt(0)] = 100


@dataclass(frozen=True)
class LoggerSettings:
    """every_steps: transitions between metrics rows; console: how the terminal shows progress."""

    every_steps: Annotated[int, at.Gt(0)] = 1_000
    console: Literal[CONSOLES] = "auto"


class Plan(NamedTuple):
    """A run that can begin."""

    settings: Settings
    task: Task
    trainer: Trainer
    runner: Any
    eval: EvalSettings
    logger: LoggerSettings


def plan(config: Mapping[str, Any], packages: Sequence[str] | None = None) -> Plan:
    """The plan for a configuration of plain dicts, lists and numbers.

    packages: where `_target_` may lead, None for anywhere. ConfigError, one line, on anything wrong.
    """
    for name in GROUPS:
        if not isinstance(config.get(name), Mapping):
            raise ConfigError(f"{name}={config.get(name)!r} is no group of settings: choose one with {name}=OPTION.")
    own = {key: value for key, value in config.items() if key not in GROUPS}
    _refuse_unknown(own, [field.name for field in fields(Settings)] + list(GROUPS))
    settings = make(Settings, own, "")
    task = _task(config["env"], packages)
    trainer = _trainer(config, task, packages)
    runner = build(config["runner"], "runner", packages=packages)
    runner.check(trainer, task)
    made = Plan(
        settings,
        task,
        trainer,
        runner,
        make(EvalSettings, config["eval"], "eval"),
        make(LoggerSettings, config["logger"], "logger"),
    )
    _check_fit(made)
    return made


def _task(node: Mapping[str, Any], packages: Sequence[str] | None) -> Task:
    values = dict(node)
    if values.get("id") == "???":
        raise ConfigError("env.id is missing: name a Gymnasium environment, such as env.id=MountainCarContinuous-v0.")
    physics = values.pop("physics", None)
    parts = {} if physics is None else {"physics": build(physics, "env.physics", packages=packages)}
    task = make(Task, values, "env", parts)
    task.spec  # noqa: B018 (makes the environment once: a wrong id or space is found here)
    return task


def _trainer(config: Mapping[str, Any], task: Task, packages: Sequence[str] | None) -> Trainer:
    """The algorithm with its parts: the groups noise and optimizer, and each network under its name."""
    networks = {name: build(node, f"network.{name}", packages=packages) for name, node in config["network"].items()}
    parts = {name: build(config[name], name, packages=packages) for name in ("noise", "optimizer")}
    wanted = _part_names(config["algo"], packages)
    for name in networks:
        if name not in wanted:
            raise ConfigError(f"network.{name}: the algorithm has no such network{nearest(name, wanted)}")
    algo = build(config["algo"], "algo", parts | networks | {"spec": task.spec}, packages)
    algo.check()
    return Trainer(algo, build(config["buffer"], "buffer", packages=packages))


def _part_names(node: Any, packages: Sequence[str] | None) -> list[str]:
    target = node.get("_target_")
    if not isinstance(target, str):
        return []  # `build` says what is wrong
    return [field.name for field in fields(resolve(target, "algo._target_", packages))]


def _check_fit(made: Plan) -> None:
    """What no part can know alone."""
    settings, algo, buffer = made.settings, made.trainer.algo, made.trainer.buffer
    for key, count in (("algo.batch_size", algo.batch_size), ("env.num_envs", made.task.num_envs)):
        if buffer.capacity < count:
            raise ConfigError(f"buffer.capacity ({buffer.capacity}) is smaller than {key} ({count}): raise buffer.capacity.")
    if algo.learning_starts >= settings.total_steps:
        raise ConfigError(
            f"algo.learning_starts ({algo.learning_starts}) is not below total_steps ({settings.total_steps}): "
            "nothing would be learned."
        )
    _check_writable(settings.runs_dir)


def _check_writable(runs_dir: str) -> None:
    folder = Path(runs_dir).absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        kind = "cannot be written" if folder.is_dir() else "is not a folder"
        raise ConfigError(f"runs_dir={runs_dir!r}: '{folder}' {kind}; choose another with runs_dir=PATH.")


def _refuse_unknown(values: Mapping[str, Any], known: list[str]) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"'{key}' is not a setting{nearest(key, known)} allowed: {', '.join(known)}.")
