"""What a runner is: it advances one run, or many in one program, and says how often Python gets a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

from rlresearch.envs.replay import Finding
from rlresearch.runners.step import TrainState


class Runner(Protocol):
    """Drives the training step. The methods with a body are right for a runner of one member that inherits from this.

    members: the seeds that are trained, one a member. iteration: rounds of `num_envs` transitions so far, the same for
    all members. learning_start_iteration: the first iteration that may learn; no call of `advance` goes from before it
    to beyond it. replacements: how often members' replay was replaced by that of others, or changed in place.
    fresh_episodes: whether a restored run begins new episodes, in place of coming back into those that ran; `restore`
    is followed by `begin_episodes` then.
    """

    members: Sequence[int]
    iteration: int
    learning_start_iteration: int
    replacements: int = 0
    fresh_episodes: bool = False

    @property
    def resumable_here(self) -> bool:
        """Whether `state` and `extra_state` lead back to exactly this place."""
        return True

    @property
    def resumable_soon(self) -> bool:
        """Whether, where that is not so here, it will be at the end of an episode that is worth waiting for."""
        return True

    @property
    def finding(self) -> Finding | None:
        """Why the run may not come out the same when it is repeated or resumed, as far as that has shown."""
        return None

    def advance(self, iterations: int, reset_metrics: bool) -> None:
        """Runs that many iterations of the active members. reset_metrics: first, the sums behind `metrics`."""
        ...

    def metrics(self) -> list[dict[str, float]]:
        """The metrics since they were reset, by name, one dictionary a member."""
        ...

    def policy(self, obs: np.ndarray) -> np.ndarray:
        """Deterministic actions [M, n, ...] for observations [M, n, ...] of M members."""
        ...

    def state(self) -> TrainState:
        """The state as it is now; of several members every leaf has a leading axis [M]."""
        ...

    def state_unordered(self) -> TrainState:
        """As `state`, but members may stand in any order, and those that have ended may be computed on."""
        return self.state()

    def extra_state(self) -> dict[str, np.ndarray]:
        """Arrays by name that `restore` needs beside the state."""
        return {}

    def restore(self, iteration: int, state: TrainState, extra_state: Mapping[str, np.ndarray]) -> None:
        """Goes on from a saved state of the same shapes, before that iteration.

        Errors: RunError where that place cannot be reached.
        """
        ...

    def without_environments(self) -> AbstractContextManager[None]:
        """Within it the environments that are trained in are closed; after it they are back where they were."""
        return nullcontext()

    def begin_episodes(self) -> bool:
        """Leaves the episodes of a restored state unfinished and begins others; returns whether any was left."""
        return False

    def set_active(self, active: Sequence[bool]) -> None:
        """From now on members that are not active stand still. The only member of a run is always active."""
        return None

    def after_evaluation(self, step: int, scores: Sequence[float]) -> list[dict[str, Any]]:
        """Hears of every evaluation but the last, one score a member; returns rows about members that were replaced."""
        return []

    def close(self) -> None:
        """Releases environments and threads; may be called again."""
        return None
