"""Curves of a metric during training: of one run, and of several runs at the same steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlresearch.review.runs.reader import Columns

POINTS = 400  # points of one curve; a screen cannot show more


class Curve(NamedTuple):
    """x: increasing steps or seconds. y: finite values of a metric. Both are float64[points]."""

    x: np.ndarray
    y: np.ndarray


class Aligned(NamedTuple):
    """x: float64[points]. y: float64[runs, points] without NaN. cut: how many runs end before the longest run."""

    x: np.ndarray
    y: np.ndarray
    cut: int


def curve(columns: Columns, metric: str, axis: str = "step") -> Curve:
    """Returns a curve from those rows of a run that have the metric. axis: "step", or "time" in seconds."""
    if metric not in columns or axis not in columns:
        return Curve(np.empty(0), np.empty(0))
    x, y = columns[axis], columns[metric]
    kept = np.isfinite(x) & np.isfinite(y)
    return Curve(x[kept], y[kept])


def smooth(line: Curve, by: float) -> Curve:
    """Smooths a curve. by: each point becomes the mean of the last `by` points; 0 and 1 change nothing.

    Below 1, `by` is the weight of the past in an exponential average, with the bias correction of Adam's moments.
    """
    if by in (0.0, 1.0) or len(line.y) < 2:
        return line
    if by < 1.0:
        return Curve(line.x, _exponential(line.y, by))
    total = np.concatenate([[0.0], np.cumsum(line.y)])
    ends = np.arange(1, len(line.y) + 1)
    begins = np.maximum(ends - int(by), 0)
    return Curve(line.x, (total[ends] - total[begins]) / (ends - begins))


def align(lines: Sequence[Curve], points: int = POINTS) -> Aligned:
    """Interpolates several curves linearly at the same x. These are all x of all runs, thinned to `points`.

    They start where the last run begins and stop where the first run ends, so that every run has a value at every x.
    """
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return Aligned(np.empty(0), np.empty((0, 0)), 0)
    begin, end = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    longest = max(line.x[-1] for line in lines)
    cut = sum(bool(line.x[-1] < longest - _slack(line)) for line in lines) if end < longest else 0
    first = lines[0].x
    alike = all(len(line.x) == len(first) and np.array_equal(line.x, first) for line in lines)
    places = np.unique(first if alike else np.concatenate([line.x for line in lines]))
    places = places[(places >= begin) & (places <= end)]
    if len(places) > points:
        places = places[np.unique(np.linspace(0, len(places) - 1, points).round().astype(int))]
    return Aligned(places, np.array([np.interp(places, line.x, line.y) for line in lines]), cut)


def thin(line: Curve, points: int = POINTS) -> Curve:
    """Thins a curve to about `points` points: the lowest and the highest of each part, so that no peak is lost."""
    if len(line.x) <= points:
        return line
    kept = {0, len(line.x) - 1}
    for stretch in np.array_split(np.arange(len(line.x)), points // 2):
        kept |= {int(stretch[np.argmin(line.y[stretch])]), int(stretch[np.argmax(line.y[stretch])])}
    at = np.array(sorted(kept))
    return Curve(line.x[at], line.y[at])


def value_at(line: Curve, place: float | None) -> float:
    """Returns the last value at or before x = `place`; for None, the last one; NaN where the run ends before."""
    if not len(line.x):
        return math.nan
    if place is None:
        return float(line.y[-1])
    if line.x[-1] < place:
        return math.nan
    at = int(np.searchsorted(line.x, place, side="right")) - 1
    return float(line.y[at]) if at >= 0 else math.nan


def reached(line: Curve, threshold: float, lower: bool = False) -> float:
    """Returns the first x at which the metric reaches the threshold; infinity where it never does.

    lower: whether to reach means to be at most, not at least, the threshold.
    """
    there = np.flatnonzero(line.y <= threshold if lower else line.y >= threshold)
    return float(line.x[there[0]]) if len(there) else math.inf


def _slack(line: Curve) -> float:
    """Returns how much earlier a run may end without counting as cut: less than its own largest gap."""
    return float(np.diff(line.x).max()) * 0.999 if len(line.x) > 1 else 0.0


def _exponential(values: np.ndarray, keep: float) -> np.ndarray:
    smoothed, weight, out = 0.0, 0.0, np.empty_like(values)
    for at, value in enumerate(values.tolist()):
        smoothed = keep * smoothed + (1.0 - keep) * value
        weight = keep * weight + (1.0 - keep)
        out[at] = smoothed / weight
    return out
