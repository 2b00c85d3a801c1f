"""Noise follows its law in every environment apart; replay gives back what was stored, each row as likely."""

import math

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import progress, replay_rows

from rlresearch import rng
from rlresearch.buffers import OnlineBuffer, Uniform
from rlresearch.noise import Gaussian, NoNoise, OrnsteinUhlenbeck
from rlresearch.schedules import Exponential, Linear
from rlresearch.types import Transition

ENVS = 4_000


def first(*flags):
    return tf.constant(flags)


def never(num_envs):
    return tf.zeros(num_envs, tf.bool)


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_gaussian_noise_has_its_deviation(sigma):
    noise = Gaussian(sigma)
    drawn, _ = noise.sample(noise.init(ENVS, 2), never(ENVS), rng.key(0), progress())
    assert drawn.shape == (ENVS, 2)
    assert scipy.stats.kstest(drawn.numpy().ravel(), "norm", args=(0.0, sigma)).pvalue > 1e-3


@pytest.mark.parametrize("make", [Gaussian, OrnsteinUhlenbeck])
def test_the_schedule_scales_the_noise(make):
    key, where = rng.key(0), progress(step=5_000, episode=7.0)
    draw = lambda schedule: _once(make(0.2, schedule=schedule), key, where)  # noqa: E731
    whole = _once(make(0.2), key, where)
    np.testing.assert_allclose(draw(Linear(1.0, 0.0, over=10_000)), 0.5 * whole, rtol=1e-6)
    np.testing.assert_allclose(draw(Exponential(0.9, per="episode")), 0.9**7 * whole, rtol=1e-5)


def test_the_schedule_does_not_shrink_what_ou_noise_remembers():
    faded, whole = OrnsteinUhlenbeck(schedule=Exponential(0.5)), OrnsteinUhlenbeck()
    where = progress(episode=3.0)
    _, kept = faded.sample(faded.init(3, 1), never(3), rng.key(0), where)
    _, expected = whole.sample(whole.init(3, 1), never(3), rng.key(0), where)
    np.testing.assert_array_equal(kept, expected)


def _once(noise, key, where):
    return noise.sample(noise.init(3, 2), never(3), key, where)[0].numpy()


@pytest.mark.parametrize("noise", [Gaussian(0.5), OrnsteinUhlenbeck(0.5)])
def test_every_environment_and_action_draws_its_own_noise(noise):
    state = noise.init(6, 3)
    one, state = noise.sample(state, never(6), rng.key(0), progress())
    two, _ = noise.sample(state, never(6), rng.key(1), progress())
    assert len(set(np.concatenate([one, two]).ravel().tolist())) == 36


def test_no_noise_is_zero():
    noise = NoNoise()
    drawn, state = noise.sample(noise.init(3, 2), never(3), rng.key(0), progress())
    assert drawn.shape == (3, 2) and not np.any(drawn) and not np.any(state)


def test_ou_noise_has_the_moments_of_its_recursion():
    """x' = a x + b N with a = 1 - theta dt, b = sigma sqrt(dt): variance b^2 / (1 - a^2), correlation a^k."""
    noise = OrnsteinUhlenbeck(sigma=0.3, theta=0.4, mu=0.2, dt=0.5)
    a, b = 1.0 - 0.4 * 0.5, 0.3 * math.sqrt(0.5)

    @tf.function
    def run(state):
        for i in tf.range(60):
            _, state = noise.sample(state, never(ENVS), rng.fold_in(rng.key(3), i), progress())
        later = state
        for i in tf.range(60, 63):
            out, later = noise.sample(later, never(ENVS), rng.fold_in(rng.key(3), i), progress())
        return state, later, out

    early, later, out = (x.numpy()[:, 0] for x in run(noise.init(ENVS, 1)))
    np.testing.assert_array_equal(later, out)
    deviation = b / math.sqrt(1 - a**2)
    assert early.mean() == pytest.approx(0.2, abs=4 * deviation / math.sqrt(ENVS))
    assert early.std() == pytest.approx(deviation, rel=0.05)
    assert np.corrcoef(early, later)[0, 1] == pytest.approx(a**3, abs=0.05)


def test_ou_noise_begins_again_only_where_an_episode_does():
    noise = OrnsteinUhlenbeck(sigma=0.2, theta=0.15, mu=0.5)
    state = tf.constant([[3.0], [-2.0], [1.0]])
    out, kept = noise.sample(state, first(False, True, False), rng.key(9), progress())
    drawn = 0.2 * rng.normal(rng.key(9), (3, 1)).numpy()
    before = np.array([[3.0], [0.5], [1.0]])
    np.testing.assert_allclose(out, before + 0.15 * (0.5 - before) + drawn, rtol=1e-6)
    np.testing.assert_array_equal(kept, out)
    np.testing.assert_array_equal(noise.init(3, 1), np.full((3, 1), 0.5, np.float32))


