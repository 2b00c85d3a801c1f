"""Schedules: factors that change during a run and multiply a base value, such as a learning rate or noise.

A schedule is a frozen dataclass, called with the run's `Progress`; it returns a float32 scalar. per: what it counts,
environment transitions ("step"), finished episodes ("episode") or gradient steps ("update"). Float fields may be
float32 scalar tensors, one value for each member of a population.

`value_at(count)` is the same factor as a Python number. It says before a run begins what the schedule will do. A
schedule of your own need not have it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import tensorflow as tf

from rlresearch.errors import ConfigError
from rlresearch.ranges import NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Per = Literal["step", "episode", "update"]
Part = TypeVar("Part", bound="DataclassInstance")
Schedule = Callable[[Progress], Any]  # of a float32 scalar tensor


class RunLength(NamedTuple):
    """What a run has counted when it ends: transitions, and gradient steps. (Nobody knows its episodes before.)"""

    step: int
    update: int


@dataclass(frozen=True)
class Constant:
    """Always 1."""

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        return tf.ones(())


@dataclass(frozen=True)
class Linear:
    """`start` until `begin`, then a straight line that reaches `end` after `over` more counts, then `end`.

    over: None ends the line with the run; `fitted` then says when that is. Raises ConfigError for None per episode.
    """

    start: NonNegativeFloat = 1.0
    end: NonNegativeFloat = 0.0
    begin: NonNegativeInt = 0
    over: PositiveInt | None = None
    per: Per = "step"

    def __post_init__(self) -> None:
        if self.over is None and self.per == "episode":
            raise ConfigError("over=null: must be a number with per=episode: a run's episodes are not known before it.")

    def of_length(self, length: RunLength) -> Linear:
        """The same schedule, ending with a run of that length if it has no length of its own."""
        if self.over is not None:
            return self
        counts = length.step if self.per == "step" else length.update
        return dataclasses.replace(self, over=max(counts - self.begin, 1))

    def value_at(self, count: float) -> float:
        """The factor at a count."""
        fraction = min(max((count - self.begin) / self._over(), 0.0), 1.0)
        return self.start * (1.0 - fraction) + self.end * fraction

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        since = _count(progress, self.per) - self.begin  # in the count's own dtype: int64 steps stay exact
        fraction = tf.clip_by_value(tf.cast(since, tf.float32) / self._over(), 0.0, 1.0)
        return self.start * (1.0 - fraction) + self.end * fraction  # exact at both ends

    def _over(self) -> int:
        if self.over is None:
            raise ConfigError("over=null: schedules.fitted gives the line the length of a run, before it is asked.")
        return self.over


@dataclass(frozen=True)
class Exponential:
    """`max(floor, rate ** (count / every))`: smooth, it falls a little at each count and not in stairs."""

    rate: PositiveFraction = 0.99
    every: PositiveInt = 1
    floor: NonNegativeFloat = 0.0
    per: Per = "episode"

    def value_at(self, count: float) -> float:
        """The factor at a count."""
        return max(self.floor, self.rate ** (count / self.every))

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

    def value_at(self, count: float) -> float:
        """The factor at a count."""
        return self.factors[sum(count >= boundary for boundary in self.boundaries)]

    def __call__(self, progress: Progress) -> tf.Tensor:
        """The factor float32 scalar at this point of the run."""
        count = _count(progress, self.per)
        factor = tf.convert_to_tensor(self.factors[0], tf.float32)
        for boundary, later in zip(self.boundaries, self.factors[1:]):
            factor = tf.where(count >= tf.cast(boundary, count.dtype), later, factor)
        return factor


def fitted(part: Part, length: RunLength) -> tuple[Part, list[str]]:
    """(a part whose schedules without a length of their own end with the run, the dotted paths of those schedules).

    part: any dataclass, looked through with all parts in it.
    """
    changes: dict[str, object] = {}
    paths: list[str] = []
    for name, inner in ((each.name, getattr(part, each.name)) for each in dataclasses.fields(part)):
        if dataclasses.is_dataclass(inner) and not isinstance(inner, type):
            own, below = fitted(inner, length)
            paths += [f"{name}.{path}".rstrip(".") for path in below]
            changes |= {name: own} if below else {}
    part = dataclasses.replace(part, **changes) if changes else part
    of_length = getattr(part, "of_length", None)
    if of_length is not None and (made := of_length(length)) != part:
        return made, ["", *paths]
    return part, paths


def _count(progress: Progress, per: Per) -> tf.Tensor:
    """int64 scalar for steps and updates, float32 scalar for episodes."""
    return tf.convert_to_tensor(getattr(progress, per))
