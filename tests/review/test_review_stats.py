"""Intervals hold what they promise, and definitions are those of the literature."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from rlresearch import stats

DRAWS = {
    "normal": lambda draw, size: draw.normal(-150, 20, size),
    "skewed": lambda draw, size: -draw.lognormal(0, 1, size),
    "failing": lambda draw, size: np.where(draw.random(size) < 0.2, -1200, 0) + draw.normal(size=size),
}


@pytest.mark.parametrize("runs", [1, 2, 3, 4, 5, 7, 8, 10, 20, 33])
def test_the_interquartile_mean_is_scipys_trimmed_mean(runs):
    scores = np.random.default_rng(runs).normal(size=(6, runs))
    np.testing.assert_allclose(stats.iqm([scores]), scipy_stats.trim_mean(scores, 0.25, axis=-1), rtol=0, atol=1e-12)


def test_definitions_over_tasks_are_rliables():
    """Its metrics.py on scores [runs, tasks]; scripts/quality/rliable_check.py asks rliable itself."""
    scores = np.random.default_rng(0).normal(size=(7, 5))
    strata = list(scores.T)
    assert stats.iqm(strata) == pytest.approx(scipy_stats.trim_mean(scores, 0.25, axis=None), abs=1e-12)
    assert stats.mean(strata) == pytest.approx(np.mean(np.mean(scores, axis=0)), abs=1e-12)
    assert stats.median(strata) == pytest.approx(np.median(np.mean(scores, axis=0)), abs=1e-12)
    thresholds = np.array([-1.0, 0.0, 0.5])
    expected = [np.mean(np.mean(scores > each, axis=0)) for each in thresholds]
    np.testing.assert_allclose(stats.profile(strata, thresholds), expected, atol=1e-12)


def test_a_resample_draws_from_each_task_by_itself():
    strata = [np.array([0.0, 1.0, 2.0]), np.array([100.0, 101.0])]
    drawn = stats.resamples([3, 2], 50, seed=1)
    values = stats.bootstrap(strata, stats.mean, drawn)
    by_hand = [
        (np.mean([strata[0][i] for i in first]) + np.mean([strata[1][i] for i in second])) / 2
        for first, second in zip(*drawn)
    ]
    np.testing.assert_allclose(values, by_hand, atol=1e-12)


def test_the_probability_of_improvement_counts_pairs():
    first, second = [np.array([1.0, 2.0, 3.0])], [np.array([2.0, 0.0])]
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(first[0], second[0])]
    assert stats.probability_of_improvement(first, second) == pytest.approx(np.mean(pairs))
    u = scipy_stats.mannwhitneyu(first[0], second[0]).statistic
    assert stats.probability_of_improvement(first, second) == pytest.approx(u / 6)
    two = stats.probability_of_improvement([*first, np.ones(2)], [*second, np.zeros(3)])
    assert two == pytest.approx((np.mean(pairs) + 1.0) / 2)


def test_the_percentiles_are_the_normal_ones_widened_to_students():
    """At n = 10: P(Z < -2.262), as Hesterberg's table 5 has it without its factor for the mean."""
    assert stats.tail([10]) == pytest.approx(scipy_stats.norm.cdf(scipy_stats.t.ppf(0.025, 9)), rel=1e-12)
    assert stats.tail([1000]) == pytest.approx(0.025, rel=0.02)
    several = scipy_stats.norm.cdf(scipy_stats.t.ppf(0.025, 3 * 9) * math.sqrt(10 / 9))
    assert stats.tail([10, 10, 10]) == pytest.approx(several, rel=1e-12)


def test_newcombes_interval_bounds_what_it_should():
    """Its edges are where the score test just rejects; all above is 1, and not surely 1."""
    low, high = stats.probability_interval(0.8, [10], [12])
    for edge in (low, high):
        spread = math.sqrt(stats.improvement_variance(edge, 10, 12))
        assert abs(edge - 0.8) / spread == pytest.approx(scipy_stats.norm.ppf(0.975), rel=1e-6)
    low, high = stats.probability_interval(1.0, [5], [5])
    assert high == 1.0 and 0.6 < low < 0.7
    assert stats.probability_interval(0.0, [5], [5]) == pytest.approx((0.0, 1.0 - low))


@pytest.mark.parametrize(("runs", "covers"), [(1, 0.0), (2, 0.5), (3, 0.75), (4, 0.875), (5, 0.9375), (6, None)])
def test_few_seeds_are_said_to_be_few(runs, covers):
    scores = np.random.default_rng(0).normal(size=runs)
    made = stats.estimate(stats.sample([scores]))
    assert made.covers == covers
    if covers:
        assert (made.low, made.high) == (scores.min(), scores.max())
    assert math.isnan(made.low) == (runs == 1)


