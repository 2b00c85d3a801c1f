"""Drives a runner from where it stands to its final evaluation, and tells the loggers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation, Evaluator
from rlresearch.evaluation.video import Recorder
from rlresearch.loggers.base import Logger
from rlresearch.runtime.signals import Interrupted
from rlresearch.training.experiment import EvalSettings
from rlresearch.training.finite_check import Soundness

SPEED_METRICS = {
    "speed/steps_per_second": "without compilation and evaluation, all members together, in transitions a second",
}
LONGEST_CALL_S = 1.0  # so that signals are heard; results do not depend on where calls end
_FIRST_CALL, _GROWTH = 10, 8  # iterations of the first call after the one that compiles; how fast calls grow


class Stop(NamedTuple):
    """Where the loop returns to Python: after `iteration`, to write a row, to evaluate, to save, or several of them."""

    iteration: int
    row: bool
    evaluate: bool
    save: bool = False


class Position(NamedTuple):
    """Where the loop stands, beside the runner's iteration.

    fresh: whether the sums behind the next row are still to be begun anew; row, evaluation: the iterations of the last
    that were told, -1 before the first.
    """

    fresh: bool = True
    row: int = -1
    evaluation: int = -1


class Keeper(Protocol):
    """Who keeps a run's state, and hears of signals.

    begin: where the loop goes on; every_steps: transitions between planned checkpoints, or None; finals: the last
    evaluations, where they were made before `begin`; soundness: of the runner, or None.
    """

    begin: Position
    every_steps: int | None
    finals: Sequence[Evaluation]
    soundness: Soundness | None

    def check(self) -> None:
        """Raises Interrupted where the run was told to stop."""

    def iterations(self) -> int | None:
        """How many may pass before the keeper is asked again; None for any number."""

    def between_calls(self, position: Position) -> bool:
        """Saves if it is time. Returns whether it took the loop's time."""

    def at_stop(self, position: Position, stop: Stop, evaluations: Sequence[Evaluation]) -> None:
        """Saves if it is time; `evaluations`: those that were made at this stop, one a member,
        or before by those that have ended."""

    def at_end(self, position: Position) -> None:
        """Saves the state that is to be the last."""


class Judge(Protocol):
    """Who decides at evaluations which members go on. going: one bool a member; a member that does not go on is neither
    logged nor evaluated for any more, and once none does, training is over.
    """

    going: Sequence[bool]

    def at_evaluation(self, step: int, evaluations: Sequence[Evaluation]) -> None:
        """Hears of the evaluations made at `step`, one a member, before the state there is saved."""


@dataclass
class AllGoOn:
    """A judge that ends nothing."""

    going: Sequence[bool]

    def at_evaluation(self, step: int, evaluations: Sequence[Evaluation]) -> None:
        pass


@dataclass
class NothingKept:
    """A keeper that saves nothing and hears nothing."""

    begin: Position = Position()
    every_steps: int | None = None
    finals: Sequence[Evaluation] = ()
    soundness: Soundness | None = None

    def check(self) -> None:
        pass

    def iterations(self) -> int | None:
        return None

    def between_calls(self, position: Position) -> bool:
        return False

    def at_stop(self, position: Position, stop: Stop, evaluations: Sequence[Evaluation]) -> None:
        pass

    def at_end(self, position: Position) -> None:
        pass


def train(
    runner: Any,
    task: Task,
    total_steps: int,
    evaluation: EvalSettings = EvalSettings(),
    row_every: int = 1_000,
    loggers: Sequence[Logger] = (),
    overview: Logger | None = None,
    keeper: Keeper | None = None,
    judge: Judge | None = None,
    recorder: Recorder | None = None,
) -> list[Evaluation]:
    """Trains for `total_steps` transitions a member; returns the final evaluation of each member.

    row_every: transitions between metrics rows. loggers: one for each member, or none. overview: hears of all
    members together. judge: ends members before that. recorder: makes the videos that `evaluation` asks for. RunError
    where an environment or the disk fails, or a parameter is no number any more.
    """
    loop = _Loop(runner, task, evaluation, loggers, overview, keeper or NothingKept(), judge, recorder)
    try:
        for stop in stops(total_steps, task.num_envs, row_every, evaluation.every_steps, loop.keeper.every_steps):
            if stop.iteration >= runner.iteration and any(loop.judge.going):
                loop.reach(stop, stop.iteration * task.num_envs >= total_steps)
        loop.keeper.at_end(loop.position)
    except Interrupted:
        loop.keeper.at_end(loop.position)
        raise
    finally:
        loop.evaluator.close()
    return list(loop.finals)


