"""Statistics over seeds: what is estimated, how far to trust it, and whether one group is better than another.

Scores come as strata: one array for each task, with a score for each run (seed) of it; mostly there is one task. The
definitions are those of Agarwal et al. 2021, "Deep RL at the Edge of the Statistical Precipice", and of its library
rliable: `iqm`, `mean`, `median`, the stratified percentile bootstrap, performance profiles, probability of
improvement. `scripts/quality/rliable_check.py` compares them.

Differences from rliable:

1. Its percentile interval covers less than it says where seeds are few: 90 % in place of 95 % with five, 93 % with
   ten. Here the percentiles are widened from the normal to Student's t distribution (Hesterberg 2015, "What Teachers
   Should Know about the Bootstrap", section 4.1). `scripts/quality/coverage.py` measures both.
2. With five seeds or fewer no resampling reaches 95 %: the interval then goes from the worst seed to the best, which
   covers about 1 - 2**(1 - n), and says that the seeds are too few.
3. The probability of improvement has the interval of Newcombe 2006 (Statistics in Medicine 25, method 5), which stays
   honest where every run of one group beats every run of the other; a bootstrap answers "100 % to 100 %" there.
4. The median of a single task is that of its runs; rliable's, a median over tasks of means, would be their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from rlresearch.optional import import_optional

LEVEL = 0.95
RESAMPLES = 10_000
ENOUGH = 6  # seeds of a single task; with several tasks one fewer
_LARGEST_BLOCK = 4_000_000  # numbers that are resampled at once
_MOST_DRAWN = 2_000_000  # of one group: with many seeds fewer resamples will do
_MOST_BANDED = 10_000_000  # of all points of a band together

Strata = Sequence[np.ndarray]


class Estimate(NamedTuple):
    """A value and its interval at LEVEL; NaN where there is none.

    covers: None where there are seeds enough; else about what share the interval covers, NaN where that is not known.
    """

    value: float
    low: float
    high: float
    covers: float | None = None


class Comparison(NamedTuple):
    """How the first group's scores stand to the second's.

    difference: of the statistic; probability: that a run of the first has the higher score than one of the second.
    better: 1 the first, -1 the second, 0 no claim: both intervals must agree. None: too few seeds for a claim.
    """

    difference: Estimate
    probability: Estimate
    better: int | None


def iqm(strata: Strata) -> np.ndarray:
    """The mean of the middle half of all scores; arrays [..., runs] of each task give [...]."""
    scores = np.concatenate(strata, axis=-1)
    count = scores.shape[-1]
    cut = int(0.25 * count)
    ordered = np.partition(scores, [cut, count - cut - 1], axis=-1)  # the middle half in its place is enough
    return ordered[..., cut : count - cut].mean(axis=-1)


def mean(strata: Strata) -> np.ndarray:
    """The mean over tasks of the mean over runs."""
    return np.mean([scores.mean(axis=-1) for scores in strata], axis=0)


def median(strata: Strata) -> np.ndarray:
    """Of one task the median of its runs; of several the median over tasks of the mean over runs."""
    if len(strata) == 1:
        return np.median(strata[0], axis=-1)
    return np.median([scores.mean(axis=-1) for scores in strata], axis=0)


STATISTICS: dict[str, Callable[[Strata], np.ndarray]] = {"iqm": iqm, "mean": mean, "median": median}


class Sample(NamedTuple):
    """Scores, and the statistic of resamples of them, float64[count]; empty where nothing can be resampled."""

    strata: Strata
    statistic: str
    resampled: np.ndarray

    @property
    def sizes(self) -> list[int]:
        """The number of scores in each stratum."""
        return [len(scores) for scores in self.strata]


def sample(strata: Strata, statistic: str = "iqm", count: int = RESAMPLES, seed: int = 0) -> Sample:
    """Resamples some scores, to be estimated from and compared. Groups that are compared need seeds of their own."""
    sizes = [len(scores) for scores in strata]
    if not sizes or min(sizes) < 2:
        return Sample(strata, statistic, np.empty(0))
    count = min(count, max(1_000, _MOST_DRAWN // sum(sizes)))
    return Sample(strata, statistic, bootstrap(strata, STATISTICS[statistic], resamples(sizes, count, seed)))


def resamples(sizes: Sequence[int], count: int = RESAMPLES, seed: int = 0) -> list[np.ndarray]:
    """For each task int[count, runs]: which runs a resample draws, with replacement, from that task's own."""
    draw = np.random.default_rng(seed)
    return [draw.integers(0, size, (count, size)) for size in sizes]


