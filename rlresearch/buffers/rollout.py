"""Rollouts: all steps since the last update, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from rlresearch.buffer_contract import BufferBytes
from rlresearch.buffers.packing import ended, pack, unpack
from rlresearch.ranges import PositiveInt
from rlresearch.types import Batch, Key, Progress, Transition, Tree


class RolloutState(NamedTuple):
    """A growing rollout of T steps of N environments. Field names are the checkpoint format.

    columns: for each dtype one array [T, N * width], a step's numbers of this dtype side by side. added: int64
    scalar, steps ever added. row: one row of zeros, whose structure the columns have.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    row: Tree


@dataclass(frozen=True)
class Rollout:
    """All steps since the last update, in order, to learn from once.

    batch_size: T * N, the algorithm's batch size; `training/experiment.py` passes it on.
    """

    batch_size: PositiveInt

    OFFERS: ClassVar[str] = "rollouts"

    @property
    def capacity(self) -> int:
        """The rows of one rollout."""
        return self.batch_size

    def init(self, row: Transition, num_envs: int) -> RolloutState:
        """The empty rollout, for rows shaped like `row` (no leading axis), added N = `num_envs` at a time."""
        packed = pack(tf.nest.map_structure(lambda leaf: leaf[None], row))
        shape = lambda part: (self.batch_size // num_envs, num_envs * part.shape[1])  # noqa: E731
        empty = {dtype: tf.zeros(shape(part), part.dtype) for dtype, part in packed.items()}
        return RolloutState(empty, tf.constant(0, tf.int64), row)

    def add(self, state: RolloutState, rows: Transition) -> RolloutState:
        """The rollout with one more step, the rows [N, ...]."""
        packed = pack(rows)
        length = next(iter(state.columns.values())).shape[0]
        index = tf.reshape(tf.cast(state.added % length, tf.int32), (1, 1))
        columns = {
            dtype: tf.tensor_scatter_nd_update(column, index, tf.reshape(packed[dtype], (1, -1)))
            for dtype, column in state.columns.items()
        }
        return state._replace(columns=columns, added=state.added + 1)

    def sample(self, state: RolloutState, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """The whole rollout [T, N, ...], the oldest step first.

        Call it after a multiple of T steps: then the oldest step lies at index 0.
        """
        by_row = {dtype: tf.reshape(column, (batch_size, -1)) for dtype, column in state.columns.items()}
        rows = unpack(by_row, state.row)
        length = next(iter(state.columns.values())).shape[0]
        shape = (length, batch_size // length)
        rows = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (*shape, *leaf.shape[1:])), rows)
        indices = tf.reshape(tf.range(batch_size), shape)
        return Batch(**rows._asdict(), steps=tf.ones(shape), weight=tf.ones(shape), indices=indices)

    def end_episodes(self, state: RolloutState, which: tf.Tensor) -> RolloutState:
        """The rollout in whose newest step the rows of the environments `which` bool[N] are truncated ones."""
        length, count = next(iter(state.columns.values())).shape[0], which.shape[0]
        index = tf.reshape(tf.cast((state.added - 1) % length, tf.int32), (1, 1))
        newest = {name: tf.reshape(tf.gather_nd(each, index), (count, -1)) for name, each in state.columns.items()}
        packed = pack(ended(unpack(newest, state.row), tf.logical_and(which, state.added > 0)))
        columns = {
            dtype: tf.tensor_scatter_nd_update(column, index, tf.reshape(packed[dtype], (1, -1)))
            for dtype, column in state.columns.items()
        }
        return state._replace(columns=columns)

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """None that counts: it is no replay."""
        return BufferBytes()

    def update_priorities(self, state: RolloutState, batch: Batch, priority: tf.Tensor | None) -> RolloutState:
        """The rollout unchanged; `priority` float32[B] has no effect."""
        return state
