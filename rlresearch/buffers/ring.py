"""A ring of transitions, on which replays are built: rows in order of arrival, the oldest overwritten.

Shapes: B rows of a batch, N environments. A row's index is its position in the ring, 0 to capacity - 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from rlresearch import ops
from rlresearch.buffers.packing import ended, pack, unpack
from rlresearch.types import Batch, Progress, Transition, Tree
from rlresearch.xla import barrier


class RingState(NamedTuple):
    """Rows in order of arrival, N at a time. Field names are the checkpoint format.

    columns: for each dtype one array [capacity, width], a row's numbers of this dtype side by side. added: int64
    scalar, rows ever added. stride: int64 scalar, N: the distance from a row to the next of the same environment.
    row: one row of zeros, whose structure the columns have.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    stride: tf.Tensor
    row: Tree


def empty_ring(capacity: int, row: Transition, num_envs: int) -> RingState:
    """A ring for `capacity` rows shaped like `row` (no leading axis), without rows."""
    packed = pack(tf.nest.map_structure(lambda leaf: leaf[None], row))
    empty = {dtype: tf.zeros((capacity, part.shape[1]), part.dtype) for dtype, part in packed.items()}
    return RingState(empty, tf.constant(0, tf.int64), tf.constant(num_envs, tf.int64), row)


def add_rows(state: RingState, rows: Transition, capacity: int) -> RingState:
    """The ring with the rows [N, ...] added; they overwrite the oldest."""
    count = rows.reward.shape[0]
    return _overwrite(state, next_indices(state, count, capacity), rows)._replace(added=state.added + count)


def end_newest_rows(state: RingState, which: tf.Tensor, capacity: int) -> RingState:
    """The ring in which the newest N rows end their episodes where `which` bool[N] says so."""
    numbers = state.added - which.shape[0] + tf.range(which.shape[0], dtype=tf.int64)
    indices = tf.cast(numbers % capacity, tf.int32)
    rows = unpack({dtype: tf.gather(column, indices) for dtype, column in state.columns.items()}, state.row)
    return _overwrite(state, indices, ended(rows, tf.logical_and(which, numbers >= 0)))


def _overwrite(state: RingState, indices: tf.Tensor, rows: Transition) -> RingState:
    """The ring with `rows` [n, ...] in place of those at `indices` int32[n]."""
    packed = pack(rows)
    columns = {
        dtype: tf.tensor_scatter_nd_update(column, indices[:, None], packed[dtype])
        for dtype, column in state.columns.items()
    }
    return state._replace(columns=columns)


def next_indices(state: RingState, count: int, capacity: int) -> tf.Tensor:
    """The indices int32[count] of the next `count` rows. (A scatter inside a map takes no int64.)"""
    return tf.cast((state.added + tf.range(count, dtype=tf.int64)) % capacity, tf.int32)


def unchanged(reward: tf.Tensor) -> tf.Tensor:
    """The rewards as they are stored, of any shape."""
    return reward


def gather_batch(
    state: RingState,
    indices: tf.Tensor,
    capacity: int,
    n_step: int,
    gamma: Any,
    progress: Progress,
    rewards: Callable[[tf.Tensor], tf.Tensor] = unchanged,
) -> Batch:
    """The batch of B rows at `indices` (integers [B]), each with the rewards of up to `n_step` steps from there on.

    gamma: discount per step in these sums. rewards: maps each reward before it is summed.
    """
    first = tf.cast(indices, tf.int32)
    if n_step == 1:
        batch = unpack(_gather(state, indices, progress), state.row)
        ones = tf.ones(indices.shape)
        batch = batch._replace(reward=rewards(batch.reward))
        return Batch(**batch._asdict(), steps=ones, weight=ones, indices=first)
    # A row's number counts the rows added before it. k steps later is k * stride rows later, if already added.
    index = tf.cast(indices, tf.int64)
    number = index + (state.added - 1 - index) // capacity * capacity  # of the newest row at this index
    numbers = number[:, None] + state.stride * tf.range(n_step, dtype=tf.int64)
    stored = numbers < state.added
    window_indices = tf.cast(tf.reshape(numbers % capacity, (-1,)), tf.int32)
    rows = unpack(_gather(state, window_indices, progress), state.row)
    window = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (indices.shape[0], n_step, *leaf.shape[1:])), rows)
    reward, steps = ops.n_step_return(rewards(window.reward), window.terminated, window.truncated, stored, gamma)
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
        weight=tf.ones(indices.shape),
        indices=first,
    )


def _gather(state: RingState, indices: tf.Tensor, progress: Progress) -> dict[str, tf.Tensor]:
    """The columns [B, width] at `indices` [B], read once: the barrier keeps XLA from copying the whole ring."""
    gather = lambda column: tf.gather(column, indices)  # noqa: E731
    return barrier(lambda: {dtype: gather(column) for dtype, column in state.columns.items()}, progress.step)
