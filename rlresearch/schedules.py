"""Schedules: factors that change during a run and multiply a base value, such as a learning rate or noise.

A schedule is a frozen dataclass, called with the run's `Progress`; it returns a float32 scalar. per: what it counts,
environment transitions ("step"), finished episodes ("episode") or gradient steps ("update"). Float fields may be
float32 scalar tensors, one value for each member of a population.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tensorflow as tf

from rlresearch.errors import ConfigError
from rlresearch.ranges import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Progress

Per = Literal["step", "episode", "update"]
Schedule = Callable[[Progress], Any]  # of a float32 scalar tensor


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        return tf.ones(())


@dataclass(frozen=True)
class Linear:
    """`start` until `begin`, then a straight line that reaches `end` after `over` more counts, then `end`."""

    start: NonNegativeFloat = 1.0
    end: NonNegativeFloat = 0.0
    begin: NonNegativeInt = 0
    over: PositiveInt = 10_000
    per: Per = "step"

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        since = _count(progress, self.per) - self.begin  # in the count's own dtype: int64 steps stay exact
        fraction = tf.clip_by_value(tf.cast(since, tf.float32) / self.over, 0.0, 1.0)
        return self.start * (1.0 - fraction) + self.end * fraction  # exact at both ends


@dataclass(frozen=True)
class Exponential:
    """`max(floor, rate ** (count / every))`: smooth, it falls a little at each count and not in stairs."""

    rate: PositiveFraction = 0.99
    every: PositiveInt = 1
    floor: NonNegativeFloat = 0.0
    per: Per = "episode"

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        periods = tf.cast(_count(progress, self.per), tf.float32) / self.every
        return tf.maximum(self.floor, tf.pow(self.rate, periods))


@dataclass(frozen=True)
class Piecewise:
    """`factors[0]` below `boundaries[0]`, `factors[i + 1]` from `boundaries[i]` on.

    Raises ConfigError unless the boundaries rise strictly and there is one factor more than boundaries.
    """

    boundaries: tuple[NonNegativeInt, ...]
    factors: tuple[NonNegativeFloat, ...]
    per: Per = "step"

    def __post_init__(self) -> None:
        boundaries = list(self.boundaries)
        if len(self.factors) != len(boundaries) + 1:
            raise ConfigError(
                f"Piecewise has {len(boundaries)} boundaries and {len(self.factors)} factors: "
                f"give {len(boundaries) + 1} factors, one before each boundary and one after the last."
            )
        if boundaries != sorted(set(boundaries)):
            raise ConfigError(f"Piecewise boundaries {boundaries} do not rise strictly: sort them, each only once.")

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        count = _count(progress, self.per)
        factor = tf.convert_to_tensor(self.factors[0], tf.float32)
        for boundary, later in zip(self.boundaries, self.factors[1:]):
            factor = tf.where(count >= tf.cast(boundary, count.dtype), later, factor)
        return factor


def _count(progress: Progress, per: Per) -> tf.Tensor:
    """int64 scalar for steps and updates, float32 scalar for episodes."""
    return tf.convert_to_tensor(getattr(progress, per))
