"""Learning from rollouts: PPO and A2C, their advantages, and the buffer that keeps what happened in order."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from conftest import ALGORITHMS as ALL
from conftest import (
    RandomActions,
    apart,
    batch_for,
    homes,
    make_algo,
    make_batch,
    make_plan,
    nudged,
    on_policy,
    progress,
    rollout_of,
    same_bits,
    spec_of,
    update,
)

from rlresearch import ops, rng
from rlresearch.algos.ppo import PPO, Samples
from rlresearch.buffers import Rollout
from rlresearch.runners.step import TrainingStep
from rlresearch.schedules import Linear
from rlresearch.types import StepResult, TimeStep, Transition

ALGORITHMS = [name for name in ALL if on_policy(name)]
IN_EVERY_HOME = [(name, env) for name in ALGORITHMS for env in homes(name)]
KEY = rng.key(7)
LR = 0.1


# Advantages.


def advantages(reward, terminated, truncated, v_tm1, v_t, gamma, gae_lambda):
    """What `ops` makes of them, in the algorithms' way."""
    terminated, truncated = tf.constant(terminated, tf.bool), tf.constant(truncated, tf.bool)
    number = lambda x: tf.constant(x, tf.float32)  # noqa: E731
    ended = tf.logical_or(terminated, truncated)
    discount = ops.discount(gamma, terminated)
    return ops.generalized_advantage(number(reward), discount, ended, number(v_tm1), number(v_t), gae_lambda).numpy()


def averaged_n_step_advantages(reward, terminated, truncated, v_tm1, v_t, gamma, gae_lambda):
    """Equation 16 from its first line, in float64: every n-step advantage of every step, averaged.

    The n-th has the weight (1 - lambda) lambda^(n - 1); the last that the episode, or the rollout, allows has the rest.
    """
    steps, envs = reward.shape
    result = np.zeros((steps, envs))
    for t, n in np.ndindex(steps, envs):
        last = next((k for k in range(t, steps) if terminated[k, n] or truncated[k, n]), steps - 1)
        total, weight_left = 0.0, 1.0
        for k in range(t, last + 1):
            rewards = sum(gamma ** (j - t) * reward[j, n] for j in range(t, k + 1))
            ahead = 0.0 if terminated[k, n] else gamma ** (k + 1 - t) * v_t[k, n]
            weight = weight_left if k == last else (1.0 - gae_lambda) * gae_lambda ** (k - t)
            weight_left -= weight
            total += weight * (rewards + ahead - v_tm1[t, n])
        result[t, n] = total
    return result


def test_advantages_are_those_of_the_table():
    """gamma = lambda = 1/2. Errors: 1 + 2/2 - 1, 2 - 1 (terminated), 3 + 2/2 - 1 (truncated), 4 + 2/2 - 1."""
    column = lambda *numbers: np.array(numbers)[:, None]  # noqa: E731
    ends, values = (column(0, 1, 0, 0), column(0, 0, 1, 0)), (np.ones((4, 1)), np.full((4, 1), 2.0))
    got = advantages(column(1.0, 2.0, 3.0, 4.0), *ends, *values, 0.5, 0.5)
    assert got[:, 0].tolist() == [1.0 + 0.25 * 1.0, 1.0, 3.0, 4.0]


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 5, 16, 37])
def test_advantages_are_averages_of_n_step_advantages_wherever_episodes_end(steps, gae_lambda):
    draw = np.random.default_rng(steps)
    reward, v_tm1, v_t = draw.normal(size=(3, steps, 6))
    terminated, truncated = draw.random((2, steps, 6)) < 0.15
    v_t[:-1] = np.where((terminated | truncated)[:-1], v_t[:-1], v_tm1[1:])
    arguments = (reward, terminated, truncated, v_tm1, v_t, 0.9, gae_lambda)
    np.testing.assert_allclose(advantages(*arguments), averaged_n_step_advantages(*arguments), atol=2e-5)


def test_a_rollout_of_one_long_episode_keeps_its_precision():
    steps = 2_048
    ones, zeros, none = np.ones((steps, 1)), np.zeros((steps, 1)), np.zeros((steps, 1), bool)
    expected = (1.0 - 0.99 ** np.arange(steps, 0, -1)) / 0.01
    np.testing.assert_allclose(advantages(ones, none, none, zeros, zeros, 0.99, 1.0)[:, 0], expected, rtol=1e-5)