def stops(
    total_steps: int, num_envs: int, row_every: int, evaluate_every: int | None, save_every: int | None = None
) -> Iterator[Stop]:
    """Every place to stop, in order; the last is the end of training, with a row and an evaluation."""
    last = -(-total_steps // num_envs)
    rows = _multiples(row_every, num_envs, last)
    evaluations = _multiples(evaluate_every, num_envs, last) if evaluate_every else {last}
    saves = _multiples(save_every, num_envs, last) - {last} if save_every else set()
    for iteration in sorted(rows | evaluations | saves):
        yield Stop(iteration, iteration in rows, iteration in evaluations, iteration in saves)


def _multiples(every: int, num_envs: int, last: int) -> set[int]:
    """The first iterations at or after each multiple of `every` transitions, and the last one."""
    return {-(-step // num_envs) for step in range(every, last * num_envs, every)} | {last}


class _Loop:
    """The loop between two stops. position: what has been told so far; finals: the newest evaluations."""

    def __init__(
        self,
        runner: Any,
        task: Task,
        evaluation: EvalSettings,
        loggers: Sequence[Logger],
        overview: Logger | None,
        keeper: Keeper,
        judge: Judge | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._runner, self._task, self._evaluation = runner, task, evaluation
        self._loggers, self._overview, self._recorder = loggers, overview, recorder
        self.keeper, self.position, self.finals = keeper, keeper.begin, list(keeper.finals)
        self.judge = judge or AllGoOn([True] * len(runner.members))
        self.evaluator = Evaluator(task, runner.members, evaluation.video_every is not None, evaluation.workers)
        self._pace = _Pace(len(runner.members) * task.num_envs)
        self._soundness = keeper.soundness or Soundness(runner)

    def reach(self, stop: Stop, final: bool) -> None:
        """Trains up to a stop, and does there what has not been done before."""
        self._advance(stop.iteration)
        step = stop.iteration * self._task.num_envs
        evaluations: list[Evaluation] = []
        if stop.row and self.position.row < stop.iteration:
            self._soundness.check(step)
            rows, going = self._runner.rows(), self.judge.going
            _tell_rows(rows, going, step, self._pace.speed(), self._loggers, self._overview)
            self.position = self.position._replace(row=stop.iteration, fresh=True)
        if stop.evaluate and self.position.evaluation < stop.iteration:
            going = list(self.judge.going)
            evaluations = self._evaluated(step, final, going)
            before = self.finals or [UNSEEN] * len(going)
            evaluations = self.finals = [new if on else old for on, new, old in zip(going, evaluations, before)]
            if self._recorder is not None and self._evaluation.shows(step, final):
                self._recorder.record(step, self.evaluator.firsts, going)
            _tell_evaluations(evaluations, going, step, self._loggers, self._overview)
            self.judge.at_evaluation(step, evaluations)
            if not final and hasattr(self._runner, "evaluated"):
                for row in self._runner.evaluated(step, [each.mean for each in evaluations]):
                    self._loggers[0].lineage(row) if self._loggers else None
            self.position = self.position._replace(evaluation=stop.iteration)
        self.keeper.at_stop(self.position, stop, evaluations)
        self._pace.pause()

    def _advance(self, until: int) -> None:
        """Runs to an iteration in calls of about a second."""
        if len(self._runner.members) > 1:
            self._runner.only(self.judge.going)
        while self._runner.iteration < until:
            iterations = self._iterations(until)
            self._runner.advance(iterations, self.position.fresh)
            self._pace.took(iterations)
            self.position = self.position._replace(fresh=False)
            self.keeper.check()
            if self.keeper.between_calls(self.position):
                self._pace.pause()

    def _iterations(self, until: int) -> int:
        """How many the next call runs; none runs into learning from the silent ones before it."""
        left, silent = until - self._runner.iteration, self._runner.silent - self._runner.iteration
        if silent == 0:
            self._pace.begin_anew()
        some = min(left, silent if silent > 0 else left, self._pace.iterations(LONGEST_CALL_S))
        return min(some, self.keeper.iterations() or some)

    def _evaluated(self, step: int, final: bool, going: Sequence[bool]) -> list[Evaluation]:
        episodes = self._evaluation.final_episodes if final else self._evaluation.episodes

        def policy(obs: np.ndarray) -> np.ndarray:
            self.keeper.check()
            return self._runner.policy(obs)

        try:
            return self.evaluator.run(policy, episodes, step, going)
        except RunError as error:
            raise RunError(f"in the evaluation at step {step}, {error}") from (error.__cause__ or error)


def _tell_rows(
    rows: list[dict],
    going: Sequence[bool],
    step: int,
    speed: float,
    loggers: Sequence[Logger],
    overview: Logger | None,
) -> None:
    timing = {"speed/steps_per_second": speed}
    for logger, row, on in zip(loggers, rows, going):
        if on:
            logger.metrics({"step": step} | row | timing)
    if overview is not None:
        heard = [row for row, on in zip(rows, going) if on]
        means = {name: float(np.mean([row[name] for row in heard])) for name in rows[0]}
        overview.metrics({"step": step} | means | timing)


def _tell_evaluations(
    evaluations: list[Evaluation],
    going: Sequence[bool],
    step: int,
    loggers: Sequence[Logger],
    overview: Logger | None,
) -> None:
    for logger, each, on in zip(loggers, evaluations, going):
        if on:
            logger.evaluation({"step": step} | each._asdict())
    if overview is not None:
        heard = [each for each, on in zip(evaluations, going) if on]
        overview.evaluation({"step": step, "returns": [value for each in heard for value in each.returns]})


class _Pace:
    """How fast training is going, evaluation and the first call's compilation apart."""

    def __init__(self, transitions: int) -> None:
        self._transitions = transitions  # of one iteration, all members together
        self._recent = 0.0  # iterations per second
        self._longest = _FIRST_CALL
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
        self._longest = max(self._longest, _GROWTH * iterations)
        self._iterations += iterations
        self._seconds += seconds

    def pause(self) -> None:
        """What passed since the last call was no training."""
        self._since = time.perf_counter()

    def iterations(self, seconds: float) -> int:
        """About how many take that long; 1 for the first call, which compiles.

        Never many more than in the call before: a second of what went fast may be minutes of what follows.
        """
        if not self._compiled:
            return 1
        wanted = max(int(self._recent * seconds), 1) if self._recent else _FIRST_CALL
        return min(wanted, self._longest)

    def begin_anew(self) -> None:
        """What follows is of another kind: short calls at first."""
        self._longest = _FIRST_CALL

    def speed(self) -> float:
        """Transitions per second since the last time it was asked, all members together."""
        speed = self._iterations * self._transitions / self._seconds if self._seconds else float("nan")
        self._iterations, self._seconds = 0, 0.0
        return speed
