"""Schedules: the factor at hand-computed points, what they count, and what they refuse."""

import dataclasses
import math
import typing

import numpy as np
import pydantic
import pytest
import tensorflow as tf

from rlresearch.errors import ConfigError
from rlresearch.schedules import Constant, Exponential, Linear, Piecewise, RunLength, fitted
from rlresearch.types import Progress

EVERY = [Constant(), Linear(over=50), Exponential(), Piecewise(boundaries=(10, 20), factors=(1.0, 0.5, 0.1))]


def at(step=0, episode=0.0, update=0):
    return Progress(tf.constant(step, tf.int64), tf.constant(episode, tf.float32), tf.constant(update, tf.int64))


def test_constant_is_always_one():
    assert [Constant()(at(step=step)).numpy() for step in (0, 10**9)] == [1.0, 1.0]


@pytest.mark.parametrize(
    "step, factor", [(0, 2.0), (100, 2.0), (150, 1.75), (200, 1.5), (299, 1.005), (300, 1.0), (301, 1.0), (10**9, 1.0)]
)
def test_linear_is_clamped_at_both_ends(step, factor):
    schedule = Linear(start=2.0, end=1.0, begin=100, over=200)
    np.testing.assert_allclose(schedule(at(step=step)), factor, rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(start=2.0, end=0.3, begin=7, over=30),
        Linear(start=0.1, end=0.1, over=1),
        Exponential(rate=0.9, every=3, floor=0.2, per="step"),
        Exponential(rate=1.0, per="step"),
        Piecewise(boundaries=(10, 20), factors=(1.0, 0.5, 0.1)),
    ],
)
def test_a_schedule_is_known_before_the_run_as_it_is_in_it(schedule):
    for count in (0, 1, 7, 9, 10, 11, 19, 20, 36, 37, 38, 1000):
        np.testing.assert_allclose(schedule.value_at(count), schedule(at(step=count)), rtol=1e-5)


# Schedules that last as long as a run.


@dataclasses.dataclass(frozen=True)
class Part:
    schedule: object = Linear(end=0.1)
    other: object = Linear(over=10)
    inner: object = None
    name: str = "part"


def test_a_line_of_no_length_ends_with_the_run_wherever_it_is():
    per_update = Linear(begin=40, per="update")
    made, paths = fitted(Part(inner=Part(schedule=per_update)), RunLength(step=7000, update=240))
    assert sorted(paths) == ["inner.schedule", "schedule"]
    assert (made.schedule.over, made.other.over, made.inner.other.over) == (7000, 10, 10)
    assert made.inner.schedule == Linear(begin=40, over=200, per="update")
    assert made.schedule(at(step=6999)).numpy() > np.float32(0.1) == made.schedule(at(step=7000)).numpy()


def test_what_has_lengths_of_its_own_is_left_alone():
    part = Part(schedule=Exponential(), inner=Piecewise((3,), (1.0, 0.5)))
    made, paths = fitted(part, RunLength(100, 100))
    assert made is part and paths == []


def test_a_line_that_begins_after_the_run_is_no_error():
    assert fitted(Linear(begin=500), RunLength(100, 0))[0].value_at(100) == 1.0


def test_a_line_of_no_length_has_no_episodes_and_no_factor():
    with pytest.raises(ConfigError, match="over=null: must be a number with per=episode"):
        Linear(per="episode")
    for ask in (lambda: Linear()(at()), lambda: Linear().value_at(3)):
        with pytest.raises(ConfigError, match="over=null: schedules.fitted gives the line the length of a run"):
            ask()


def test_linear_reaches_its_end_exactly():
    assert Linear(start=1.0, end=0.1, over=10)(at(step=10)).numpy() == np.float32(0.1)


