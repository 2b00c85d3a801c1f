"""Running normalisation: its statistics are numpy's of all that was seen, and stand still while it matters."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from conftest import RandomActions, leaves, make_plan, same_bits, spec_of

from rlresearch import rng
from rlresearch.buffers import Rollout, Uniform
from rlresearch.normalize import Identity, Moments, Running, deviation, merge, moments_of, no_moments
from rlresearch.runners.step import TrainingStep
from rlresearch.types import StepResult, TimeStep

SPEC = spec_of(3, 1, 2)
STEPS = 4


def number(x):
    return tf.constant(x, tf.float32)


# Moments.


@pytest.mark.parametrize("cuts", [[], [1], [5, 5, 12], [3, 20, 39], list(range(1, 40))], ids=str)
def test_moments_are_numpys_however_the_rows_were_split(cuts):
    rows = np.random.default_rng(0).normal([100.0, -3.0, 0.0], [0.5, 7.0, 1e-3], (40, 3)).astype(np.float32)
    moments = no_moments((3,))
    for part in np.split(rows, cuts):
        moments = merge(moments, moments_of(number(part)) if len(part) else no_moments((3,)))
    assert moments.count == 40.0
    np.testing.assert_allclose(moments.mean, rows.mean(0, np.float64), rtol=1e-12)
    np.testing.assert_allclose(deviation(moments), np.sqrt(rows.var(0, dtype=np.float64) + 1e-8), rtol=1e-9)


def test_merging_has_no_order():
    draw = np.random.default_rng(1)
    one, two = (moments_of(number(draw.normal(mean, 2.0, (rows, 3)))) for mean, rows in ((0.0, 7), (5.0, 30)))
    for ours, theirs in zip(merge(one, two), merge(two, one)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# Millions of rows, far from 0: as a float64 computation of all of them at once.


def fed(rows, state=None, normalizer=Running(clip=1e9)):
    """The state after rows float32[T, N], each an observation and a reward of N environments, used at once."""
    spec = spec_of(1, 1, rows.shape[1])
    stay = tf.zeros(rows.shape[1], tf.bool)

    @tf.function(jit_compile=True)
    def loop(state, rows):
        def one(t, state):
            obs = rows[t][:, None]
            result = StepResult(rows[t], stay, stay, obs)
            return t + 1, normalizer.commit(normalizer.accumulate(state, TimeStep(obs, stay), result, 0.5))

        return tf.while_loop(lambda t, _: t < rows.shape[0], one, (0, state))[1]

    return loop(state or normalizer.init(spec), tf.constant(rows))


def errors(state, rows, before=(0.0, 0.0, 0.0), normalizer=Running(clip=1e9)):
    """How far (the mean, the deviation, a normalised row) are from float64's, in deviations of all rows.

    before: count, mean and deviation of rows that came first.
    """
    wide, (count, middle, spread) = rows.astype(np.float64).ravel(), before
    total = count + wide.size
    mean = (count * middle + wide.sum()) / total
    square = count * (spread**2 + (middle - mean) ** 2) + np.square(wide - mean).sum()
    scale = np.sqrt(square / total + 1e-8)
    seen = normalizer.observations(state, number([[wide[-1]]])).numpy().item()
    moments = state.observations
    return (moments.mean[0] - mean) / scale, deviation(moments)[0] / scale - 1.0, seen - (wide[-1] - mean) / scale


@pytest.mark.parametrize("num_envs", [1, 5])
@pytest.mark.parametrize("begin, end", [(0.0, 1.0), (0.0, 1000.0), (1000.0, 0.0), (1e6, 1e6)])
def test_a_million_rows_around_a_drifting_mean_are_float64s(num_envs, begin, end):
    rows = np.linspace(begin, end, 1_000_000 // num_envs)[:, None]
    rows = (rows + np.random.default_rng(0).normal(size=(len(rows), num_envs))).astype(np.float32)
    state = fed(rows)
    assert state.observations.count.numpy() == rows.size
    np.testing.assert_allclose(errors(state, rows), 0.0, atol=1e-6 * (1.0 + max(abs(begin), abs(end))) ** 0.5)


@pytest.mark.parametrize("count", [2.0**24, 1e8, 1e9])
@pytest.mark.parametrize("away", [0.0, 1000.0])
def test_after_a_billion_rows_each_row_still_counts(count, away):
    def there(moments):
        like = lambda leaf, value: tf.zeros_like(leaf) + tf.cast(value, leaf.dtype)  # noqa: E731
        return Moments(like(moments.count, count), like(moments.mean, 7.0), like(moments.m2, count * 4.0))

    rows = (7.0 + away + 2.0 * np.random.default_rng(1).normal(size=(300_000, 1))).astype(np.float32)
    empty = Running(clip=1e9).init(spec_of(1, 1, 1))
    state = fed(rows, empty._replace(observations=there(empty.observations)))
    assert state.observations.count.numpy() == count + len(rows)
    np.testing.assert_allclose(errors(state, rows, (count, 7.0, 2.0)), 0.0, atol=1e-5)


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize("value", [0.3, 1234.567, -1e6, 1e9, 1.7e9])
def test_a_constant_is_seen_as_0_and_a_step_away_from_it_is_not(num_envs, value):
    state = fed(np.full((3000, num_envs), value, np.float32))
    seen = Running(clip=1e9).observations(state, number([[value], [np.nextafter(np.float32(value), np.inf)]]))
    assert seen[0, 0].numpy() == 0.0 and seen[1, 0].numpy() > 1e-4


def test_returns_are_summed_as_precisely():
    """Rewards drift by 1,000 of their deviations; half of the last return stays in each next one."""
    rows = (np.linspace(0.0, 1000.0, 200_000) + np.random.default_rng(2).normal(size=200_000)).astype(np.float32)
    state = fed(rows[:, None])
    running, seen = 0.0, np.zeros(len(rows))
    for t, reward in enumerate(rows.tolist()):
        running = seen[t] = 0.5 * running + reward
    np.testing.assert_allclose(deviation(state.returns) / seen.std(), 1.0, rtol=1e-9)


# What is shown.


def having(observations=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), returns=(0.0, 1.0), normalizer=Running()):
    """A state whose statistics count 10 rows of these means and deviations."""
    (mean, std), (middle, of_returns) = observations, returns
    wide = lambda x: tf.constant(x, tf.float64)  # noqa: E731
    seen = Moments(wide(10.0), wide(mean), 10.0 * tf.square(wide(std)))
    return normalizer.init(SPEC)._replace(
        observations=seen if normalizer.obs else (),
        returns=Moments(wide(10.0), wide(middle), wide(10.0 * of_returns**2)) if normalizer.reward else (),
    )


def test_observations_are_shifted_and_scaled_each_by_its_own_and_clipped():
    state = having(observations=((1.0, 0.0, -2.0), (2.0, 0.5, 1.0)))
    shown = Running(clip=3.0).observations(state, number([[[3.0, 1.0, -2.0]], [[101.0, -1.0, -9.0]]]))
    np.testing.assert_allclose(shown, [[[1.0, 2.0, 0.0]], [[3.0, -2.0, -3.0]]], rtol=1e-6)


def test_rewards_are_scaled_by_the_deviation_of_returns_and_keep_their_sign():
    state = having(returns=(7.0, 4.0))
    np.testing.assert_allclose(Running(clip=5.0).rewards(state, number([2.0, -4.0, 0.0, 400.0])), [0.5, -1.0, 0.0, 5.0])


def test_each_can_be_left_out():
    raw = number([[50.0, 2.0, 3.0]])
    only_rewards, only_obs = Running(obs=False), Running(reward=False)
    assert same_bits(only_rewards.observations(having(normalizer=only_rewards), raw), raw)
    assert same_bits(only_obs.rewards(having(normalizer=only_obs), raw), raw)
    assert not same_bits(only_rewards.rewards(having(normalizer=only_rewards), raw), raw)
    assert not same_bits(only_obs.observations(having(normalizer=only_obs), raw), raw)


@pytest.mark.parametrize("normalizer", [Identity(), Running()])
def test_nothing_is_changed_before_anything_counts(normalizer):
    state, raw = normalizer.init(SPEC), number([[1000.0, -1000.0, 3.0]])
    assert same_bits(normalizer.observations(state, raw), raw) and same_bits(normalizer.rewards(state, raw), raw)


def test_one_observation_is_no_statistic():
    """Its deviation of 0 would blow up every other."""
    one = having()
    one = one._replace(observations=moments_of(number([[1.0, 2.0, 3.0]])), returns=moments_of(number([5.0])))
    raw = number([[1000.0, -1000.0, 3.0]])
    assert same_bits(Running().observations(one, raw), raw) and same_bits(Running().rewards(one, raw), raw)


# In a run.


class Seen(NamedTuple):
    """What `Watcher` was shown: when it acted last, and in the rollout it learned from last."""

    acted_on: tf.Tensor
    obs: tf.Tensor
    next_obs: tf.Tensor
    reward: tf.Tensor


@dataclass(frozen=True)
class Watcher(RandomActions):
    """Remembers what it is shown; its policy is the first number it sees."""

    LEARNS_FROM: ClassVar[str] = "rollouts"

    def init(self, key):
        rows = (STEPS, 2)
        return Seen(tf.zeros((2, 3)), tf.zeros((*rows, 3)), tf.zeros((*rows, 3)), tf.zeros(rows))

    def act(self, state, timestep, key, progress):
        return tf.zeros((2, 1)), state._replace(acted_on=timestep.obs)

    def policy(self, state, obs):
        return obs[:, :1]

    def update(self, state, batch, key, progress):
        return state._replace(obs=batch.obs, next_obs=batch.next_obs, reward=batch.reward), {}, None


class World(NamedTuple):
    """Everything of so many steps of two environments, drawn at random; obs has one more."""

    obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray


def world(steps):
    draw = np.random.default_rng(3)
    rows = lambda more=0: draw.normal(4.0, 3.0, (steps + more, 2, 3)).astype(np.float32)  # noqa: E731
    flags = np.zeros((2, steps, 2), bool)
    flags[0, 2::5, 0] = flags[1, 1::4, 1] = True
    return World(rows(1), draw.normal(1.0, 2.0, (steps, 2)).astype(np.float32), *flags, rows())


def lived(trainer, there, steps):
    """The states after each of the first steps of `there`, the one before them first."""
    timestep = lambda t: TimeStep(number(there.obs[t]), tf.zeros(2, tf.bool))  # noqa: E731
    states = [trainer.init(rng.key(0), (), timestep(0))]
    for t in range(steps):
        action, state = trainer.act(states[-1], tf.constant(t, tf.int64), True)
        outcome = StepResult(*(tf.constant(part[t]) for part in there[1:]))
        state = trainer.collect(state, action, outcome, timestep(t + 1), ())
        if t >= trainer.learning_start_iteration:
            state = trainer.learn(state, tf.constant(t, tf.int64))
        states.append(state)
    return states


def watching(**settings):
    algo = Watcher(SPEC, **dict(learning_starts=0, update_every=STEPS, batch_size=2 * STEPS, gamma=0.8) | settings)
    return TrainingStep(algo, Rollout(2 * STEPS), Running())


def returns_of(there, steps, gamma):
    """The discounted return so far at each step; it begins anew after an episode's end."""
    running, seen = np.zeros(2), []
    for t in range(steps):
        running = gamma * running + there.reward[t]
        seen.append(running)
        running = np.where(there.terminated[t] | there.truncated[t], 0.0, running)
    return np.array(seen)


