"""What hears of a run while it trains, and may end it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from rlresearch.evaluation.evaluator import Evaluation
from rlresearch.training.finite_check import Soundness


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
