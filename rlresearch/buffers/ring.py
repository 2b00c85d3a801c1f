"""A ring of transitions on which replays are built: rows in the order they came, the oldest overwritten."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import tensorflow as tf

from rlresearch import ops
from rlresearch.types import Batch, Progress, Transition, Tree
from rlresearch.xla import fence


class Rows(NamedTuple):
    """A ring of rows in the order they came, `num_envs` at a time.

    columns: by dtype, one array [capacity, width] with a row's numbers side by side; added: int64
    scalar, rows ever added; stride: int64 scalar, `num_envs`, from a row to the same environment's next;
    row: one row of zeros, which says what the columns hold.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    stride: tf.Tensor
    row: Tree


def empty_rows(capacity: int, row: Transition, num_envs: int) -> Rows:
    """A ring of `capacity` rows shaped like `row`, with nothing in it."""
    laid = lay_out(tf.nest.map_structure(lambda leaf: leaf[None], row))
    empty = {dtype: tf.zeros((capacity, part.shape[1]), part.dtype) for dtype, part in laid.items()}
    return Rows(empty, tf.constant(0, tf.int64), tf.constant(num_envs, tf.int64), row)


def add_rows(state: Rows, rows: Transition, capacity: int) -> Rows:
    """The ring with N more rows, the oldest overwritten."""
    laid = lay_out(rows)
    count = next(iter(laid.values())).shape[0]
    places = next_places(state, count, capacity)[:, None]
    columns = {
        dtype: tf.tensor_scatter_nd_update(column, places, laid[dtype]) for dtype, column in state.columns.items()
    }
    return state._replace(columns=columns, added=state.added + count)


def next_places(state: Rows, count: int, capacity: int) -> tf.Tensor:
    """Where the next `count` rows go, int32[count] (the map's scatter takes no int64)."""
    return tf.cast((state.added + tf.range(count, dtype=tf.int64)) % capacity, tf.int32)


def drawn(state: Rows, places: tf.Tensor, capacity: int, n_step: int, gamma: Any, progress: Progress) -> Batch:
    """The batch that begins at `places` [B], each row of up to `n_step` steps."""
    first = tf.cast(places, tf.int32)
    if n_step == 1:
        batch = take_apart(_gathered(state, places, progress), state.row)
        ones = tf.ones(places.shape)
        return Batch(**batch._asdict(), steps=ones, weight=ones, place=first)
    # Rows are numbered by when they came: k steps later is k * stride rows later, while that has come.
    place = tf.cast(places, tf.int64)
    number = place + (state.added - 1 - place) // capacity * capacity  # the newest that lies in this place
    numbers = number[:, None] + state.stride * tf.range(n_step, dtype=tf.int64)
    stored = numbers < state.added
    window_places = tf.cast(tf.reshape(numbers % capacity, (-1,)), tf.int32)
    rows = take_apart(_gathered(state, window_places, progress), state.row)
    window = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (places.shape[0], n_step, *leaf.shape[1:])), rows)
    reward, steps = ops.n_step_return(window.reward, window.terminated, window.truncated, stored, gamma)
    last = tf.cast(steps, tf.int32) - 1
    at_last = lambda leaf: tf.gather(leaf, last, axis=1, batch_dims=1)  # noqa: E731
    return Batch(
        obs=window.obs[:, 0],
        action=window.action[:, 0],
        reward=reward,
        terminated=at_last(window.terminated),
        truncated=at_last(window.truncated),
        next_obs=at_last(window.next_obs),
        steps=steps,
        weight=tf.ones(places.shape),
        place=first,
    )


def _gathered(state: Rows, places: tf.Tensor, progress: Progress) -> dict[str, tf.Tensor]:
    gather = lambda column: tf.gather(column, places)  # noqa: E731
    return fence(lambda: {dtype: gather(column) for dtype, column in state.columns.items()}, progress.step)


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
