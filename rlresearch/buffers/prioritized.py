"""Prioritized replay (Schaul et al. 2016)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.buffer_contract import BufferBytes, GrowingRows
from rlresearch.buffers import sum_tree
from rlresearch.buffers.ring import RingState, add_rows, empty_ring, gather_batch, next_indices, unchanged
from rlresearch.ranges import Fraction, PositiveFloat, PositiveInt
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Batch, Key, Progress, Transition

_PRIORITY_BYTES = 8  # a float64 in the sum tree, whose inner nodes are few


class PrioritizedState(NamedTuple):
    """A ring and the priorities of its rows. Field names are the checkpoint format.

    tree: float64[nodes], a `sum_tree` of every row's priority ** alpha, 0 where no row is stored. largest: float64
    scalar, the largest priority ** alpha that any row ever had.
    """

    rows: RingState
    tree: tf.Tensor
    largest: tf.Tensor


@dataclass(frozen=True)
class Prioritized:
    """As `Uniform`, but a row is sampled with a probability in proportion to (|TD error| + eps) ** alpha.

    The proportional variant of Schaul et al. 2016, https://arxiv.org/abs/1511.05952, Algorithm 1, with one sample
    from each of `batch_size` equal parts of the sum (their section 3.3). A new row gets the largest priority so
    far. beta: exponent of the importance weights (1 / (stored rows * probability)) ** beta; `schedule` multiplies it,
    up to 1. Weights are divided by the largest of their batch: Algorithm 1 does not say by which maximum.
    """

    capacity: PositiveInt = 100_000
    n_step: PositiveInt = 1
    alpha: Fraction = 0.6
    beta: Fraction = 1.0
    eps: PositiveFloat = 1e-6
    schedule: Schedule = field(default_factory=Constant)

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> PrioritizedState:
        """The empty ring, for rows shaped like `row` (no leading axis), added N = `num_envs` at a time."""
        rows = empty_ring(self.capacity, row, num_envs)
        return PrioritizedState(rows, sum_tree.empty(self.capacity), tf.ones((), tf.float64))

    def add(self, state: PrioritizedState, rows: Transition) -> PrioritizedState:
        """The ring with the rows [N, ...] added, with the largest priority so far."""
        indices = next_indices(state.rows, rows.reward.shape[0], self.capacity)
        new = tf.repeat(state.largest[None], rows.reward.shape[0], axis=0)
        tree = sum_tree.update(state.tree, indices, new, self.capacity)
        return state._replace(rows=add_rows(state.rows, rows, self.capacity), tree=tree)

    def sample(
        self,
        state: PrioritizedState,
        key: Key,
        batch_size: int,
        gamma: Any,
        progress: Progress,
        rewards: Callable[[tf.Tensor], tf.Tensor] = unchanged,
    ) -> Batch:
        """A batch [B, ...] of B = `batch_size` rows with weights. rewards: maps each reward before a sum."""
        stored = tf.minimum(state.rows.added, self.capacity)
        total = sum_tree.total(state.tree)
        fine, coarse = tf.unstack(tf.cast(rng.uniform(key, (2, batch_size)), tf.float64))
        within = coarse + fine * 2.0**-24  # 48 random bits: 24 cannot tell a million rows apart
        heights = (tf.range(batch_size, dtype=tf.float64) + within) / batch_size * total
        indices = sum_tree.search(state.tree, heights, self.capacity)
        probability = sum_tree.get(state.tree, indices, self.capacity) / total
        exponent = tf.minimum(self.beta * self.schedule(progress), 1.0)
        weight = tf.pow(tf.cast(stored, tf.float64) * probability, -tf.cast(exponent, tf.float64))
        weight = tf.cast(weight / tf.reduce_max(weight), tf.float32)
        batch = gather_batch(state.rows, indices, self.capacity, self.n_step, gamma, progress, rewards)
        return batch._replace(weight=weight)

    def append_only(self, state: PrioritizedState) -> dict[str, GrowingRows]:
        """The rows [capacity, width], without their priorities."""
        return {"rows": GrowingRows(state.rows.columns, state.rows.added)}

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """The bytes of `capacity` rows and of their priorities, which change anywhere."""
        return BufferBytes(growing=self.capacity * row_bytes, rewritten=self.capacity * _PRIORITY_BYTES)

    def update_priorities(self, state: PrioritizedState, batch: Batch, priority: tf.Tensor | None) -> PrioritizedState:
        """The ring with the priorities |`priority`| + eps, float32[B], of the batch's rows.

        Raises TypeError if `priority` is None.
        """
        if priority is None:
            raise TypeError("a prioritized replay draws by what the algorithm's update returns, which is None.")
        size = tf.pow(tf.cast(tf.abs(priority), tf.float64) + self.eps, tf.cast(self.alpha, tf.float64))
        tree = sum_tree.update(state.tree, batch.indices, size, self.capacity)
        return state._replace(tree=tree, largest=tf.maximum(state.largest, tf.reduce_max(size)))
