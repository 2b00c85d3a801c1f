"""All that happened since the last update, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch.buffers.ring import lay_out, take_apart
from rlresearch.types import Batch, BufferBytes, Key, Progress, Transition, Tree


class Steps(NamedTuple):
    """A rollout as it grows. columns: by dtype, one array [T, N * width] with all of a step's numbers side by
    side; added: int64 scalar, steps ever added; row: one row of zeros, which says what the columns hold.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    row: Tree


@dataclass(frozen=True)
class Rollout:
    """All that happened since the last update, in order, to be learned from once.

    batch_size: the algorithm's, T steps of N environments; `plan` passes it on.
    """

    batch_size: Annotated[int, at.Gt(0)]

    OFFERS: ClassVar[str] = "rollouts"

    @property
    def capacity(self) -> int:
        """Exactly one rollout."""
        return self.batch_size

    def init(self, row: Transition, num_envs: int) -> Steps:
        laid = lay_out(tf.nest.map_structure(lambda leaf: leaf[None], row))
        shape = lambda part: (self.batch_size // num_envs, num_envs * part.shape[1])  # noqa: E731
        empty = {dtype: tf.zeros(shape(part), part.dtype) for dtype, part in laid.items()}
        return Steps(empty, tf.constant(0, tf.int64), row)

    def add(self, state: Steps, rows: Transition) -> Steps:
        laid = lay_out(rows)
        length = next(iter(state.columns.values())).shape[0]
        place = tf.reshape(tf.cast(state.added % length, tf.int32), (1, 1))
        columns = {
            dtype: tf.tensor_scatter_nd_update(column, place, tf.reshape(laid[dtype], (1, -1)))
            for dtype, column in state.columns.items()
        }
        return state._replace(columns=columns, added=state.added + 1)

    def sample(self, state: Steps, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """[T, N, ...], the oldest step first. Asked for when whole rollouts were added, it starts in place 0."""
        by_row = {dtype: tf.reshape(column, (batch_size, -1)) for dtype, column in state.columns.items()}
        rows = take_apart(by_row, state.row)
        length = next(iter(state.columns.values())).shape[0]
        shape = (length, batch_size // length)
        rows = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (*shape, *leaf.shape[1:])), rows)
        place = tf.reshape(tf.range(batch_size), shape)
        return Batch(**rows._asdict(), steps=tf.ones(shape), weight=tf.ones(shape), place=place)

    def nbytes(self, row_bytes: int) -> BufferBytes:
        return BufferBytes()  # nothing beside a replay

    def learned(self, state: Steps, batch: Batch, priority: tf.Tensor | None) -> Steps:
        return state