def bootstrap(strata: Strata, statistic: Callable[[Strata], np.ndarray], drawn: Sequence[np.ndarray]) -> np.ndarray:
    """The statistic of each resample, float[count]."""
    return statistic([scores[indices] for scores, indices in zip(strata, drawn, strict=True)])


def tail(sizes: Sequence[int], level: float = LEVEL) -> float:
    """The lower percentile of an interval, as a share: (1 - level) / 2 of the normal distribution, widened to t.

    Resampling n runs understates their variance by (n - 1) / n. In a single task the interquartile mean of so few
    values jumps enough to make up for it (measured); with several tasks it does not.
    """
    freedom = sum(size - 1 for size in sizes)
    shrink = math.sqrt(min(sizes) / (min(sizes) - 1)) if len(sizes) > 1 else 1.0
    quantile = float(import_optional("scipy.special", "statistics").stdtrit(freedom, (1.0 - level) / 2.0))
    return NormalDist().cdf(quantile * shrink)


def too_few(sizes: Sequence[int]) -> bool:
    """Whether an interval at LEVEL cannot be had from so many runs of each task."""
    return not sizes or min(sizes) < (ENOUGH if len(sizes) == 1 else ENOUGH - 1)


def estimate(of: Sample, level: float = LEVEL) -> Estimate:
    """The statistic with its interval; too few seeds of a single task: from the worst to the best."""
    sizes = of.sizes
    if not sizes or min(sizes) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0.0)
    value = float(STATISTICS[of.statistic](of.strata))
    if min(sizes) == 1:
        return Estimate(value, math.nan, math.nan, 0.0)
    if too_few(sizes) and len(sizes) == 1:
        return Estimate(value, float(of.strata[0].min()), float(of.strata[0].max()), 1.0 - 2.0 ** (1 - sizes[0]))
    share = tail(sizes, level)
    low, high = np.quantile(of.resampled, [share, 1.0 - share])
    return Estimate(value, float(low), float(high), math.nan if too_few(sizes) else None)


def probability_of_improvement(first: Strata, second: Strata) -> float:
    """The mean over tasks of P(a run of the first > a run of the second), ties counted half (Mann-Whitney's U)."""
    shares = []
    for x, y in zip(first, second, strict=True):
        above = x[:, None] > y[None, :]
        shares.append(float(np.mean(above + 0.5 * (x[:, None] == y[None, :]))))
    return float(np.mean(shares))


def probability_interval(
    share: float, first: Sequence[int], second: Sequence[int], level: float = LEVEL
) -> tuple[float, float]:
    """Newcombe's interval for a probability of improvement between groups of so many runs in each task."""
    z = -NormalDist().inv_cdf((1.0 - level) / 2.0)

    def outside(true: float) -> bool:
        spread = [improvement_variance(true, n, m) for n, m in zip(first, second, strict=True)]
        return abs(share - true) > z * math.sqrt(sum(spread)) / len(spread)

    return _edge(outside, 0.0, share), _edge(outside, 1.0, share)