def test_linear_tells_neighbouring_steps_apart_beyond_float32():
    schedule = Linear(begin=2**30, over=4)
    assert [schedule(at(step=2**30 + i)).numpy() for i in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("episode, factor", [(0, 1.0), (1, 0.9**0.5), (2, 0.9), (10, 0.9**5), (1000, 0.2)])
def test_exponential_falls_smoothly_to_its_floor(episode, factor):
    schedule = Exponential(rate=0.9, every=2, floor=0.2)
    np.testing.assert_allclose(schedule(at(episode=episode)), factor, rtol=1e-6)


def test_exponential_halves_as_the_default_decay_says():
    np.testing.assert_allclose(Exponential()(at(episode=math.log(0.5) / math.log(0.99))), 0.5, rtol=1e-5)


@pytest.mark.parametrize("step, factor", [(0, 1.0), (9, 1.0), (10, 0.5), (19, 0.5), (20, 0.1), (10**9, 0.1)])
def test_piecewise_changes_from_each_boundary_on(step, factor):
    schedule = Piecewise(boundaries=(10, 20), factors=(1.0, 0.5, 0.1))
    assert schedule(at(step=step)).numpy() == np.float32(factor)


def test_piecewise_without_boundaries_is_constant():
    assert Piecewise(boundaries=(), factors=(0.3,))(at(step=5)).numpy() == np.float32(0.3)


@pytest.mark.parametrize("per", ["step", "episode", "update"])
def test_per_selects_what_is_counted(per):
    counts = {"step": 0, "episode": 0, "update": 0}
    schedules = [
        Linear(over=4, per=per),
        Exponential(rate=0.5, every=1, per=per),
        Piecewise(boundaries=(2,), factors=(1.0, 0.0), per=per),
    ]
    assert [schedule(at(**counts)).numpy() for schedule in schedules] == [1.0, 1.0, 1.0]
    assert [schedule(at(**counts | {per: 2})).numpy() for schedule in schedules] == [0.5, 0.25, 0.0]


@pytest.mark.parametrize("schedule", EVERY)
def test_a_factor_is_a_float32_scalar(schedule):
    factor = schedule(at(3, 4.0, 5))
    assert factor.dtype == tf.float32 and factor.shape == ()


@pytest.mark.parametrize("boundaries, factors", [((), ()), ((10,), (1.0,)), ((10,), (1.0, 0.5, 0.1))])
def test_piecewise_refuses_a_wrong_number_of_factors(boundaries, factors):
    with pytest.raises(ConfigError, match=f"{len(boundaries)} boundaries and {len(factors)} factors: give") as error:
        Piecewise(boundaries=boundaries, factors=factors)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("boundaries", [(20, 10), (10, 10)])
def test_piecewise_refuses_boundaries_that_do_not_rise(boundaries):
    with pytest.raises(ConfigError, match="do not rise strictly"):
        Piecewise(boundaries=boundaries, factors=(1.0, 0.5, 0.1))


@pytest.mark.parametrize(
    "kind, field, value",
    [
        (Linear, "over", 0),
        (Linear, "begin", -1),
        (Linear, "start", -0.5),
        (Linear, "per", "epoch"),
        (Exponential, "rate", 1.5),
        (Exponential, "rate", 0.0),
        (Exponential, "every", 0),
        (Piecewise, "boundaries", (-1,)),
        (Piecewise, "factors", (1.0, -1.0)),
    ],
)
def test_the_hints_refuse_what_makes_no_sense(kind, field, value):
    hint = typing.get_type_hints(kind, include_extras=True)[field]
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(hint).validate_python(value)


@pytest.mark.parametrize("schedule", EVERY)
def test_the_hints_accept_the_defaults(schedule):
    hints = typing.get_type_hints(type(schedule), include_extras=True)
    for field in dataclasses.fields(schedule):
        value = getattr(schedule, field.name)
        assert pydantic.TypeAdapter(hints[field.name]).validate_python(value) == value


def test_float_fields_can_differ_between_mapped_members():
    values, episodes = tf.constant([0.25, 0.5, 0.75]), tf.constant([1.0, 3.0, 50.0])

    def factors(value, episode):
        progress = at(step=5)._replace(episode=episode)
        return tf.stack(
            [
                Linear(start=1.0, end=value, over=10)(progress),
                Exponential(rate=value, floor=value / 10)(progress),
                Piecewise(boundaries=(2,), factors=(1.0, value), per="episode")(progress),
            ]
        )

    @tf.function(jit_compile=True)
    def together(values, episodes):
        return tf.vectorized_map(lambda pair: factors(*pair), (values, episodes), fallback_to_while_loop=False)

    alone = [factors(float(value), episode) for value, episode in zip(values, episodes)]
    np.testing.assert_allclose(together(values, episodes), alone, rtol=1e-6)
