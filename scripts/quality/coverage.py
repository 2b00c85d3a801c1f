"""How often do the printed intervals hold the truth, and how often is a difference claimed where there is none?

    python scripts/quality/coverage.py [--experiments 1000] [--seeds 5 10 20]

Experiments are simulated: scores of so many seeds from a known distribution, whose interquartile mean is known. Printed
are the share of experiments whose 95 % interval holds it (ours, and the plain percentile bootstrap), the share in which
an algorithm is claimed to be better or worse than itself, and that of finding a difference of 1.5 standard deviations.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from rlresearch import stats

DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda draw, size: draw.normal(size=size),
    "uniform": lambda draw, size: draw.uniform(size=size) * 12**0.5,
    "heavy tails (t, 3)": lambda draw, size: draw.standard_t(3, size=size) / 3**0.5,
    "skewed (lognormal)": lambda draw, size: -draw.lognormal(0, 1, size=size) / 2.16,
    "near a ceiling (beta 9, 1)": lambda draw, size: draw.beta(9, 1, size=size) * 11.1,
    "one seed in five fails": lambda draw, size: np.where(draw.random(size) < 0.2, -8, 0) + draw.normal(size=size),
    "two seeds in five fail": lambda draw, size: np.where(draw.random(size) < 0.4, -8, 0) + draw.normal(size=size),
}
TRUTH_FROM = 4_000_000
RESAMPLES = 2_000
SHIFT = 1.5


def main() -> int:
    """Simulates and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10, 20])
    arguments = parser.parse_args()
    table = Table("scores", *(f"{n} seeds" for n in arguments.seeds), title="coverage, % (plain percentile bootstrap)")
    claims = Table("scores", *(f"{n} seeds" for n in arguments.seeds), title="claims, % of experiments: false (true)")
    for name, draw_from in DRAWS.items():
        covered = [coverage(draw_from, seeds, arguments.experiments) for seeds in arguments.seeds]
        table.add_row(name, *(f"{100 * ours:.1f} ({100 * plain:.1f})" for ours, plain in covered))
        found = [claimed(draw_from, seeds, arguments.experiments) for seeds in arguments.seeds]
        claims.add_row(name, *(f"{100 * false:.1f} ({100 * true:.0f})" for false, true in found))
    few = [str(seeds) for seeds in arguments.seeds if stats.too_few([seeds])]
    Console(soft_wrap=True).print(table, claims)
    if few:
        print(f"{', '.join(few)} seeds are said to be too few wherever an interval is printed")
    return 0


def coverage(draw_from: Callable, seeds: int, experiments: int) -> tuple[float, float]:
    """The shares of experiments whose interval holds the truth: ours, and the plain percentile bootstrap."""
    draw = np.random.default_rng(seeds)
    everything = np.sort(draw_from(draw, (TRUTH_FROM,)))
    truth = everything[TRUTH_FROM // 4 : -TRUTH_FROM // 4].mean()
    ours = plain = 0
    for number in range(experiments):
        sample = stats.sample([draw_from(draw, (seeds,))], count=RESAMPLES, seed=number)
        made = stats.estimate(sample)
        low, high = np.quantile(sample.resampled, [0.025, 0.975])
        ours += made.low <= truth <= made.high
        plain += low <= truth <= high
    return ours / experiments, plain / experiments


def claimed(draw_from: Callable, seeds: int, experiments: int) -> tuple[float, float]:
    """The shares of experiments that claim a difference: without one, and with one of SHIFT."""
    draw = np.random.default_rng(seeds + 1)
    false = true = 0
    for number in range(experiments):
        scores = [draw_from(draw, (seeds,)) for _ in range(3)]
        scores[2] = scores[2] + SHIFT
        first, same, better = (stats.sample([s], count=RESAMPLES, seed=3 * number + i) for i, s in enumerate(scores))
        false += bool(stats.compare(first, same).better)
        true += stats.compare(better, first).better == 1
    return false / experiments, true / experiments


if __name__ == "__main__":
    sys.exit(main())
