"""The space of a search, read from overrides in Hydra's syntax.

algo=ddpg,td3                                  one of these values
algo.batch_size=range(32,257,32)               32, 64, ..., 256; a range does not include its end
algo.tau=range(0.005,0.055,0.005)              real numbers in steps
algo.gamma=interval(0.9,0.999)                 any number between, including both ends
optimizer.lr='tag(log,interval(1e-5,1e-2))'    any number between, uniform on a logarithmic scale
algo.batch_size='int(interval(16,256))'        whole numbers; with tag(log,...) on a logarithmic scale
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from rlresearch.errors import ConfigError, format_value

TAGS = ("log", "int")


class Choice(NamedTuple):
    """One of several values, each as text in an override."""

    values: tuple[str, ...]

    @property
    def ends(self) -> list[str]:
        """All values."""
        return list(self.values)


class Number(NamedTuple):
    """A number from low to high, including both. step: the distance of neighbours, None for any number. log: uniform
    on a logarithmic scale. whole: only integers.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> list[str]:
        """The lowest and the highest number, as text in an override."""
        return [typed(self.low), typed(self.high)] if self.low < self.high else [typed(self.low)]


Range = Choice | Number


def space(swept: Sequence[Any]) -> dict[str, Range]:
    """Returns the range of each key, from Hydra's overrides with several values. Errors: ConfigError, one line."""
    return {each.get_key_element(): _range(each) for each in swept}


def distributions(space: Mapping[str, Range]) -> dict[str, Any]:
    """Returns the space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, Any] = {}
    for key, each in space.items():
        if isinstance(each, Choice):
            made[key] = CategoricalDistribution(each.values)
        elif each.whole:
            made[key] = IntDistribution(int(each.low), int(each.high), each.log, int(each.step or 1))
        else:
            made[key] = FloatDistribution(each.low, each.high, each.log, each.step)
    return made


def described(space: dict[str, Range]) -> dict[str, Any]:
    """Returns the space as JSON types, to be compared with the space of an earlier session."""
    return {key: list(each.values) if isinstance(each, Choice) else each._asdict() for key, each in space.items()}


def typed(value: Any) -> str:
    """Returns a value as text for an override."""
    return value if isinstance(value, str) else repr(value)


def _range(override: Any) -> Range:
    where, value = override.input_line, override.value()
    if override.is_discrete_sweep() and not override.is_range_sweep():
        try:
            values = tuple(override.sweep_string_iterator())
        except Exception as error:  # noqa: BLE001 (Hydra raises bare exceptions of many kinds)
            raise ConfigError(f"{where}: {error}") from None
        if not values:
            raise ConfigError(f"{where}: must have at least one value to search over.")
        if len(set(values)) < len(values):
            raise ConfigError(f"{where}: a value stands there twice.")
        return Choice(values)
    strange = set(value.tags) - set(TAGS)
    if strange:
        raise ConfigError(f"{where}: tag {format_value(sorted(strange)[0])} is unknown; allowed: {', '.join(TAGS)}.")
    return _stepped(where, value) if override.is_range_sweep() else _interval(where, value)


def _interval(where: str, value: Any) -> Number:
    whole = "int" in value.tags or isinstance(value.start, int) and isinstance(value.end, int)
    if not (math.isfinite(value.start) and math.isfinite(value.end) and value.start < value.end):
        raise ConfigError(f"{where}: the interval must go from a lower number to a higher one.")
    low, high = (int(value.start), int(value.end)) if whole else (float(value.start), float(value.end))
    return _scaled(where, Number(low, high, log="log" in value.tags, whole=whole))


def _stepped(where: str, value: Any) -> Number:
    # Decimal numbers, so that 0.1, 0.2, 0.3 ends exactly at the typed end.
    start, stop, step = (Decimal(str(each)) for each in (value.start, value.stop, value.step))
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise ConfigError(f"{where}: the range is empty; it goes up to its second number, which is not part of it.")
    low, high = sorted((start, start + (count - 1) * step))
    if all(isinstance(each, int) for each in (value.start, value.stop, value.step)):
        number = Number(int(low), int(high), int(abs(step)), "log" in value.tags, True)
    else:
        number = Number(float(low), float(high), float(abs(step)), "log" in value.tags)
    if number.log and (not number.whole or number.step != 1):
        raise ConfigError(f"{where}: a logarithmic scale has no steps; use tag(log,interval(LOW,HIGH)).")
    return _scaled(where, number)


def _scaled(where: str, number: Number) -> Number:
    if number.log and number.low <= 0:
        raise ConfigError(f"{where}: a logarithmic scale begins above 0.")
    return number