def compare(first: Sample, second: Sample, claims: int = 1) -> Comparison:
    """The difference of two groups. claims: how many comparisons are made together; each one's claim is held to
    0.05 / claims (Bonferroni), the intervals shown are at LEVEL.
    """
    of = STATISTICS[first.statistic]
    value = float(of(first.strata) - of(second.strata))
    share = probability_of_improvement(first.strata, second.strata)
    if not len(first.resampled) or not len(second.resampled):
        nothing = Estimate(value, math.nan, math.nan, 0.0)
        return Comparison(nothing, nothing._replace(value=share), None)
    count = min(len(first.resampled), len(second.resampled))
    apart = first.resampled[:count] - second.resampled[:count]
    sizes = first.sizes, second.sizes
    smaller = min(sizes, key=min)

    def intervals(level: float) -> tuple[np.ndarray, tuple[float, float]]:
        edge = tail(smaller, level)
        return np.quantile(apart, [edge, 1.0 - edge]), probability_interval(share, *sizes, level)

    (low, high), (least, most) = intervals(LEVEL)
    (claim_low, claim_high), (claim_least, claim_most) = intervals(1.0 - (1.0 - LEVEL) / claims)
    better = int(claim_low > 0 and claim_least > 0.5) - int(claim_high < 0 and claim_most < 0.5)
    return Comparison(
        Estimate(value, float(low), float(high)),
        Estimate(share, least, most),
        None if min(map(min, sizes)) < ENOUGH - 1 else better,
    )


def profile(strata: Strata, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs above each threshold, every task with the same weight; float[len(thresholds)]."""
    return np.mean([np.mean(scores[:, None] > thresholds[None, :], axis=0) for scores in strata], axis=0)


def share_interval(share: np.ndarray, runs: int, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval for shares of so many runs."""
    z = -NormalDist().inv_cdf((1.0 - level) / 2.0)
    centre = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z * np.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs)) / (1 + z * z / runs)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def band(
    values: np.ndarray, statistic: str = "iqm", kind: str = "interval", count: int = 1_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, lower and upper edge over the runs of float[runs, points], point by point.

    kind: interval (as `estimate`), range (worst to best run), std (one standard deviation about the mean) or none.
    """
    of = STATISTICS["mean" if kind == "std" else statistic]
    runs = len(values)
    centre = of([values.T])
    if kind == "none" or runs == 1:
        return centre, centre, centre
    if kind == "std":
        spread = values.std(axis=0, ddof=1)
        return centre, centre - spread, centre + spread
    if kind == "range" or too_few([runs]):
        return centre, values.min(axis=0), values.max(axis=0)
    (drawn,) = resamples([runs], _resamples_of_a_band(runs, count))
    share = tail([runs])
    points = max(1, _LARGEST_BLOCK // drawn.size)
    edges = [
        np.quantile(of([values[:, at : at + points].T[:, drawn]]), [share, 1.0 - share], axis=-1)
        for at in range(0, values.shape[1], points)
    ]
    low, high = np.concatenate(edges, axis=1)
    return centre, low, high


def points_of_a_band(runs: int) -> int:
    """At how many places a drawn band of so many runs is worth its time: 400 for ten runs, 60 for hundreds."""
    return int(np.clip(_MOST_BANDED // (runs * _resamples_of_a_band(runs, 1_000)), 60, 400))


def _resamples_of_a_band(runs: int, count: int) -> int:
    return max(200, min(count, _MOST_DRAWN // 10 // runs))


def improvement_variance(share: float, first: int, second: int) -> float:
    """Of an estimated probability of improvement (Hanley and McNeil), where `share` is the true one."""
    runs = (first + second) / 2.0
    shape = (1.0 - share) / (2.0 - share) + share / (1.0 + share)
    return share * (1.0 - share) * (1.0 + (runs - 1.0) * shape) / (first * second)


def _edge(outside: Callable[[float], bool], far: float, near: float) -> float:
    """The last value on the way from `near` to `far` that is not outside."""
    if not outside(far):
        return far
    for _ in range(60):
        middle = (far + near) / 2.0
        far, near = (middle, near) if outside(middle) else (far, middle)
    return near
