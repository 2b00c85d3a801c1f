"""Curves of several runs stand on the same steps; nothing is invented beyond where runs went."""

import math

import numpy as np
import pytest

from rlresearch.review.runs import curves
from rlresearch.review.runs.curves import Curve


def _line(steps, values=None):
    steps = np.asarray(steps, dtype=float)
    return Curve(steps, np.asarray(steps if values is None else values, dtype=float))


def test_runs_with_the_same_steps_are_left_as_they_are():
    lines = [_line([10, 20, 30], [1, 2, 3]), _line([10, 20, 30], [3, 2, 1])]
    made = curves.align(lines)
    assert made.x.tolist() == [10, 20, 30] and made.y.tolist() == [[1, 2, 3], [3, 2, 1]] and made.cut == 0


def test_runs_with_other_steps_meet_where_all_of_them_went():
    made = curves.align([_line([0, 10, 20, 40]), _line([5, 15, 30])])
    assert made.x.tolist() == [5, 10, 15, 20, 30]
    np.testing.assert_allclose(made.y, [made.x, made.x])
    assert made.cut == 0  # 30 is within one gap of 40
    assert curves.align([_line([0, 10, 20, 40, 60, 80]), _line([0, 10])]).cut == 1


def test_runs_that_never_meet_and_runs_without_rows_give_nothing():
    assert curves.align([]).x.size == 0
    assert curves.align([_line([0, 1]), _line([5, 6])]).x.size == 0
    assert curves.align([_line([]), _line([5, 6])]).y.shape == (1, 2)


def test_many_points_are_thinned_to_ends_and_peaks():
    values = np.sin(np.arange(10_000) / 50.0)
    values[1234] = 99.0
    thin = curves.thin(_line(np.arange(10_000), values), 200)
    assert len(thin.x) <= 202 and 99.0 in thin.y and (thin.x[0], thin.x[-1]) == (0, 9999)
    assert np.all(np.diff(thin.x) > 0)
    assert len(curves.align([_line(np.arange(10_000))] * 2, 100).x) == 100


def test_smoothing_is_the_mean_of_the_last_points():
    line = _line([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0])
    assert curves.smooth(line, 2).y.tolist() == [1.0, 2.0, 4.0, 6.0]
    assert curves.smooth(line, 0) is line
    half = curves.smooth(line, 0.5).y
    assert half[0] == 1.0 and half[1] == pytest.approx((0.25 * 1 + 0.5 * 3) / 0.75)
    assert curves.smooth(_line(range(9), np.full(9, 4.0)), 0.9).y == pytest.approx(np.full(9, 4.0))


def test_the_value_at_a_step_is_the_newest_until_then_and_never_from_beyond_the_end():
    line = _line([10, 20, 30], [1, 2, 3])
    assert [curves.value_at(line, at) for at in (10, 19, 20, 30, None)] == [1, 1, 2, 3, 3]
    assert math.isnan(curves.value_at(line, 9)) and math.isnan(curves.value_at(line, 31))
    assert math.isnan(curves.value_at(_line([]), None))


def test_a_threshold_is_reached_once_or_never():
    line = _line([10, 20, 30], [1, 5, 2])
    assert [curves.reached(line, at) for at in (1, 4, 6)] == [10, 20, math.inf]
    assert curves.reached(line, 0.5, lower=True) == math.inf and curves.reached(line, 1, lower=True) == 10


def test_rows_without_the_metric_are_no_points():
    columns = {"step": np.array([1.0, 2, 3]), "loss/a": np.array([np.nan, 5, np.inf])}
    assert curves.curve(columns, "loss/a").x.tolist() == [2]
    assert curves.curve(columns, "loss/b").x.size == 0