def coverage(draw_from, runs, experiments, seed=0):
    """The share of simulated experiments whose printed interval holds the true interquartile mean."""
    draw = np.random.default_rng(seed)
    everything = np.sort(draw_from(draw, 2_000_000))
    true = everything[500_000:1_500_000].mean()
    held = 0
    for number in range(experiments):
        scores = draw_from(draw, runs)
        made = stats.estimate(stats.sample([scores], count=2_000, seed=number))
        held += made.low <= true <= made.high
    return held / experiments


@pytest.mark.parametrize("name", DRAWS)
def test_the_interval_of_ten_seeds_covers(name):
    """400 experiments: the share is known to 1.1 points."""
    assert 0.925 <= coverage(DRAWS[name], 10, 400) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("runs", [5, 10, 20])
def test_the_interval_covers_what_it_says_or_says_that_seeds_are_too_few(name, runs):
    covered = coverage(DRAWS[name], runs, 1_000)
    if stats.too_few([runs]):
        assert stats.estimate(stats.sample([np.arange(float(runs))])).covers == pytest.approx(covered, abs=0.03)
    else:
        assert 0.93 <= covered <= 0.975


def false_claims(draw_from, runs, trials, seed=0):
    draw = np.random.default_rng(seed)
    found = 0
    for number in range(trials):
        pair = [stats.sample([draw_from(draw, runs)], count=2_000, seed=2 * number + side) for side in (0, 1)]
        found += stats.compare(*pair).better != 0
    return found / trials


@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("name", DRAWS)
def test_an_algorithm_is_not_better_than_itself(name, runs):
    assert false_claims(DRAWS[name], runs, 200) <= 0.05


def test_a_claim_needs_both_intervals():
    """Of 200 pairs half a deviation apart some convince one of the two alone."""
    draw, torn = np.random.default_rng(5), 0
    for number in range(200):
        pair = [draw.normal(mean, 1, 20) for mean in (0.5, 0.0)]
        made = stats.compare(*(stats.sample([s], count=1_000, seed=2 * number + i) for i, s in enumerate(pair)))
        both = made.difference.low > 0, made.probability.low > 0.5
        assert made.better == int(all(both))
        torn += both[0] and not both[1]
    assert torn


def test_a_real_difference_is_claimed_and_its_direction_is_right():
    draw = np.random.default_rng(0)
    low, high = (stats.sample([draw.normal(mean, 1, 10)], seed=seed) for seed, mean in enumerate([0.0, 3.0]))
    assert (stats.compare(high, low).better, stats.compare(low, high).better) == (1, -1)
    assert stats.compare(high, low).difference.low > 0 and stats.compare(high, low).probability.value > 0.9


def test_more_comparisons_need_more_for_a_claim():
    draw = np.random.default_rng(3)
    pairs = [[stats.sample([draw.normal(m, 1, 8)], seed=s) for s, m in enumerate([1.2, 0.0])] for _ in range(40)]
    alone, among = (sum(stats.compare(*pair, claims=n).better == 1 for pair in pairs) for n in (1, 20))
    assert among < alone


def test_too_few_seeds_make_no_claim():
    pair = [stats.sample([np.arange(4.0) + shift], seed=seed) for seed, shift in enumerate([0.0, 100.0])]
    assert stats.compare(*pair).better is None
    assert stats.compare(stats.sample([np.ones(1)]), pair[0]).better is None


def test_a_band_is_the_estimate_at_every_point():
    values = np.random.default_rng(0).normal(size=(12, 7))
    centre, low, high = stats.band(values, count=1_000)
    for at in range(7):
        made = stats.estimate(stats.sample([values[:, at]], count=1_000))
        assert (centre[at], low[at], high[at]) == pytest.approx(made[:3], abs=1e-12)
    assert np.all(stats.band(values, kind="range")[1] == values.min(axis=0))
    np.testing.assert_allclose(stats.band(values, kind="std")[2], values.mean(0) + values.std(0, ddof=1))


def test_the_same_scores_give_the_same_interval():
    scores = [np.random.default_rng(0).normal(size=9)]
    assert stats.estimate(stats.sample(scores)) == stats.estimate(stats.sample(scores))


def test_wilsons_interval_is_statisticians():
    low, high = stats.share_interval(np.array([0.0, 0.3, 1.0]), 10)
    for share, *edges in zip([0, 3, 10], low, high):
        expected = scipy_stats.binomtest(share, 10).proportion_ci(method="wilson")
        assert edges == pytest.approx([expected.low, expected.high], abs=1e-9)
