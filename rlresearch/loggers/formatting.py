"""Formats numbers and durations for people."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def number(value: Any, digits: int = 1) -> str:
    """Formats a number as in 1,234.5, a number below 1 as in 0.0123, and None or NaN as `-`."""
    value = real(value)
    if math.isnan(value):
        return "-"
    if digits and 0 < abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """Formats seconds as in 0:03, 12:40 or 1:02:03; NaN, infinity and None as `-`."""
    if not math.isfinite(real(seconds)):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def with_spread(mean: Any, std: Any, plus_minus: str) -> str:
    """Formats as in `1.0 ± 0.5`; only the mean where `std` is None or NaN. plus_minus: the sign between them."""
    return number(mean) if math.isnan(real(std)) else f"{number(mean)} {plus_minus} {number(std)}"


def mean_std(values: Iterable[Any]) -> tuple[float, float]:
    """Returns the mean and the standard deviation with divisor N (NumPy's default); NaN twice without values."""
    reals = [real(value) for value in values]
    if not reals:
        return math.nan, math.nan
    mean = sum(reals) / len(reals)
    return mean, math.sqrt(sum((each - mean) ** 2 for each in reals) / len(reals))


def real(value: Any) -> float:
    """Returns `value` as one float: NaN for None, and the mean of a list (one number per member of a population)."""
    if isinstance(value, list | tuple):
        return mean_std(value)[0]
    return math.nan if value is None else float(value)
