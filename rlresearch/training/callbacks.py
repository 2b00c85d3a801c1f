"""Callbacks: the loop calls them during training; they may change or end the run.

The loop calls them only between compiled calls, in the given order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlresearch.evaluation.evaluator import Episode, Evaluation


class Milestone(NamedTuple):
    """An iteration after which the loop returns to Python: to write a row, to evaluate, to save, or several of them."""

    iteration: int
    row: bool
    evaluate: bool
    save: bool = False


class LoopPosition(NamedTuple):
    """The position of the loop, in addition to the runner's iteration. Checkpoints store it under these names.

    fresh: whether the sums for the next row must still be reset. row, evaluation: the iterations of the last row and
    of the last evaluation, -1 before the first.
    """

    fresh: bool = True
    row: int = -1
    evaluation: int = -1


class EvaluationResult(NamedTuple):
    """The evaluations at a step, one per member; a member that has ended keeps its last one.

    active: whether each member was evaluated now. episodes: the first episode of each member, if videos are made.
    final: whether this is the last evaluation of the run.
    """

    step: int
    evaluations: Sequence[Evaluation]
    active: Sequence[bool]
    episodes: Sequence[Episode | None]
    final: bool


class Members:
    """The members of a run. ended: for each member the step at which it ended, None while it trains.

    A member that has ended is no longer logged or evaluated. When all have ended, training is over.
    """

    def __init__(self, count: int) -> None:
        self.ended: list[int | None] = [None] * count

    @property
    def active(self) -> list[bool]:
        """Returns for each member whether it still trains."""
        return [step is None for step in self.ended]

    def end(self, member: int, step: int) -> None:
        """Ends a member at a step."""
        self.ended[member] = step


class Callback:
    """Base class of callbacks. A callback overrides the methods that it needs; here they do nothing."""

    def poll(self) -> None:
        """Called many times a second, also while episodes are evaluated. May raise to end training."""

    def longest_call(self) -> int | None:
        """The most iterations that the next compiled call may have; None for any number."""
        return None

    def after_call(self, position: LoopPosition) -> bool:
        """Called after each compiled call. Returns whether it took time that is not training."""
        return False

    def on_rows(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Receives a row of metrics for each member, also for members that have ended."""

    def before_last_evaluation(self, position: LoopPosition) -> None:
        """Called once all training is over, before the evaluation that ends the run."""

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Receives the evaluations at a step, before the state of this step is saved."""

    def at_milestone(self, position: LoopPosition, milestone: Milestone, evaluations: Sequence[Evaluation]) -> None:
        """Called last at each milestone. evaluations: those made here, one a member; empty where none were."""

    def on_end(self, position: LoopPosition) -> None:
        """Called once training is over, also where it was interrupted."""

    def on_failure(self, position: LoopPosition) -> None:
        """Called where something failed that leaves the runner's state as it was. Must not raise an Exception."""


class SignalCheck(Callback):
    """Ends training after a signal to stop. check: a function that then raises Interrupted."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def poll(self) -> None:
        """Raises Interrupted where a signal came."""
        self._check()
