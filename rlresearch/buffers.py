"""Experience replay: `init(row)`, `add(state, rows)`, `sample(state, key, batch_size, progress)`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.fence import fence
from rlresearch.types import Key, Progress, Tree


class UniformState(NamedTuple):
    """columns: by dtype, one array [capacity, width] with a row's numbers side by side; added: int64
    scalar, rows ever added; row: one row of zeros, which says what the columns hold.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    row: Tree


@dataclass(frozen=True)
class Uniform:
    """A ring of the newest `capacity` transitions, drawn uniformly with replacement (Lin 1992)."""

    capacity: Annotated[int, at.Gt(0)] = 100_000

    def init(self, row: Tree) -> UniformState:
        laid = lay_out(tf.nest.map_structure(lambda leaf: leaf[None], row))
        empty = {dtype: tf.zeros((self.capacity, part.shape[1]), part.dtype) for dtype, part in laid.items()}
        return UniformState(empty, tf.constant(0, tf.int64), row)

    def add(self, state: UniformState, rows: Tree) -> UniformState:
        laid = lay_out(rows)
        count = next(iter(laid.values())).shape[0]
        places = (state.added + tf.range(count, dtype=tf.int64)) % self.capacity
        places = tf.cast(places, tf.int32)[:, None]  # the map's scatter takes no int64
        columns = {
            dtype: tf.tensor_scatter_nd_update(column, places, laid[dtype]) for dtype, column in state.columns.items()
        }
        return UniformState(columns, state.added + count, state.row)

    def sample(self, state: UniformState, key: Key, batch_size: int, progress: Progress) -> Tree:
        size = tf.minimum(state.added, self.capacity)
        places = rng.randint(key, (batch_size,), size)
        gather = lambda column: tf.gather(column, places)  # noqa: E731
        laid = fence(lambda: {dtype: gather(column) for dtype, column in state.columns.items()}, progress.step)
        return take_apart(laid, state.row)


def lay_out(rows: Tree) -> dict[str, tf.Tensor]:
    """Rows [B, ...] as one array [B, width] for each dtype: one write and one read instead of one a field."""
    parts: dict[str, list[tf.Tensor]] = {}
    for leaf in tf.nest.flatten(rows):
        parts.setdefault(leaf.dtype.name, []).append(tf.reshape(leaf, (leaf.shape[0], -1)))
    return {dtype: tf.concat(each, axis=1) for dtype, each in parts.items()}


def take_apart(laid: dict[str, tf.Tensor], row: Tree) -> Tree:
    """The inverse of `lay_out`: rows [B, ...] in the structure of `row`, which has no leading axis."""
    used = dict.fromkeys(laid, 0)
    leaves = []
    for leaf in tf.nest.flatten(row):
        dtype, width = leaf.dtype.name, math.prod(leaf.shape)
        part = laid[dtype][:, used[dtype] : used[dtype] + width]
        leaves.append(tf.reshape(part, (part.shape[0], *leaf.shape)))
        used[dtype] += width
    return tf.nest.pack_sequence_as(row, leaves)
