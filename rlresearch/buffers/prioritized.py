"""Prioritized replay (Schaul et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.buffers import sum_tree
from rlresearch.buffers.ring import Rows, add_rows, drawn, empty_rows, next_places
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Batch, BufferBytes, GrowingRows, Key, Progress, Transition

_PRIORITY_BYTES = 8  # a float64 in the sum tree, whose inner nodes are few


class PrioritizedRows(NamedTuple):
    """tree: a `sum_tree` of every row's priority to the power of alpha, 0 where nothing is stored yet;
    largest: float64 scalar, the largest such number that any row was ever given.
    """

    rows: Rows
    tree: tf.Tensor
    largest: tf.Tensor


@dataclass(frozen=True)
class Prioritized:
    """As `Uniform`, but rows are drawn in proportion to (how wrong they were + eps) to the power of alpha.

    Schaul et al. 2016, https://arxiv.org/abs/1511.05952, the proportional variant of Algorithm 1, one draw
    from each of `batch_size` equal parts of the sum (their section 3.3). A new row gets the largest priority that
    any had so far. beta: exponent of the importance weights (1 / (stored rows * probability)) ** beta, multiplied by
    `schedule`, at most 1; weights are divided by the largest of their batch (Algorithm 1 leaves open of what).
    """

    capacity: Annotated[int, at.Gt(0)] = 100_000
    n_step: Annotated[int, at.Gt(0)] = 1
    alpha: Annotated[float, at.Interval(ge=0, le=1)] = 0.6
    beta: Annotated[float, at.Interval(ge=0, le=1)] = 1.0
    eps: Annotated[float, at.Gt(0)] = 1e-6
    schedule: Schedule = field(default_factory=Constant)

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> PrioritizedRows:
        rows = empty_rows(self.capacity, row, num_envs)
        return PrioritizedRows(rows, sum_tree.empty(self.capacity), tf.ones((), tf.float64))

    def add(self, state: PrioritizedRows, rows: Transition) -> PrioritizedRows:
        places = next_places(state.rows, rows.reward.shape[0], self.capacity)
        new = tf.repeat(state.largest[None], rows.reward.shape[0], axis=0)
        tree = sum_tree.put(state.tree, places, new, self.capacity)
        return state._replace(rows=add_rows(state.rows, rows, self.capacity), tree=tree)

    def sample(self, state: PrioritizedRows, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        stored = tf.minimum(state.rows.added, self.capacity)
        total = sum_tree.total(state.tree)
        fine, coarse = tf.unstack(tf.cast(rng.uniform(key, (2, batch_size)), tf.float64))
        within = coarse + fine * 2.0**-24  # 48 random bits: 24 cannot tell a million rows apart
        heights = (tf.range(batch_size, dtype=tf.float64) + within) / batch_size * total
        places = sum_tree.find(state.tree, heights, self.capacity)
        probability = sum_tree.sizes_of(state.tree, places, self.capacity) / total
        exponent = tf.minimum(self.beta * self.schedule(progress), 1.0)
        weight = tf.pow(tf.cast(stored, tf.float64) * probability, -tf.cast(exponent, tf.float64))
        weight = tf.cast(weight / tf.reduce_max(weight), tf.float32)
        return drawn(state.rows, places, self.capacity, self.n_step, gamma, progress)._replace(weight=weight)

    def append_only(self, state: PrioritizedRows) -> dict[str, GrowingRows]:
        return {"rows": GrowingRows(state.rows.columns, state.rows.added)}

    def nbytes(self, row_bytes: int) -> BufferBytes:
        return BufferBytes(growing=self.capacity * row_bytes, rewritten=self.capacity * _PRIORITY_BYTES)

    def learned(self, state: PrioritizedRows, batch: Batch, priority: tf.Tensor | None) -> PrioritizedRows:
        if priority is None:
            raise TypeError("a prioritized replay draws by what the algorithm's update returns, which is None.")
        size = tf.pow(tf.cast(tf.abs(priority), tf.float64) + self.eps, tf.cast(self.alpha, tf.float64))
        tree = sum_tree.put(state.tree, batch.place, size, self.capacity)
        return state._replace(tree=tree, largest=tf.maximum(state.largest, tf.reduce_max(size)))
