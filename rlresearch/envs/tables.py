"""Small worlds as tables: the possible outcomes of each action in each state.

The grid worlds of Gymnasium's toy_text compute such a table, their `P`, and draw from it; so do their
compiled twins. Shapes: S states, A actions, K possible outcomes at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key


class Result(NamedTuple):
    """One possible outcome: its probability, the next state, the reward, and whether the task ends there."""

    probability: float
    state: int
    reward: float
    terminated: bool


class Table(NamedTuple):
    """Arrays [S, A, K]: float64, int32, float32, bool. If an action has fewer than K results, its last one is repeated
    with probability 0. starts: int32[...], the first states of episodes, all equally probable.
    """

    probability: np.ndarray
    next_state: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    starts: np.ndarray


def table(results: Callable[[int, int], list[Result]], states: int, actions: int, starts: Iterable[int]) -> Table:
    """Returns the table of a world. results(state, action): the outcomes, in the order in which they are drawn."""
    rows = [[results(state, action) for action in range(actions)] for state in range(states)]
    most = max(len(each) for row in rows for each in row)
    filled = [[each + [each[-1]._replace(probability=0.0)] * (most - len(each)) for each in row] for row in rows]
    columns = (np.array([[[one[i] for one in each] for each in row] for row in filled]) for i in range(4))
    kinds = (np.float64, np.int32, np.float32, bool, np.int32)
    return Table(*(each.astype(kind) for each, kind in zip((*columns, np.array(list(starts))), kinds)))


def start(own: Table, key: Key) -> tf.Tensor:
    """Draws a first state, int32 scalar."""
    if own.starts.size == 1:
        return tf.constant(int(own.starts[0]))
    return tf.gather(own.starts, rng.randint(key, (), own.starts.size))


def step(own: Table, state: tf.Tensor, action: tf.Tensor, key: Key) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (next state int32, reward float32, terminated bool), scalars; draws with `rng.uniform(key, ())`."""
    _, actions, outcomes = own.probability.shape
    row = state * actions + action
    place = row * outcomes
    if outcomes > 1:  # the first whose cumulative probability is above the draw, as Gymnasium's `categorical_sample`
        ends = tf.gather(limits(own.probability).reshape(-1, outcomes - 1), row)
        place += tf.reduce_sum(tf.cast(rng.uniform(key, ()) >= ends, tf.int32))
    results = (own.next_state, own.reward, own.terminated)
    return tuple(tf.gather(column.ravel(), place) for column in results)


def limits(probability: np.ndarray) -> np.ndarray:
    """Returns the upper limits of all results except the last in [0, 1): float64[..., K] -> float32[..., K - 1].

    These are cumulative probabilities, rounded up to a number that `rng.uniform` can draw. So every draw gives the
    same result as in float64.
    """
    return (np.ceil(np.cumsum(probability, axis=-1)[..., :-1] * 2**24) * 2.0**-24).astype(np.float32)
