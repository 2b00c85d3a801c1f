"""Experience replay: `init(row)`, `add(state, rows)`, `sample(state, key, batch_size, progress)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.fence import fence
from rlresearch.types import Key, Progress, Tree


class UniformState(NamedTuple):
    """rows: the stored tree, leading axis `capacity`; added: int64 scalar, rows ever added."""

    rows: Tree
    added: tf.Tensor


@dataclass(frozen=True)
class Uniform:
    """A ring of the newest `capacity` transitions, drawn uniformly with replacement (Lin 1992)."""

    capacity: Annotated[int, at.Gt(0)] = 100_000

    def init(self, row: Tree) -> UniformState:
        empty = tf.nest.map_structure(lambda leaf: tf.zeros((self.capacity, *leaf.shape), leaf.dtype), row)
        return UniformState(empty, tf.constant(0, tf.int64))

    def add(self, state: UniformState, rows: Tree) -> UniformState:
        count = tf.nest.flatten(rows)[0].shape[0]
        places = (state.added + tf.range(count, dtype=tf.int64)) % self.capacity
        places = tf.cast(places, tf.int32)  # the map's scatter takes no int64
        stored = tf.nest.map_structure(
            lambda store, new: tf.tensor_scatter_nd_update(store, places[:, None], new), state.rows, rows
        )
        return UniformState(stored, state.added + count)

    def sample(self, state: UniformState, key: Key, batch_size: int, progress: Progress) -> Tree:
        size = tf.minimum(state.added, self.capacity)
        places = rng.randint(key, (batch_size,), size)
        gather = lambda store: tf.gather(store, places)  # noqa: E731
        return fence(lambda: tf.nest.map_structure(gather, state.rows), progress.step)