# Replay.


def row(*numbers):
    """Transitions that hold a number each, whose oddness is `terminated`."""
    numbers = np.array(numbers)
    return Transition(
        obs=tf.constant(np.repeat(numbers[:, None], 2, axis=1), tf.float32),
        action=tf.constant(numbers, tf.int32),
        reward=tf.constant(numbers, tf.float32),
        terminated=tf.constant(numbers % 2 == 1),
        truncated=tf.zeros(len(numbers), tf.bool),
        next_obs=tf.constant(np.repeat(numbers[:, None], 2, axis=1) + 1, tf.float32),
    )


def stored(buffer, *chunks):
    state = buffer.init(tf.nest.map_structure(lambda leaf: leaf[0], row(0)), 1)
    for chunk in chunks:
        state = buffer.add(state, row(*chunk))
    return state


def test_the_oldest_row_is_overwritten_first():
    state = stored(Uniform(4), [1], [2], [3], [4], [5], [6])
    assert replay_rows(state).reward.numpy().tolist() == [5, 6, 3, 4]
    assert state.added.numpy() == 6


@pytest.mark.parametrize("capacity, by", [(7, 3), (5, 5), (8, 3), (4, 1)])
def test_wrap_around_keeps_the_newest_rows_whole(capacity, by):
    buffer, added = Uniform(capacity), 0
    state = stored(buffer)
    while added < 3 * capacity + 1:
        state = buffer.add(state, row(*range(added, added + by)))
        added += by
        newest = set(range(max(0, added - capacity), added))
        held = replay_rows(state).reward.numpy()[: min(added, capacity)]
        assert set(held.tolist()) == newest
        np.testing.assert_array_equal(replay_rows(state).terminated.numpy()[: len(held)], held % 2 == 1)
        np.testing.assert_array_equal(replay_rows(state).obs.numpy()[: len(held), 1], held)


def test_only_what_is_stored_is_drawn():
    state = stored(Uniform(100), [7, 8, 9])
    drawn = Uniform(100).sample(state, rng.key(0), 2_000, 1.0, progress()).reward.numpy()
    assert set(drawn.tolist()) == {7.0, 8.0, 9.0}


@pytest.mark.parametrize("chunks", [[range(10)], [range(10), range(10, 20), range(20, 23)]], ids=["full", "wrapped"])
def test_every_row_is_as_likely(chunks):
    buffer = Uniform(10)
    drawn = buffer.sample(stored(buffer, *chunks), rng.key(1), 20_000, 1.0, progress()).reward.numpy()
    values, counts = np.unique(drawn, return_counts=True)
    assert len(values) == 10
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_a_batch_keeps_rows_together_and_types():
    batch = Uniform(6).sample(stored(Uniform(6), range(6), [6, 7]), rng.key(2), 50, 1.0, progress())
    assert batch.obs.shape == (50, 2) and batch.action.dtype == tf.int32 and batch.terminated.dtype == tf.bool
    np.testing.assert_array_equal(batch.terminated, batch.reward.numpy() % 2 == 1)
    np.testing.assert_array_equal(batch.obs[:, 0], batch.reward)
    np.testing.assert_array_equal(batch.action, batch.reward)
    np.testing.assert_array_equal(batch.next_obs[:, 1], batch.reward + 1)
    assert batch.steps.numpy().tolist() == batch.weight.numpy().tolist() == [1.0] * 50
    held = replay_rows(stored(Uniform(6), range(6), [6, 7])).reward.numpy()
    np.testing.assert_array_equal(held[batch.indices], batch.reward)


def test_latest_holds_each_environments_newest_transition():
    buffer = OnlineBuffer()
    state = buffer.init(tf.nest.map_structure(lambda leaf: leaf[0], row(0)), 3)
    for numbers in ((1, 2, 3), (4, 5, 6)):
        state = buffer.add(state, row(*numbers))
        batch = buffer.sample(state, rng.key(0), 1, 1.0, progress())
        assert batch.reward.numpy().tolist() == list(numbers)
        np.testing.assert_array_equal(batch.next_obs[:, 0], np.array(numbers) + 1)
        assert batch.steps.numpy().tolist() == batch.weight.numpy().tolist() == [1.0] * 3


def test_different_keys_draw_different_batches():
    state = stored(Uniform(50), range(50))
    draw = lambda seed: Uniform(50).sample(state, rng.key(seed), 16, 1.0, progress()).reward.numpy()  # noqa: E731
    one, two, again = (draw(seed) for seed in (0, 1, 0))
    assert (one != two).any() and (one == again).all()
