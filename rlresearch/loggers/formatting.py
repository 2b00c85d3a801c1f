"""Numbers and durations as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def number(value: Any, digits: int = 1) -> str:
    """As in 1,234.5; small numbers as in 0.0123; `-` where there is none (None, NaN)."""
    value = real(value)
    if math.isnan(value):
        return "-"
    if digits and 0 < abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """As in 0:03, 12:40 or 1:02:03; `-` where unknown."""
    if not math.isfinite(real(seconds)):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def with_spread(mean: Any, std: Any, plus_minus: str) -> str:
    """As in `1.0 ± 0.5`; the mean alone where there is no spread. plus_minus: the sign that the terminal can show."""
    return number(mean) if math.isnan(real(std)) else f"{number(mean)} {plus_minus} {number(std)}"


def mean_std(values: Iterable[Any]) -> tuple[float, float]:
    """The mean and the population's standard deviation (NumPy's default)."""
    reals = [real(value) for value in values]
    if not reals:
        return math.nan, math.nan
    mean = sum(reals) / len(reals)
    return mean, math.sqrt(sum((each - mean) ** 2 for each in reals) / len(reals))


def real(value: Any) -> float:
    """One number: NaN for None, the mean for a list (a population's)."""
    if isinstance(value, list | tuple):
        return mean_std(value)[0]
    return math.nan if value is None else float(value)
