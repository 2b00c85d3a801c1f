"""What hears of a run while it trains, and may change or end it.

Callbacks are called between compiled calls only, in the order in which they were given.
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
    """Where the loop stands, beside the runner's iteration. Checkpoints hold it under these names.

    fresh: whether the sums behind the next row still have to be reset; row, evaluation: the iterations of the last row
    and the last evaluation, -1 before the first.
    """

    fresh: bool = True
    row: int = -1
    evaluation: int = -1


class EvaluationResult(NamedTuple):
    """The evaluations at a step, one a member: of members that had ended before, their last one.

    active: which members were evaluated now; episodes: the first episode of each, where videos are made of them;
    final: whether it is the last evaluation of the run.
    """

    step: int
    evaluations: Sequence[Evaluation]
    active: Sequence[bool]
    episodes: Sequence[Episode | None]
    final: bool


class Members:
    """Which members of a run still train. ended: the step at which each one ended, None while it trains.

    A member that has ended is neither logged nor evaluated any more. Once all have ended, training is over.
    """

    def __init__(self, count: int) -> None:
        self.ended: list[int | None] = [None] * count

    @property
    def active(self) -> list[bool]:
        """For each member whether it still trains."""
        return [step is None for step in self.ended]

    def end(self, member: int, step: int) -> None:
        """The member trains no more."""
        self.ended[member] = step


class Callback:
    """Hears of a run while it trains. A callback overrides the methods that it needs; here they do nothing."""

    def poll(self) -> None:
        """Called many times a second, also while episodes are evaluated. May raise to end training."""

    def longest_call(self) -> int | None:
        """The most iterations that the next compiled call may have; None for any number."""
        return None

    def after_call(self, position: LoopPosition) -> bool:
        """Called after each compiled call. Returns whether it took time that is not training."""
        return False

    def on_rows(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Hears of a row of metrics for each member, also of those that have ended."""

    def before_last_evaluation(self, position: LoopPosition) -> None:
        """Called once all training is over, before the evaluation that ends the run."""

    def on_evaluation(self, result: EvaluationResult) -> None:
        """Hears of the evaluations at a step, before the state there is saved."""

    def at_milestone(self, position: LoopPosition, milestone: Milestone, evaluations: Sequence[Evaluation]) -> None:
        """Called last at each milestone. evaluations: those made here, one a member; empty where none were."""

    def on_end(self, position: LoopPosition) -> None:
        """Called once training is over, also where it was interrupted."""

    def on_failure(self, position: LoopPosition) -> None:
        """Called where something failed that leaves the runner's state as it was. Must not raise an Exception."""


class SignalCheck(Callback):
    """Ends training where the process was told to stop. check: raises Interrupted then."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check

    def poll(self) -> None:
        self._check()
