"""The newest transitions, drawn uniformly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.buffers.ring import Rows, add_rows, drawn, empty_rows
from rlresearch.types import Batch, BufferBytes, GrowingRows, Key, Progress, Transition


@dataclass(frozen=True)
class Uniform:
    """A ring of the newest `capacity` transitions, drawn uniformly with replacement (Lin 1992).

    n_step: rewards that a drawn row adds up, fewer where its episode, or what is stored of it, ends
    before (Sutton & Barto, section 7.1).
    """

    capacity: Annotated[int, at.Gt(0)] = 100_000
    n_step: Annotated[int, at.Gt(0)] = 1

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> Rows:
        return empty_rows(self.capacity, row, num_envs)

    def add(self, state: Rows, rows: Transition) -> Rows:
        return add_rows(state, rows, self.capacity)

    def sample(self, state: Rows, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        places = rng.randint(key, (batch_size,), tf.minimum(state.added, self.capacity))
        return drawn(state, places, self.capacity, self.n_step, gamma, progress)

    def append_only(self, state: Rows) -> dict[str, GrowingRows]:
        return {"": GrowingRows(state.columns, state.added)}

    def nbytes(self, row_bytes: int) -> BufferBytes:
        return BufferBytes(growing=self.capacity * row_bytes)

    def learned(self, state: Rows, batch: Batch, priority: tf.Tensor | None) -> Rows:
        return state
