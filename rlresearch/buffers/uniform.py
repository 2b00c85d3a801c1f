"""Uniform replay of the newest transitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from rlresearch import rng
from rlresearch.buffer_contract import BufferBytes, GrowingRows
from rlresearch.buffers.ring import RingState, add_rows, empty_ring, gather_batch, unchanged
from rlresearch.ranges import PositiveInt
from rlresearch.types import Batch, Key, Progress, Transition


@dataclass(frozen=True)
class Uniform:
    """A ring of the newest `capacity` transitions, sampled uniformly with replacement (Lin 1992).

    n_step: the number of consecutive rewards that a sampled row sums up. It sums fewer where its episode ends
    before, or where the newest stored row does (Sutton & Barto, section 7.1).
    """

    capacity: PositiveInt = 100_000
    n_step: PositiveInt = 1

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> RingState:
        """The empty ring, for rows shaped like `row` (no leading axis), added N = `num_envs` at a time."""
        return empty_ring(self.capacity, row, num_envs)

    def add(self, state: RingState, rows: Transition) -> RingState:
        """The ring with the rows [N, ...] added."""
        return add_rows(state, rows, self.capacity)

    def sample(
        self,
        state: RingState,
        key: Key,
        batch_size: int,
        gamma: Any,
        progress: Progress,
        rewards: Callable[[tf.Tensor], tf.Tensor] = unchanged,
    ) -> Batch:
        """A batch [B, ...] of B = `batch_size` rows; its weights are 1. rewards: maps each reward before a sum."""
        indices = rng.randint(key, (batch_size,), tf.minimum(state.added, self.capacity))
        return gather_batch(state, indices, self.capacity, self.n_step, gamma, progress, rewards)

    def append_only(self, state: RingState) -> dict[str, GrowingRows]:
        """All rows [capacity, width]: they only grow."""
        return {"": GrowingRows(state.columns, state.added)}

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """The bytes of `capacity` rows."""
        return BufferBytes(growing=self.capacity * row_bytes)

    def update_priorities(self, state: RingState, batch: Batch, priority: tf.Tensor | None) -> RingState:
        """The ring unchanged; `priority` float32[B] has no effect."""
        return state
