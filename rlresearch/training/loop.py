"""Drives a runner from where it stands to its final evaluation, and tells the loggers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation, Evaluator
from rlresearch.evaluation.video import Recorder
from rlresearch.loggers.base import Logger
from rlresearch.runtime.signals import Interrupted
from rlresearch.training.callbacks import AllGoOn, Judge, Keeper, NothingKept, Stop
from rlresearch.training.finite_check import Soundness
from rlresearch.training.pace import Pace
from rlresearch.training.settings import EvalSettings

SPEED_METRICS = {
    "speed/steps_per_second": "without compilation and evaluation, all members together, in transitions a second",
}
LONGEST_CALL_S = 1.0  # so that signals are heard; results do not depend on where calls end


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
        self._pace = Pace(len(runner.members) * task.num_envs)
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
