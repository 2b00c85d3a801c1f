"""Callbacks that pass rows, evaluations and copies of members to loggers, and that make videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlresearch.evaluation.video import Recorder
from rlresearch.loggers.base import Logger
from rlresearch.runners.runner import Runner
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training.callbacks import Callback, EvaluationResult, LoopPosition, Members
from rlresearch.training.settings import EvalSettings


class LoggerCallback(Callback):
    """Passes the rows of each active member to its logger, and a summary of all members to `overview`.

    loggers: one per member, or none. overview: gets the mean of every metric, and the episodes of all members.
    """

    def __init__(self, members: Members, loggers: Sequence[Logger], overview: Logger | None = None) -> None:
        self._members, self._loggers, self._overview = members, list(loggers), overview

    def on_rows(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Logs the rows of active members, and the mean of each metric over them."""
        active = self._members.active
        for logger, row, on in zip(self._loggers, rows, active):
            if on:
                logger.metrics(row)
        if self._overview is not None:
            heard = [row for row, on in zip(rows, active, strict=True) if on]
            self._overview.metrics({name: _mean([row[name] for row in heard]) for name in rows[0]} | {"step": step})

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Logs the evaluations of active members, and the returns of all of them together."""
        for logger, each, on in zip(self._loggers, result.evaluations, result.active):
            if on:
                logger.evaluation({"step": result.step} | each._asdict())
        if self._overview is not None:
            heard = [each for each, on in zip(result.evaluations, result.active, strict=True) if on]
            returns = [value for each in heard for value in each.returns]
            self._overview.evaluation({"step": result.step, "returns": returns})


class VideoCallback(Callback):
    """Makes a video of each evaluation that the settings choose."""

    def __init__(self, recorder: Recorder, settings: EvalSettings) -> None:
        self._recorder, self._settings = recorder, settings

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Records the first episodes, if this evaluation gets a video."""
        if self._settings.shows(result.step, result.final):
            self._recorder.record(result.step, result.episodes, result.active)


class ReplayCallback(Callback):
    """Says, once, that the run may not come out the same when it is repeated or resumed.

    directories: one a member. tell: hears the sentence.
    """

    def __init__(
        self, runner: Runner, environment: str, directories: Sequence[RunDirectory], tell: Callable[[str], None]
    ) -> None:
        self._runner, self._environment, self._directories, self._tell = runner, environment, directories, tell
        self._told = False

    def after_call(self, position: LoopPosition) -> bool:
        """Looks at what the runner has found."""
        finding = None if self._told else self._runner.finding
        if finding is None:
            return False
        self._told = True
        self._tell(finding.message)
        for directory in self._directories:
            if finding.kind != "long_episode" and directory.recorded().get("nondeterminism") is None:
                directory.record(nondeterminism={"environment": self._environment, **finding._asdict()})
        return True


class SelectionCallback(Callback):
    """After each evaluation except the last, lets a population replace members, and logs each replacement."""

    def __init__(self, runner: Runner, logger: Logger) -> None:
        self._runner, self._logger = runner, logger

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Passes the mean returns on to the runner, and logs a row for each member that was replaced."""
        if not result.final:
            for row in self._runner.after_evaluation(result.step, [each.mean for each in result.evaluations]):
                self._logger.lineage(row)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
