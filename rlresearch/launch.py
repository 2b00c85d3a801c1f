"""One run from a checked plan to its end: directories, TensorFlow, training, and what is told at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlresearch import hardware
from rlresearch.display import Display
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluate import Evaluation
from rlresearch.loggers import Offline, Several
from rlresearch.plan import Plan, member_configs
from rlresearch.rundir import RunDirectory, provenance
from rlresearch.runners import Population

_log = logging.getLogger("rlresearch")
_log.addHandler(logging.NullHandler())  # before a run directory takes them, messages go nowhere


class Request(NamedTuple):
    """What was asked for, beside the plan made of it.

    config: plain and resolved. algo, env: the names chosen. argv, overrides: as typed. tuned: settings
    that applied by themselves, by dotted key, and the name they have.
    """

    config: dict[str, Any]
    algo: str
    env: str
    argv: Sequence[str]
    overrides: Sequence[str]
    tuned_name: str | None = None
    tuned: Mapping[str, Any] = {}


def launch(plan: Plan, request: Request) -> float:
    """Trains; returns the mean return of the final evaluation, over members in a population.

    RunError with one line where the run failed; run.json then says `failed` and why.
    """
    started = time.perf_counter()
    display = Display(plan.logger.console)
    directories: list[RunDirectory] = []
    try:
        for config in member_configs(plan.runner, request.config):
            directory = RunDirectory.create(plan.settings.runs_dir, request.algo, request.env, config["seed"])
            directories.append(directory)
            directory.write_config(_yaml(config))
            directory.record(**provenance(request.argv, request.overrides))
        evaluations, trained = _train(plan, request, directories, display)
        _finish(plan, evaluations, directories, display, trained, time.perf_counter() - started)
        return float(np.mean([each.mean for each in evaluations]))
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        _record_end(status, error, plan, directories)
        if isinstance(error, (KeyboardInterrupt, ConfigError)):
            raise
        raise RunError(f"{_one_line(error)} ({_where(directories)})") from error
    finally:
        display.close()
        for directory in directories:
            directory.close()


def _train(
    plan: Plan, request: Request, directories: list[RunDirectory], display: Display
) -> tuple[list[Evaluation], float]:
    """The final evaluations, and the seconds that building and training took."""
    from rlresearch.training import train

    settings = plan.settings
    display.start(_title(plan, request), settings.total_steps)
    device = hardware.prepare(settings.device, settings.threads, settings.deterministic, settings.compile_cache)
    for directory in directories:
        directory.record(device=device)
    began = time.perf_counter()
    runner = plan.runner.start(plan.trainer, plan.task, settings.seed)
    offline = [Offline(directory) for directory in directories]
    try:
        evaluations = train(
            runner, plan.task, settings.total_steps, plan.eval, plan.logger.every_steps, offline, Several([display])
        )
    except (Exception, KeyboardInterrupt) as error:
        error.step = runner.iteration * plan.task.num_envs  # run.json names the step
        raise
    finally:
        for each in offline:
            each.close()
        runner.close()
    return evaluations, time.perf_counter() - began


def _title(plan: Plan, request: Request) -> list[str]:
    settings, runner = plan.settings, type(plan.runner).__name__.lower()
    lines = [
        f"{request.algo} on {request.env}",
        f"runner {runner}, device {settings.device}, seed {settings.seed}, {settings.total_steps:,} steps",
    ]
    if request.tuned:
        values = ", ".join(f"{key}={value}" for key, value in request.tuned.items())
        lines.append(f"tuned settings {request.tuned_name}: {values} (tuned=none switches them off)")
    return lines


def _finish(
    plan: Plan,
    evaluations: list[Evaluation],
    directories: list[RunDirectory],
    display: Display,
    trained: float,
    total: float,
) -> None:
    steps = -(-plan.settings.total_steps // plan.task.num_envs) * plan.task.num_envs
    summaries = []
    for directory, evaluation in zip(directories, evaluations, strict=True):
        final = _described(evaluation, steps)
        summary = {"status": "finished", "total_steps": steps, "final_evaluation": final}
        summary |= {"training_time_s": round(trained, 3), "wall_time_s": round(total, 3)}
        summary["steps_per_second"] = round(steps * len(directories) / trained, 1)
        Offline(directory).finish(summary)
        summaries.append(summary)
    shown = summaries[0] | {"run_directory": str(directories[0].path), "next": _next(plan)}
    if len(directories) > 1:
        shown["members"] = [
            {"mean": s["final_evaluation"]["mean"], "name": d.path.name} for s, d in zip(summaries, directories)
        ]
        shown["run_directory"] = f"{directories[0].path} and {len(directories) - 1} more beside it"
    display.finish(shown)


def _described(evaluation: Evaluation, step: int) -> dict[str, Any]:
    returns = np.asarray(evaluation.returns)
    return {
        "step": step,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "episodes": len(returns),
        "mean_length": float(np.mean(evaluation.lengths)),
    }


def _next(plan: Plan) -> list[str]:
    if isinstance(plan.runner, Population) or plan.task.physics is None:
        return ["python -m rlresearch --help"]
    return ["python -m rlresearch runner=population runner.seeds=16   # the same with 16 seeds in one program"]


def _record_end(status: str, error: BaseException, plan: Plan, directories: list[RunDirectory]) -> None:
    """Says in run.json and log.txt how a run ended that did not finish."""
    cause = error.__cause__ if isinstance(error, RunError) and error.__cause__ is not None else error
    reason = {
        "kind": type(cause).__name__,
        "environment": plan.task.id,
        "step": getattr(error, "step", 0),
        "error": str(error),
    }
    for directory in directories:
        try:
            Offline(directory).finish({"status": status, "reason": reason, "total_steps": reason["step"]})
        except RunError as second:  # a full disk must not hide the first error
            _log.warning("run.json keeps its last state: %s", second)
    _log.error("%s", status, exc_info=error)


def _where(directories: list[RunDirectory]) -> str:
    return f"what was logged is in {directories[0].path}" if directories else "before the first step"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text[:300]}"


def _yaml(config: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(config))