def test_statistics_are_of_all_that_was_acted_on_when_a_round_is_over():
    there = world(3 * STEPS)
    states = lived(watching(), there, 3 * STEPS)
    for rounds in (1, 2, 3):
        now, seen = states[rounds * STEPS].normalizer, there.obs[: rounds * STEPS].reshape(-1, 3)
        np.testing.assert_allclose(now.observations.mean, seen.mean(0), rtol=1e-5)
        np.testing.assert_allclose(deviation(now.observations), seen.std(0), rtol=1e-5)
        returns = returns_of(there, rounds * STEPS, 0.8)
        assert now.returns.count == returns.size
        np.testing.assert_allclose(deviation(now.returns), returns.std(), rtol=1e-5)


def test_statistics_stand_still_within_a_round():
    states = lived(watching(), world(3 * STEPS), 3 * STEPS)
    for t in range(3 * STEPS):
        before, after = states[t].normalizer, states[t + 1].normalizer
        within = (t + 1) % STEPS > 0
        assert same_bits(before.observations, after.observations) == within
        assert same_bits(before.returns, after.returns) == within


def test_what_is_learned_from_is_what_was_acted_on():
    """Every observation is shown twice alike; the buffer keeps the environment's own."""
    there = world(2 * STEPS)
    states = lived(watching(), there, 2 * STEPS)
    rows = range(STEPS, 2 * STEPS)
    shown = states[-1].algo
    np.testing.assert_array_equal(shown.obs, np.stack([states[t + 1].algo.acted_on for t in rows]))
    first = there.obs[:STEPS].reshape(-1, 3)
    for ours, raw in ((shown.obs, there.obs), (shown.next_obs, there.next_obs)):
        np.testing.assert_allclose(ours, (raw[rows] - first.mean(0)) / first.std(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(shown.reward, there.reward[rows] / returns_of(there, STEPS, 0.8).std(), rtol=1e-4)
    held = Rollout(2 * STEPS).sample(states[-1].buffer, rng.key(0), 2 * STEPS, 0.8, None)
    np.testing.assert_array_equal(held.obs, there.obs[rows])
    np.testing.assert_array_equal(held.reward, there.reward[rows])


def test_steps_before_learning_count_too():
    there = world(4 * STEPS)
    states = lived(watching(learning_starts=5 * STEPS), there, 4 * STEPS)
    assert states[2 * STEPS].normalizer.observations.count == 0.0
    assert states[3 * STEPS].normalizer.observations.count == 2 * 3 * STEPS
    np.testing.assert_allclose(
        states[3 * STEPS].normalizer.observations.mean, there.obs[: 3 * STEPS].mean((0, 1)), rtol=1e-5
    )


def test_evaluation_sees_the_statistics_and_does_not_move_them():
    trainer, there = watching(), world(STEPS)
    state = lived(trainer, there, STEPS)[-1]
    before = [leaf.copy() for leaf in leaves(state.normalizer)]
    seen = there.obs[:STEPS].reshape(-1, 3)
    obs = number(np.random.default_rng(9).normal(size=(50, 3)))
    shown = trainer.policy(state, obs)[:, 0]
    np.testing.assert_allclose(shown, (obs[:, 0] - seen.mean(0)[0]) / seen.std(0)[0], rtol=1e-4, atol=1e-5)
    assert same_bits(before, state.normalizer)


def test_replay_is_seen_through_the_newest_statistics():
    """Without rollouts every round moves them, and old rows are shown anew."""
    trainer = make_plan("ddpg", "normalize=running", "env.num_envs=2", learning_starts=0).trainer
    trainer = TrainingStep(trainer.algo, Uniform(100), Running())
    there = world(6)
    now = lived(trainer, there, 6)[-1].normalizer
    assert now.observations.count == now.returns.count == 12.0 and now.pending_observations.count == 0.0
    np.testing.assert_allclose(now.observations.mean, there.obs[:6].mean((0, 1)), rtol=1e-5)
