"""Runs one job of a sweep, in this process or another: a new run from its frozen configuration, or a resumed run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.config.changes import Change
from rlresearch.config.dotted import flattened
from rlresearch.config.instantiate import allow_imports_from
from rlresearch.errors import ConfigError, RunError
from rlresearch.storage.redaction import redacted
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.sweeps import ledger
from rlresearch.sweeps.ledger import DONE, FAILED, FINISHED, INTERRUPTED, Ledger
from rlresearch.training import resume
from rlresearch.training.experiment import Plan, plan
from rlresearch.training.optuna_trial import trial_of
from rlresearch.training.outcome import format_error
from rlresearch.training.request import RunRequest
from rlresearch.training.run import Run


class AttemptTask(NamedTuple):
    """One attempt at a job, as plain data that can be sent to any process.

    run: the directory of the run to resume, None for a new one. packages: packages from which components may come,
    None for any. folder: the argument of --config-dir. command: the command line as typed. cwd: the directory to which
    a relative runs_dir refers. secrets: values that stored configurations leave out, by key.
    """

    job: int
    attempt: int
    config: dict[str, Any]
    choices: dict[str, Any]
    tuned: dict[str, Any]
    overrides: list[str]
    command: list[str]
    sweep: str
    cwd: str
    run: str | None = None
    packages: list[str] | None = None
    folder: str | None = None
    secrets: dict[str, Any] = {}


class AttemptResult(NamedTuple):
    """How an attempt ended. members: the indices of the members of a fused program that caused its failure."""

    status: str
    reason: str | None = None
    objective: float | None = None
    members: tuple[int, ...] = ()


def attempt(tasks: Sequence[AttemptTask], book: Ledger, fused: Mapping[str, Any] | None = None) -> list[AttemptResult]:
    """Runs one task, or several in one program, and writes the result of each to the ledger.

    fused: the configuration of a population; the tasks are its members. A failure is a result, not an exception.
    Only KeyboardInterrupt (with its subclass Interrupted) and SystemExit are raised, after the ledger has the result.
    """
    outcomes = [AttemptResult(FAILED, "it left without a word")] * len(tasks)
    try:
        outcomes = execute(tasks, book, fused)
    except KeyboardInterrupt as interrupted:
        outcomes = [AttemptResult(INTERRUPTED, f"told to stop by {getattr(interrupted, 'name', 'SIGINT')}")] * len(
            tasks
        )
        raise
    except SystemExit:  # a run does not raise it; the system that started this process does, for example Ray
        outcomes = [AttemptResult(INTERRUPTED, "its process was told to leave")] * len(tasks)
        raise
    except MemoryError as error:
        outcomes = [AttemptResult(FAILED, f"out of memory: {error}")] * len(tasks)
    finally:
        for task, outcome in zip(tasks, outcomes, strict=True):
            ledger.ended(book, task.job, task.attempt, outcome.status, outcome.reason, outcome.objective)
    return outcomes


def execute(tasks: Sequence[AttemptTask], book: Ledger, fused: Mapping[str, Any] | None) -> list[AttemptResult]:
    """Runs the tasks as `attempt` does, but writes only their beginning to the ledger."""
    first = tasks[0]
    runs: list[Path] = []
    if first.folder is not None:
        allow_imports_from(first.folder)

    def begun(directories: Sequence[Path]) -> None:
        runs[:] = directories
        ledger.begun(book, [task.job for task in tasks], [task.attempt for task in tasks], directories)

    begun_already = [Path(task.run) for task in tasks if task.run is not None]
    try:
        if begun_already:
            begun(begun_already)
            told_again = [Change(key, value) for key, value in first.secrets.items()]
            made, going_on = resume.load_resume_point(str(begun_already[0]), told_again, first.packages or [])
            mean = Run(_quiet(made), _request(tasks, going_on.config, begun), going_on).execute()
        else:
            ledger.begun(book, [task.job for task in tasks], [task.attempt for task in tasks])
            config = first.config if fused is None else dict(fused)
            here = {**config, "runs_dir": os.path.join(first.cwd, config["runs_dir"])}
            mean = Run(_quiet(plan(here, first.packages)), _request(tasks, config, begun)).execute()
    except (ConfigError, RunError) as error:
        cause = error.__cause__ if isinstance(error, RunError) and error.__cause__ is not None else error
        return _failed(tasks, format_error(cause), tuple(getattr(cause, "members", ())))
    if len(tasks) == 1 and not begun_already:
        return [AttemptResult(ended_as(runs[0])[0] or FINISHED if runs else FINISHED, objective=mean)]
    outcomes = [_outcome(run) for run in runs]
    _part(runs[0], book)
    return outcomes


def _outcome(run: Path) -> AttemptResult:
    """Returns the result of one member; one member may fail while the others continue."""
    status, mean = ended_as(run)
    if status is not None:
        return AttemptResult(status, objective=mean)
    reason = RunDirectory(run).recorded().get("reason") or {}
    return AttemptResult(FAILED, str(reason.get("error") or "it has no final evaluation"))


def _part(run: Path, book: Ledger) -> None:
    """Splits the checkpoints of a fused program, so that each member gets its own, once every member has ended."""
    from rlresearch.storage.tensor_files import CorruptCheckpointError
    from rlresearch.sweeps.launchers.split_population import split

    record = RunDirectory(run).recorded()
    members = (record.get("population") or {}).get("members") or []
    runs = [run.parent / name for name in members]
    if not (record.get("sweep") or {}).get("fused"):
        return
    if all(RunDirectory(each).recorded()["status"] in (*DONE, FAILED) for each in runs):
        try:
            split(runs)
        except (
            OSError,
            CorruptCheckpointError,
            RunError,
        ) as error:  # not a failure: the results are stored, and the common checkpoints still exist
            book.write("not_parted", run=str(run), why=str(error))


def _failed(tasks: Sequence[AttemptTask], why: str, members: tuple[int, ...]) -> list[AttemptResult]:
    """Returns the results after a failure: members that caused it have failed, the others were interrupted."""
    if len(tasks) == 1:
        return [AttemptResult(FAILED, why)]
    others = AttemptResult(INTERRUPTED, f"the program that it was fused into failed: {why}", members=members)
    return [AttemptResult(FAILED, why, members=members) if place in members else others for place in range(len(tasks))]


def _quiet(made: Plan) -> Plan:
    """Turns off the display of the run, because the sweep shows its own table."""
    return made._replace(logger=dataclasses.replace(made.logger, console="none"))


def _request(tasks: Sequence[AttemptTask], config: Mapping[str, Any], begun: Any) -> RunRequest:
    first, settings = tasks[0], flattened(config)
    env = first.choices.get("env")
    return RunRequest(
        config=dict(config),
        algo=str(first.choices.get("algo")),
        env=str(config["env"]["id"] if env == "gym" else env),
        argv=first.command,
        overrides=first.overrides,
        tuned_name=first.choices.get("tuned"),
        tuned={key: value for key, value in first.tuned.items() if settings.get(key) == value},
        choices=first.choices,
        record_fields=[_own(task, len(tasks) > 1) for task in tasks],
        begun=begun,
        trials=[trial_of(task.config) for task in tasks],
    )


def _own(task: AttemptTask, fused: bool) -> dict[str, Any]:
    """Returns the fields of run.json that say which job of which sweep the run is."""
    place = {"directory": task.sweep, "job": task.job, "attempt": task.attempt, "fused": fused}
    return {"sweep": place, "overrides": redacted(task.overrides)}


def ended_as(run: Path) -> tuple[str | None, float | None]:
    """Returns the status of a run that has ended, and the mean return of its final evaluation.

    For a population, the mean is over all members. Returns (None, None) where the run has not ended.
    """
    try:
        record = RunDirectory(run).recorded()
        fused = (record.get("sweep") or {}).get("fused")
        names = [run.name] if fused else (record.get("population") or {}).get("members") or [run.name]
        records = [RunDirectory(run.parent / name).recorded() for name in names]
        if any(each["status"] not in DONE for each in records):
            return None, None
        return record["status"], sum(each["final_evaluation"]["mean"] for each in records) / len(records)
    except (RunError, TypeError, KeyError):
        return None, None
