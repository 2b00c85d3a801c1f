"""Drives a runner from its first step to its final evaluation, and tells the loggers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.evaluate import Evaluation, Evaluator
from rlresearch.loggers import Logger
from rlresearch.plan import EvalSettings

SPEED_METRICS = {
    "speed/steps_per_second": "without compilation and evaluation, all members together, in transitions a second",
}
LONGEST_CALL_S = 1.0  # so that Ctrl-C is heard; results do not depend on where calls end


class Stop(NamedTuple):
    """Where the loop returns to Python: after `iteration`, to write a row, to evaluate, or both."""

    iteration: int
    row: bool
    evaluate: bool


def train(
    runner: Any,
    task: Task,
    total_steps: int,
    evaluation: EvalSettings = EvalSettings(),
    row_every: int = 1_000,
    loggers: Sequence[Logger] = (),
    overview: Logger | None = None,
) -> list[Evaluation]:
    """Trains for `total_steps` transitions a member; returns the final evaluation of each member.

    row_every: transitions between metrics rows. loggers: one for each member, or none. overview:
    hears of all members together. RunError where an environment or the disk fails.
    """
    evaluator = Evaluator(task, runner.members)
    pace = _Pace(len(runner.members) * task.num_envs)
    finals: list[Evaluation] = []
    fresh = True
    try:
        for stop in stops(total_steps, task.num_envs, row_every, evaluation.every_steps):
            fresh = _advance(runner, stop.iteration, fresh, pace)
            step = stop.iteration * task.num_envs
            if stop.row:
                _tell_rows(runner.rows(), step, pace.speed(), loggers, overview)
                fresh = True
            if stop.evaluate:
                final = step >= total_steps
                episodes = evaluation.final_episodes if final else evaluation.episodes
                finals = _evaluate(evaluator, runner, episodes, step)
                _tell_evaluations(finals, step, loggers, overview)
                pace.pause()
    finally:
        evaluator.close()
    return finals


def _evaluate(evaluator: Evaluator, runner: Any, episodes: int, step: int) -> list[Evaluation]:
    try:
        return evaluator.run(runner.policy, episodes, step)
    except RunError as error:
        raise RunError(f"in the evaluation at step {step}, {error}") from (error.__cause__ or error)


def stops(total_steps: int, num_envs: int, row_every: int, evaluate_every: int | None) -> Iterator[Stop]:
    """Every place to stop, in order; the last is the end of training, where both is done."""
    last = -(-total_steps // num_envs)
    rows = _multiples(row_every, num_envs, last)
    evaluations = _multiples(evaluate_every, num_envs, last) if evaluate_every else {last}
    for iteration in sorted(rows | evaluations):
        yield Stop(iteration, iteration in rows, iteration in evaluations)


def _multiples(every: int, num_envs: int, last: int) -> set[int]:
    """The first iterations at or after each multiple of `every` transitions, and the last one."""
    return {-(-step // num_envs) for step in range(every, last * num_envs, every)} | {last}


def _advance(runner: Any, until: int, fresh: bool, pace: _Pace) -> bool:
    """Runs to an iteration in calls of about a second. Returns whether a fresh row is still owed."""
    while runner.iteration < until:
        iterations = min(until - runner.iteration, pace.iterations(LONGEST_CALL_S))
        runner.advance(iterations, fresh)
        pace.took(iterations)
        fresh = False
    return fresh


def _tell_rows(
    rows: list[dict], step: int, speed: float, loggers: Sequence[Logger], overview: Logger | None
) -> None:
    timing = {"speed/steps_per_second": speed}
    for logger, row in zip(loggers, rows):
        logger.metrics({"step": step} | row | timing)
    if overview is not None:
        means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        overview.metrics({"step": step} | means | timing)


def _tell_evaluations(
    evaluations: list[Evaluation], step: int, loggers: Sequence[Logger], overview: Logger | None
) -> None:
    for logger, each in zip(loggers, evaluations):
        logger.evaluation({"step": step} | each._asdict())
    if overview is not None:
        overview.evaluation({"step": step, "returns": [value for each in evaluations for value in each.returns]})


class _Pace:
    """How fast training is going, evaluation and the first call's compilation apart."""

    def __init__(self, transitions: int) -> None:
        self._transitions = transitions  # of one iteration, all members together
        self._recent = 0.0  # iterations per second
        self._iterations, self._seconds = 0, 0.0
        self._since = time.perf_counter()
        self._compiled = False

    def took(self, iterations: int) -> None:
        """Notes a call that has just ended."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        if not self._compiled:
            self._compiled = True
            return
        self._recent = iterations / max(seconds, 1e-6)
        self._iterations += iterations
        self._seconds += seconds

    def pause(self) -> None:
        """What passed since the last call was no training."""
        self._since = time.perf_counter()

    def iterations(self, seconds: float) -> int:
        """About how many take that long; 1 for the first call, which compiles."""
        return max(int(self._recent * seconds), 1) if self._recent else (1 if not self._compiled else 10)

    def speed(self) -> float:
        """Transitions per second since the last time it was asked, all members together."""
        speed = self._iterations * self._transitions / self._seconds if self._seconds else float("nan")
        self._iterations, self._seconds = 0, 0.0
        return speed
