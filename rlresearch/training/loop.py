"""Drives a runner from its current iteration to the final evaluation, and calls the callbacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation, Evaluator
from rlresearch.runners.runner import Runner
from rlresearch.runtime.signals import Interrupted
from rlresearch.training.callbacks import Callback, EvaluationResult, LoopPosition, Members, Milestone
from rlresearch.training.finite_check import FiniteCheck
from rlresearch.training.pace import Pace
from rlresearch.training.settings import EvalSettings

SPEED_METRICS = {
    "speed/steps_per_second": "without compilation and evaluation, all members together, in transitions a second",
}
LONGEST_CALL_S = 1.0  # so that signals get an answer soon; results do not depend on the length of calls


class LoopSettings(NamedTuple):
    """total_steps, row_every, save_every: in transitions per member. save_every: None for no planned checkpoints."""

    total_steps: int
    row_every: int = 1_000
    evaluation: EvalSettings = EvalSettings()
    save_every: int | None = None


class LoopStart(NamedTuple):
    """The start of a loop: for a resumed run, the position of its checkpoint and the evaluations before it."""

    position: LoopPosition = LoopPosition()
    evaluations: Sequence[Evaluation] = ()


def train(
    runner: Runner,
    task: Task,
    total_steps: int,
    evaluation: EvalSettings = EvalSettings(),
    callbacks: Sequence[Callback] = (),
) -> list[Evaluation]:
    """Trains up to `total_steps` transitions per member; returns the final evaluation of each member.

    A runner that was trained before goes on. What was told of the place where it stands is not told again; a runner
    that has these steps behind it is only evaluated. Errors: RunError where an environment or the disk fails, or a
    parameter becomes NaN or infinite.
    """
    reached = runner.iteration
    behind = reached * task.num_envs
    settings = LoopSettings(max(total_steps, behind), evaluation=evaluation)
    evaluated = reached if behind < total_steps else -1  # without more to come there is still an evaluation to return
    start = LoopStart(LoopPosition(row=reached, evaluation=evaluated) if reached else LoopPosition())
    return TrainingLoop(runner, task, settings, [FiniteCheck(runner), *callbacks], start=start).run()


class TrainingLoop:
    """The loop over milestones.

    position: the last row and evaluation that the callbacks got. evaluations: the newest ones, one per member.
    callbacks: called in this order.
    """

    def __init__(
        self,
        runner: Runner,
        task: Task,
        settings: LoopSettings,
        callbacks: Sequence[Callback] = (),
        members: Members | None = None,
        start: LoopStart = LoopStart(),
    ) -> None:
        self.runner, self.task, self._settings, self.callbacks = runner, task, settings, list(callbacks)
        self._members = members or Members(len(runner.members))
        self.position, self.evaluations = start.position, list(start.evaluations)
        evaluation = settings.evaluation
        shown, limits = evaluation.video_every is not None, (evaluation.copies, evaluation.max_episode_steps)
        self._evaluator = Evaluator(task, runner.members, shown, evaluation.workers, *limits)
        self._pace = Pace(len(runner.members) * task.num_envs)
        # Whether environments for evaluation can be there beside those that are trained in.
        self._both = True
        self._advancing = False

    def run(self) -> list[Evaluation]:
        """Trains to the end; returns the final evaluation of each member. Errors: Interrupted, from a callback.

        What was trained is saved also where an evaluation or a callback fails.
        """
        try:
            evaluation = self._settings.evaluation
            self._both = self._evaluator.prepare(max(evaluation.episodes, evaluation.final_episodes))
            for milestone in milestones(self._settings, self.task.num_envs):
                if milestone.iteration >= self.runner.iteration and any(self._members.active):
                    self._reach(milestone)
            self._end()
        except Interrupted:
            self._end()
            raise
        except Exception as error:
            # In a compiled call anything may have gone half way; an environment fails before it.
            if not self._advancing or isinstance(error, RunError):
                for each in self.callbacks:
                    each.on_failure(self.position)
            raise
        finally:
            self._evaluator.close()
        return list(self.evaluations)

    def advance(self, until: int) -> None:
        """Trains up to the iteration `until`, in calls of about a second."""
        self.runner.set_active(self._members.active)
        while self.runner.iteration < until:
            iterations = self._iterations(until)
            self._advancing = True
            self.runner.advance(iterations, self.position.fresh)
            self._advancing = False
            self._pace.took(iterations)
            self.position = self.position._replace(fresh=False)
            self.poll()
            if any([each.after_call(self.position) for each in self.callbacks]):
                self._pace.pause()

    def _reach(self, milestone: Milestone) -> None:
        """Trains up to a milestone, and does its row and its evaluation, unless they were done before a resume."""
        self.advance(milestone.iteration)
        step = milestone.iteration * self.task.num_envs
        evaluations: list[Evaluation] = []
        if milestone.row and self.position.row < milestone.iteration:
            self._tell_rows(step)
            self.position = self.position._replace(row=milestone.iteration, fresh=True)
        if milestone.evaluate and self.position.evaluation < milestone.iteration:
            evaluations = self._evaluate(step)
            self.position = self.position._replace(evaluation=milestone.iteration)
        for each in self.callbacks:
            each.at_milestone(self.position, milestone, evaluations)
        self._pace.pause()

    def _iterations(self, until: int) -> int:
        """Returns the number of iterations of the next call; a call ends where learning starts."""
        left = until - self.runner.iteration
        before_learning = self.runner.learning_start_iteration - self.runner.iteration
        if before_learning == 0:
            self._pace.reset()
        limits = [left, before_learning if before_learning > 0 else left, self._pace.iterations(LONGEST_CALL_S)]
        return min(limits + [limit for each in self.callbacks if (limit := each.longest_call()) is not None])

    def _tell_rows(self, step: int) -> None:
        speed = {"speed/steps_per_second": self._pace.speed()}
        rows = [{"step": step} | row | speed for row in self.runner.metrics()]
        for each in self.callbacks:
            each.on_rows(step, rows)

    def _evaluate(self, step: int) -> list[Evaluation]:
        final, active = step >= self._settings.total_steps, self._members.active
        if final:
            for each in self.callbacks:
                each.before_last_evaluation(self.position)
        before = self.evaluations or [UNSEEN] * len(active)
        made = self._run_episodes(step, final, active)
        self.evaluations = [new if on else old for on, new, old in zip(active, made, before, strict=True)]
        result = EvaluationResult(step, self.evaluations, active, self._evaluator.firsts, final)
        for each in self.callbacks:
            each.on_evaluation(result)
        return self.evaluations

    def _run_episodes(self, step: int, final: bool, active: Sequence[bool]) -> list[Evaluation]:
        settings = self._settings.evaluation

        def policy(obs: np.ndarray) -> np.ndarray:
            self.poll()
            return self.runner.policy(obs)

        episodes = settings.final_episodes if final else settings.episodes
        try:
            if self._both:
                return self._evaluator.run(policy, episodes, step, active)
            with self.runner.without_environments(), contextlib.closing(self._evaluator):
                return self._evaluator.run(policy, episodes, step, active)
        except (RunError, ConfigError) as error:
            raise RunError(f"in the evaluation at step {step}, {error}") from (error.__cause__ or error)

    def poll(self) -> None:
        """Calls `poll` of every callback, which may end training."""
        for each in self.callbacks:
            each.poll()

    def _end(self) -> None:
        for each in self.callbacks:
            each.on_end(self.position)


def milestones(settings: LoopSettings, num_envs: int) -> Iterator[Milestone]:
    """Yields all milestones in order; the last one is the end of training, with a row and an evaluation."""
    last = -(-settings.total_steps // num_envs)
    evaluate_every, save_every = settings.evaluation.every_steps, settings.save_every
    rows = _multiples(settings.row_every, num_envs, last)
    evaluations = _multiples(evaluate_every, num_envs, last) if evaluate_every else {last}
    saves = _multiples(save_every, num_envs, last) - {last} if save_every else set()
    for iteration in sorted(rows | evaluations | saves):
        yield Milestone(iteration, iteration in rows, iteration in evaluations, iteration in saves)


def _multiples(every: int, num_envs: int, last: int) -> set[int]:
    """The first iterations at or after each multiple of `every` transitions, and the last one."""
    return {-(-step // num_envs) for step in range(every, last * num_envs, every)} | {last}
