"""CliffWalking-v1 on the device: Gymnasium's rules.

A state is the number of a square, row by row, 4 rows of 12; actions: up (0), right (1), down (2), left (3). From
the cliff, between start and goal in the last row, it goes back to the start and costs 100; only the goal ends the
task. Source: gymnasium/envs/toy_text/cliffwalking.py (Sutton & Barto, example 6.6).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import tensorflow as tf

from rlresearch.envs import tables
from rlresearch.types import Key

HEIGHT, WIDTH = 4, 12
START, GOAL = 36, 47
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # rows, columns; a slip is to a neighbour in this list


@dataclass(frozen=True)
class CliffWalking:
    """-1 a step, -100 for one over the cliff. is_slippery: a move goes where it should or to either side, each as
    probable.
    """

    is_slippery: bool = False

    @property
    def table(self) -> tables.Table:
        """Every outcome of every action in every state, made once for equal settings."""
        return _table(self.is_slippery)

    def reset(self, key: Key) -> tf.Tensor:
        """A first state, int32 scalar."""
        return tables.start(self.table, key)

    def step(self, state: tf.Tensor, action: tf.Tensor, key: Key) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """(next state int32, reward float32, terminated bool), all scalars. state, action: int32 scalars."""
        return tables.step(self.table, state, action, key)

    def observe(self, state: tf.Tensor) -> tf.Tensor:
        """The state's number, int32 scalar."""
        return state


@cache
def _table(is_slippery: bool) -> tables.Table:
    asides = (-1, 0, 1) if is_slippery else (0,)

    def results(state: int, action: int) -> list[tables.Result]:
        return [_moved(state, action + aside, 1 / len(asides)) for aside in asides]

    return tables.table(results, HEIGHT * WIDTH, 4, [START])


def _moved(state: int, direction: int, probability: float) -> tables.Result:
    down, right = MOVES[direction % 4]
    row = min(max(state // WIDTH + down, 0), HEIGHT - 1)
    column = min(max(state % WIDTH + right, 0), WIDTH - 1)
    there = row * WIDTH + column
    if START < there < GOAL:
        return tables.Result(probability, START, -100.0, False)
    return tables.Result(probability, there, -1.0, there == GOAL)
