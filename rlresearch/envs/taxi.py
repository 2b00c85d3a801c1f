"""Taxi-v4 on the device: Gymnasium's rules.

A state is ((row * 5 + column) * 5 + passenger) * 4 + destination: the taxi's square, the passenger at one of
four places or in the taxi (4), the place to go to. Actions: south (0), north (1), east (2), west (3), take the
passenger in (4), let him out (5). Source: gymnasium/envs/toy_text/taxi.py (Dietterich 2000).

Gymnasium's `fickle_passenger` has no compiled twin, as its state is more than this number: use
`env=gym env.id=Taxi-v4 env.kwargs={fickle_passenger:true}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

import annotated_types as at
import tensorflow as tf

from rlresearch.envs import tables
from rlresearch.types import Key

SIZE, IN_TAXI = 5, 4
LOCATIONS = ((0, 0), (0, 4), (4, 0), (4, 3))
WALLS = ((0, 1), (1, 1), (3, 0), (3, 2), (4, 0), (4, 2))  # squares with a wall on their east
MOVES = ((1, 0), (-1, 0), (0, 1), (0, -1))
ASIDE = ((2, 3), (3, 2), (1, 0), (0, 1))  # to the left and to the right of each move


@dataclass(frozen=True)
class Taxi:
    """Rewards: 20 for the right drop-off, which ends the task; -10 for a wrong drop-off or pick-up; otherwise -1.

    is_rainy: a possible move succeeds with `rainy_probability`, and goes to either side with half of the rest.
    """

    is_rainy: bool = False
    rainy_probability: Annotated[float, at.Interval(ge=0, le=1)] = 0.8

    @property
    def table(self) -> tables.Table:
        """Every outcome of every action in every state, made once for equal settings."""
        return _table(self.rainy_probability if self.is_rainy else None)

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
def _table(success: float | None) -> tables.Table:
    """Returns the table. success: the probability that a move goes in its direction, None if it always does."""

    def results(state: int, action: int) -> list[tables.Result]:
        square, passenger, destination = decode(state)
        if action == 4:
            found = passenger < IN_TAXI and square == LOCATIONS[passenger]
            there = encode(square, IN_TAXI if found else passenger, destination)
            return [tables.Result(1.0, there, -1.0 if found else -10.0, False)]
        if action == 5:
            if passenger != IN_TAXI or square not in LOCATIONS:
                return [tables.Result(1.0, state, -10.0, False)]
            place = LOCATIONS.index(square)
            arrived = place == destination
            there = encode(square, place, destination)
            return [tables.Result(1.0, there, 20.0 if arrived else -1.0, arrived)]
        forward = _moved(square, action)
        squares, chances = [forward], [1.0]
        if success is not None:  # a taxi that cannot move forward does not slide to a side either
            sides = [square if forward == square else _moved(square, aside) for aside in ASIDE[action]]
            squares, chances = [forward, *sides], [success, (1.0 - success) / 2.0, (1.0 - success) / 2.0]
        theres = [encode(each, passenger, destination) for each in squares]
        return [tables.Result(chance, there, -1.0, False) for chance, there in zip(chances, theres)]

    starts = [state for state in range(500) if decode(state)[1] not in (IN_TAXI, decode(state)[2])]
    return tables.table(results, 500, 6, starts)


def encode(square: tuple[int, int], passenger: int, destination: int) -> int:
    """The number of a state."""
    return ((square[0] * SIZE + square[1]) * 5 + passenger) * 4 + destination


def decode(state: int) -> tuple[tuple[int, int], int, int]:
    """The taxi's square, the passenger and the destination of a state."""
    return divmod(state // 20, SIZE), state // 4 % 5, state % 4


def _moved(square: tuple[int, int], direction: int) -> tuple[int, int]:
    down, right = MOVES[direction]
    walled = (right == 1 and square in WALLS) or (right == -1 and (square[0], square[1] - 1) in WALLS)
    row, column = square[0] + down, square[1] + right
    return square if walled or not (0 <= row < SIZE and 0 <= column < SIZE) else (row, column)
