"""FrozenLake-v1 on the device: Gymnasium's rules.

A state is the number of a tile, row by row; actions: left (0), down (1), right (2), up (3). Falling into a hole
and reaching the goal end the task. Source: gymnasium/envs/toy_text/frozen_lake.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Literal

import annotated_types as at
import tensorflow as tf

from rlresearch.envs import tables
from rlresearch.errors import ConfigError, format_value
from rlresearch.types import Key

MAPS = {
    "4x4": ("SFFF", "FHFH", "FFFH", "HFFG"),
    "8x8": ("SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF", "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"),
}
MOVES = ((0, -1), (1, 0), (0, 1), (-1, 0))  # rows, columns; a slip is to a neighbour in this list


@dataclass(frozen=True)
class FrozenLake:
    """desc: rows of tiles S (start), F (frozen), H (hole), G (goal); None for those of `map_name`.
    is_slippery: a move goes where it should with probability `success_rate`, to either side with half of the rest.
    reward_schedule: at the goal, in a hole, elsewhere.
    """

    desc: tuple[str, ...] | None = None
    map_name: Literal["4x4", "8x8"] = "4x4"
    is_slippery: bool = True
    success_rate: Annotated[float, at.Interval(ge=0, le=1)] = 1.0 / 3.0
    reward_schedule: tuple[float, ...] = (1, 0, 0)

    def __post_init__(self) -> None:
        rows = self.desc
        if rows is not None and (len(set(map(len, rows))) != 1 or not {"S"} <= set("".join(rows)) <= set("SFHG")):
            raise ConfigError(
                f"desc={format_value(rows)}: must be rows of one length, of tiles S, F, H and G, with an S."
            )
        if len(self.reward_schedule) != 3:
            wrong = f"reward_schedule={format_value(self.reward_schedule)}"
            raise ConfigError(f"{wrong}: must be three numbers: at the goal, in a hole, elsewhere.")

    @property
    def table(self) -> tables.Table:
        """Every outcome of every action in every state, made once for equal settings."""
        return _table(self)

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
def _table(lake: FrozenLake) -> tables.Table:
    rows = lake.desc or MAPS[lake.map_name]
    height, width, tiles = len(rows), len(rows[0]), "".join(rows)
    rewards = dict(zip("GHF", lake.reward_schedule)) | {"S": lake.reward_schedule[2]}
    slip = (1.0 - lake.success_rate) / 2.0

    def moved(state: int, direction: int, probability: float) -> tables.Result:
        down, right = MOVES[direction % 4]
        row = min(max(state // width + down, 0), height - 1)
        column = min(max(state % width + right, 0), width - 1)
        there = row * width + column
        return tables.Result(probability, there, rewards[tiles[there]], tiles[there] in "GH")

    def results(state: int, action: int) -> list[tables.Result]:
        if tiles[state] in "GH":
            return [tables.Result(1.0, state, 0.0, True)]
        if not lake.is_slippery:
            return [moved(state, action, 1.0)]
        return [moved(state, action + aside, slip if aside else lake.success_rate) for aside in (-1, 0, 1)]

    starts = [state for state, tile in enumerate(tiles) if tile == "S"]
    return tables.table(results, len(tiles), 4, starts)