def test_advantages_give_no_gradient():
    values = tf.ones((3, 2))
    flags = tf.zeros((3, 2), tf.bool)
    of = lambda v: tf.reduce_sum(ops.generalized_advantage(v, v, flags, v, v, 0.9))  # noqa: E731
    np.testing.assert_array_equal(ops.grad(of, values), np.zeros((3, 2)))


# What is made smaller.


@pytest.mark.parametrize(
    "advantage, objective, slope",
    [(1.0, [0.5, 0.9, 1.1, 1.2], [1.0, 1.0, 1.0, 0.0]), (-1.0, [-0.8, -0.9, -1.1, -1.5], [0.0, -1.0, -1.0, -1.0])],
)
def test_clipping_takes_the_gradient_only_where_the_ratio_went_too_far_already(advantage, objective, slope):
    ratio = tf.constant([0.5, 0.9, 1.1, 1.5])
    of = lambda ratio: ops.clipped_objective(ratio, tf.fill(4, advantage), 0.2)  # noqa: E731
    np.testing.assert_allclose(of(ratio), objective, rtol=1e-6)
    np.testing.assert_allclose(ops.batch_grad(of, ratio), slope, rtol=1e-6)


def test_a_clipped_value_error_is_never_the_smaller_one():
    """Old value 0, clip 1: within it, beyond it away from the target, beyond it towards the target."""
    value, target = tf.constant([0.5, 2.0, 2.0]), tf.constant([3.0, -1.0, 3.0])
    of = lambda value: ops.clipped_value_error(value, tf.zeros(3), target, 1.0)  # noqa: E731
    np.testing.assert_allclose(of(value), [2.5**2, 3.0**2, 2.0**2], rtol=1e-6)
    np.testing.assert_allclose(ops.batch_grad(of, value), [2 * -2.5, 2 * 3.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(ops.clipped_value_error(value, tf.zeros(3), target, None), [2.5**2, 3.0**2, 1.0])


def test_standardized_numbers_have_mean_0_and_deviation_1_whatever_their_unit():
    x = np.random.default_rng(0).normal(3.0, 50.0, 64).astype(np.float32)
    np.testing.assert_allclose(ops.standardized(tf.constant(x)), (x - x.mean()) / x.std(), atol=1e-5)


# One gradient step of each algorithm, beside the policy gradient written out.


def plain(name, env, **settings):
    """(algorithm, state): one epoch of one minibatch, plain gradient descent, no clipping, biases not 0."""
    whole = dict(epochs=1, minibatches=1, normalize_advantages=True) | settings
    algo = make_algo(name, f"env={env}", "optimizer=sgd", f"optimizer.lr={LR}", "optimizer.max_grad_norm=null", **whole)
    return algo, nudged(algo.init(rng.key(3)), 0.05)


def rollout(algo):
    """Four steps of three environments; what a step leads to is where the next begins, unless an episode ends."""
    flags = {"terminated": np.isin(np.arange(12), (3, 11)), "truncated": np.isin(np.arange(12), (2, 7))}
    batch = rollout_of(first_step(batch_for(algo, 12, **flags)), 4)
    ended = tf.logical_or(batch.terminated, batch.truncated)[:-1, :, None]
    follows = tf.where(ended, batch.next_obs[:-1], batch.obs[1:])
    return batch._replace(next_obs=tf.concat([follows, batch.next_obs[-1:]], axis=0))


def first_step(batch):
    return tf.nest.map_structure(lambda leaf: leaf[0], batch)


def densities(algo, outputs, log_std, action):
    """(log-probabilities [B], entropies [B]) by scipy's formulas, in TensorFlow for their gradients."""
    if hasattr(algo.spec.action_space, "n"):
        logs = tf.math.log(tf.nn.softmax(outputs))
        return tf.gather(logs, action, batch_dims=1), -tf.reduce_sum(tf.exp(logs) * logs, axis=1)
    variance = tf.exp(2.0 * log_std)
    each = -tf.square(action - outputs) / (2.0 * variance) - 0.5 * tf.math.log(2.0 * np.pi * variance)
    entropy = tf.reduce_sum(0.5 * tf.math.log(2.0 * np.pi * np.e * variance)) * tf.ones(outputs.shape[0])
    return tf.reduce_sum(each, axis=1), entropy


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("name, env", IN_EVERY_HOME)
def test_the_first_step_is_the_policy_gradient(name, env, normalize):
    """log pi times constant advantages, over all rows at once; values towards constant targets; more entropy."""
    weights = dict(value_weight=0.3, entropy_weight=0.2, gae_lambda=0.8)
    algo, state = plain(name, env, normalize_advantages=normalize, **weights)
    batch = rollout(algo)
    obs, next_obs = (tf.reshape(part, (12, -1)) for part in (batch.obs, batch.next_obs))
    action = tf.reshape(batch.action, (12, *batch.action.shape[2:]))
    v_tm1, v_t = (algo.critic_net.apply(state.critic, each).numpy().reshape(4, 3) for each in (obs, next_obs))
    ends = (batch.terminated.numpy(), batch.truncated.numpy())
    advantage = averaged_n_step_advantages(batch.reward.numpy(), *ends, v_tm1, v_t, algo.gamma, 0.8)
    target = (advantage + v_tm1).ravel()
    if normalize:
        advantage = (advantage - advantage.mean()) / advantage.std()

    def loss(parts):
        actor, critic, log_std = parts
        outputs = algo.actor_net.apply(state.actor._replace(trainable=actor), obs)
        log_prob, entropy = densities(algo, outputs, log_std, action)
        values = algo.critic_net.apply(state.critic._replace(trainable=critic), obs)[:, 0]
        policy = tf.reduce_mean(log_prob * tf.constant(advantage.ravel(), tf.float32))
        error = tf.reduce_mean(tf.square(values - tf.constant(target, tf.float32)))
        return -policy + 0.3 * error - 0.2 * tf.reduce_mean(entropy), ()

    parts = (state.actor.trainable, state.critic.trainable, state.log_std)
    _, grads = ops.value_and_grad(loss, parts)
    expected = tf.nest.map_structure(lambda weight, grad: weight - LR * grad, parts, grads)
    after, _ = update(algo, state, batch)
    assert apart((after.actor.trainable, after.critic.trainable, after.log_std), expected) < 1e-5
    assert apart(parts, expected) > 1e-3


@pytest.mark.parametrize("name, env", IN_EVERY_HOME)
def test_each_loss_moves_its_own_network_alone(name, env):
    algo, state = plain(name, env, value_weight=0.0)
    after, _ = update(algo, state, rollout(algo))
    assert same_bits(after.critic, state.critic) and not same_bits(after.actor, state.actor)
    # Zero values and no rewards: no advantage, so nothing but the value's loss is left, and its target is 0.
    algo, state = plain(name, env)
    state = state._replace(critic=tf.nest.map_structure(tf.zeros_like, state.critic))
    after, _ = update(algo, state, rollout(algo)._replace(reward=tf.zeros((4, 3))))
    assert same_bits((after.actor, after.log_std), (state.actor, state.log_std))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_entropy_is_sought_by_its_weight(name):
    """A normal distribution's entropy rises by 1 with each log_std."""
    algo, state = plain(name, "pendulum", entropy_weight=0.5, value_weight=0.0)
    state = state._replace(critic=tf.nest.map_structure(tf.zeros_like, state.critic))
    after, metrics = update(algo, state, rollout(algo)._replace(reward=tf.zeros((4, 3))))
    np.testing.assert_allclose(after.log_std - state.log_std, [LR * 0.5], rtol=1e-5)
    expected = state.log_std.numpy().sum() + 0.5 * np.log(2 * np.pi * np.e)
    assert metrics["policy/entropy"].numpy() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_exploration_draws_from_the_policy_and_stores_what_was_drawn(name):
    """Also outside [-1, 1], where only the environment clips; evaluation takes the mean, clipped."""
    algo = make_algo(name, "env=pendulum", "env.num_envs=2000", initial_log_std=0.5)
    state = algo.init(KEY)
    obs = tf.zeros((2000, 3))
    actions, _ = algo.act(state, TimeStep(obs, tf.ones(2000, tf.bool)), KEY, progress())
    assert np.std(actions) == pytest.approx(np.exp(0.5), rel=0.05) and np.abs(actions).max() > 1.0
    assert np.mean(actions) == pytest.approx(float(algo.policy(state, obs)[0, 0]), abs=0.15)


@pytest.mark.parametrize("name, env", IN_EVERY_HOME)
def test_the_likeliest_action_of_all_is_evaluated(name, env):
    algo, state = plain(name, env)
    obs = tf.reshape(batch_for(algo, 40).obs, (40, -1)) * 3.0
    outputs = algo.actor_net.apply(state.actor, obs)
    likeliest = tf.argmax(outputs, axis=1) if env == "cartpole" else tf.clip_by_value(outputs, -1.0, 1.0)
    np.testing.assert_array_equal(algo.policy(state, obs), likeliest)


# PPO's epochs.


@pytest.mark.parametrize("env", homes("ppo"))
def test_the_ratio_is_1_until_the_first_step(env):
    """Old log-probabilities are those of the parameters that act, whatever these were before."""
    algo, state = plain("ppo", env, clip=1e-5)
    once = update(algo, state, rollout(algo))[1]
    assert once["policy/clipped"] == 0.0 and abs(once["policy/kl"]) < 1e-6
    twice = update(replace(algo, epochs=2), state, rollout(algo))[1]
    assert twice["policy/clipped"] > 0.3 and twice["policy/kl"] > 1e-5


@pytest.mark.parametrize("env", homes("ppo"))
def test_divergence_and_clipped_share_are_from_the_policy_that_acted(env):
    """Two epochs of one minibatch: at the first the ratio is 1, at the second what the first step made of it."""
    algo, state = plain("ppo", env, clip=0.005)
    after, _ = update(algo, state, rollout(algo))
    obs, action = (tf.reshape(part, (12, *part.shape[2:])) for part in (rollout(algo).obs, rollout(algo).action))
    old, new = (
        densities(algo, algo.actor_net.apply(each.actor, obs), each.log_std, action)[0].numpy()
        for each in (state, after)
    )
    ratio = np.exp(new - old)
    assert np.any(ratio > 1.005) and np.any(ratio < 0.995)
    metrics = update(replace(algo, epochs=2), state, rollout(algo))[1]
    assert metrics["policy/kl"].numpy() == pytest.approx(np.mean(ratio - 1.0 - (new - old)) / 2, abs=1e-5)
    assert metrics["policy/clipped"].numpy() == pytest.approx(np.mean(np.abs(ratio - 1.0) > 0.005) / 2)


class Dealt(PPO):
    """PPO whose state is a list of the rows that each step was given, and how many steps there were."""

    def _samples(self, state, batch):
        number = tf.reshape(batch.reward, (-1,))
        return Samples(number, number, number, number, number, number)

    def _step(self, state, rows, progress):
        steps, given = state
        given = tf.tensor_scatter_nd_update(given, [[steps]], rows.value[None])
        return (steps + 1, given), {name: tf.constant(0.0) for name in self.METRICS}


def test_every_epoch_uses_every_step_once_in_a_new_order():
    algo = make_algo("ppo")
    algo = Dealt(algo.spec, algo.actor, algo.critic, algo.optimizer, epochs=3, minibatches=4)
    numbers = tf.reshape(tf.range(24.0), (8, 3))
    batch = rollout_of(make_batch(24), 8)._replace(reward=numbers)
    empty = (tf.constant(0), tf.zeros((12, 6)))
    (steps, given), _ = update(algo, empty, batch)
    assert steps == 12
    epochs = given.numpy().reshape(3, 24)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(24))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3
    assert not same_bits(update(algo, empty, batch, rng.key(8))[0], (steps, given))


def test_rows_stay_together_when_they_are_dealt_out():
    """Two minibatches at a learning rate of almost 0 see, between them, what one sees of the whole."""
    algo, state = plain("ppo", "pendulum", normalize_advantages=False)
    slow = replace(algo, optimizer=replace(algo.optimizer, lr=1e-9))
    whole = update(slow, state, rollout(algo))[1]
    halves = update(replace(slow, minibatches=2), state, rollout(algo))[1]
    for name, value in whole.items():
        assert halves[name].numpy() == pytest.approx(value.numpy(), abs=1e-5), name


def test_advantages_are_standardized_in_each_minibatch():
    """One row is all that a minibatch has: its advantage is 0, and the policy stays."""
    algo, state = plain("ppo", "pendulum")
    after, _ = update(replace(algo, minibatches=12, epochs=2), state, rollout(algo))
    assert same_bits(after.actor, state.actor) and not same_bits(after.critic, state.critic)


def test_clip_follows_its_schedule():
    algo, state = plain("ppo", "pendulum", epochs=4)
    half = update(replace(algo, clip=0.01), state, rollout(algo))
    linear = replace(algo, clip=0.02, clip_schedule=Linear(over=100))
    assert same_bits(update(linear, state, rollout(algo), step=50), half)
    assert not same_bits(update(linear, state, rollout(algo), step=0), half)


def test_value_clip_keeps_values_near_what_they_were():
    algo, state = plain("ppo", "pendulum", epochs=30)
    distance = lambda clip: apart(  # noqa: E731
        *(
            algo.critic_net.apply(each.critic, tf.reshape(rollout(algo).obs, (12, -1)))
            for each in (state, update(replace(algo, value_clip=clip), state, rollout(algo))[0])
        )
    )
    assert distance(0.01) < 0.2 * distance(None)


# The buffer.


def steps_of(number, envs=3):
    """One step of all environments; environment n holds 10 * number + n."""
    numbers = 10.0 * number + np.arange(envs)
    column = tf.constant(numbers, tf.float32)
    obs = tf.repeat(column[:, None], 2, axis=1)
    odd = tf.constant(numbers % 2 == 1)
    return Transition(obs, tf.cast(column, tf.int32), column, odd, tf.logical_not(odd), obs + 1.0)


def test_a_rollout_is_given_back_in_order_and_whole():
    buffer = Rollout(12)
    state = buffer.init(tf.nest.map_structure(lambda leaf: leaf[0], steps_of(0)), 3)
    for number in range(8):
        state = buffer.add(state, steps_of(number))
    batch = buffer.sample(state, KEY, 12, 0.9, progress())
    expected = 10.0 * np.arange(4, 8)[:, None] + np.arange(3)
    np.testing.assert_array_equal(batch.reward, expected)
    np.testing.assert_array_equal(batch.action, expected)
    np.testing.assert_array_equal(batch.obs[..., 1], expected)
    np.testing.assert_array_equal(batch.next_obs[..., 0], expected + 1)
    np.testing.assert_array_equal(batch.terminated, expected % 2 == 1)
    np.testing.assert_array_equal(batch.truncated, expected % 2 == 0)
    assert batch.obs.shape == (4, 3, 2) and batch.action.dtype == tf.int32
    assert np.all(batch.steps == 1.0) and np.all(batch.weight == 1.0)
    assert batch.indices.numpy().tolist() == np.arange(12).reshape(4, 3).tolist()


@dataclass(frozen=True)
class KeepsRewards(RandomActions):
    """Its state is the rewards of the rollout that it learned from last."""

    LEARNS_FROM: ClassVar[str] = "rollouts"

    def init(self, key):
        return tf.zeros((4, 2))

    def update(self, state, batch, key, progress):
        return batch.reward, {}, None


@pytest.mark.parametrize("starts", [0, 1, 8, 9, 15])
def test_no_round_of_learning_sees_part_of_a_rollout(starts):
    """Every 4th iteration of 2 environments, also where learning starts in the middle of a rollout."""
    algo = KeepsRewards(spec_of(2, 1, 2), learning_starts=starts, update_every=4, batch_size=8)
    trainer = TrainingStep(algo, Rollout(8))
    timestep = TimeStep(tf.zeros((2, 2)), tf.zeros(2, tf.bool))
    state = trainer.init(KEY, (), timestep)
    rounds = []
    for t in range(20):
        rows = steps_of(t + 1, 2)
        state = trainer.collect(state, tf.zeros((2, 1)), StepResult(*rows[2:6]), timestep, ())
        before = float(state.totals.count)
        if t >= trainer.learning_start_iteration:
            state = trainer.learn(state, tf.constant(t, tf.int64))
        if float(state.totals.count) > before:
            rounds.append(t + 1)
            assert state.algo[:, 0].numpy().tolist() == [10.0 * k for k in range(t - 2, t + 2)]
    assert rounds == [t for t in (4, 8, 12, 16, 20) if 2 * (t - 1) >= starts]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_round_of_learning_comes_with_every_rollout(name):
    trainer = make_plan(name, "env.num_envs=2", rollout_steps=4).trainer
    assert trainer.learning_start_iteration == 0
    rows = first_step(batch_for(trainer.algo, 2))
    timestep = TimeStep(rows.obs, tf.zeros(2, tf.bool))
    state, counts = trainer.init(KEY, (), timestep), []
    for t in range(9):
        state = trainer.collect(state, rows.action, StepResult(*rows[2:6]), timestep, ())
        state = trainer.learn(state, tf.constant(t, tf.int64))
        counts.append(int(state.totals.count))
    assert counts == [0, 0, 0, 1, 1, 1, 1, 2, 2]
