"""What every algorithm in conf/algo must do, and what is particular to one of them."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    ALGORITHMS,
    apart,
    leaves,
    make_algo,
    make_batch,
    make_plan,
    progress,
    same_bits,
    spec_of,
)

from rlresearch import noise, ops, optim, rng
from rlresearch.algos.td3 import TD3
from rlresearch.envs.task import Task
from rlresearch.networks import MLP, Params
from rlresearch.runners.population import PopulationRunner, with_values
from rlresearch.trainer import Trainer
from rlresearch.types import Outcome, TimeStep

TARGETED = [name for name in ALGORITHMS if hasattr(make_algo(name), "tau")]  # those with target networks
KEY = rng.key(7)


@functools.cache
def started(name):
    """(algorithm, state) with plain gradient descent; critic and targets apart from each other, biases not 0."""
    algo = make_algo(name, "optimizer=sgd", "optimizer.lr=0.1", tau=0.25, policy_delay=1)
    state = algo.init(rng.key(3))
    other = algo.init(rng.key(4))
    targets = {field: getattr(other, field) for field in state._fields if field.startswith("target_")}
    return algo, tf.nest.map_structure(lambda leaf: leaf + 0.01, state._replace(**targets))


def networks_of(state, role):
    """The state's networks whose names begin so, by field."""
    fields = [field for field in state._fields if field.startswith(role) and "optimizer" not in field]
    return {field: getattr(state, field) for field in fields}


def update(algo, state, batch, key=KEY, **where):
    return algo.update(state, batch, key, progress(**where))


def nudged(tree, by=0.1):
    return tf.nest.map_structure(lambda leaf: leaf + by, tree)


# What any algorithm does.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_metrics_are_those_documented_and_finite(name):
    algo, state = started(name)
    _, metrics = update(algo, state, make_batch(8))
    assert set(metrics) == set(algo.METRICS)
    assert all(value.shape == () and np.isfinite(value) for value in metrics.values())
    assert all(algo.METRICS.values())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_update_is_a_pure_function(name):
    algo, state = started(name)
    before = [leaf.copy() for leaf in leaves(state)]
    one, two = (update(algo, state, make_batch(8)) for _ in range(2))
    assert same_bits(one, two)
    assert same_bits(before, state)
    assert [(leaf.shape, leaf.dtype) for leaf in leaves(one[0])] == [(leaf.shape, leaf.dtype) for leaf in leaves(state)]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_init_is_a_function_of_its_key(name):
    algo = make_algo(name)
    assert same_bits(algo.init(rng.key(1)), algo.init(rng.key(1)))
    assert not same_bits(algo.init(rng.key(1)), algo.init(rng.key(2)))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_is_deterministic_and_within_bounds(name):
    algo, state = started(name)
    state = tf.nest.map_structure(lambda leaf: leaf * 50.0, state)
    obs = make_batch(40).obs * 100.0
    actions = algo.policy(state, obs)
    assert actions.shape == (40, 1) and actions.dtype == tf.float32
    assert np.abs(actions).max() <= 1.0
    assert same_bits(actions, algo.policy(state, obs))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_is_bounded_also_where_its_network_is_not(name):
    algo = make_algo(name, "network.actor.output_activation=linear")
    state = algo.init(KEY)
    state = state._replace(actor=nudged(state.actor, 1.0))
    assert algo.policy(state, tf.fill((1, 3), 100.0)).numpy().tolist() == [[1.0]]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_actions_are_uniform_before_learning_and_near_the_policy_after(name):
    trainer = make_plan(name, "env.num_envs=400", "noise.sigma=0.01").trainer
    state = trainer.init(KEY, (), TimeStep(tf.zeros((400, 3)), tf.ones(400, tf.bool)))
    act = lambda trainer, learning: trainer.act(state, tf.constant(5, tf.int64), learning)[0].numpy()  # noqa: E731
    early, late = act(trainer, False), act(trainer, True)
    policy = trainer.algo.policy(state.algo, state.timestep.obs)
    assert np.abs(early).max() <= 1.0 and np.std(early) == pytest.approx(1 / np.sqrt(3), rel=0.1)
    assert 0.0 < np.abs(late - policy).max() < 0.06
    np.testing.assert_array_equal(act(replace(trainer, algo=replace(trainer.algo, random_start=False)), False), late)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_exploring_actions_stay_within_bounds(name):
    algo = make_algo(name, "env.num_envs=50", "noise.sigma=3.0")
    timestep = TimeStep(tf.zeros((50, 3)), tf.ones(50, tf.bool))
    actions, _ = algo.act(algo.init(KEY), timestep, KEY, progress(step=10**6))
    assert np.abs(actions).max() == 1.0


# An episode's end.


def test_the_discount_is_zero_where_the_task_ended_and_nowhere_else():
    discount = ops.discount(0.9, tf.constant([False, True, False]))
    assert discount.shape == (3,) and discount.dtype == tf.float32
    np.testing.assert_array_equal(discount, np.float32([0.9, 0.0, 0.9]))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_truncation_keeps_bootstrapping(name):
    algo, state = started(name)
    cut, whole = make_batch(8, truncated=np.ones(8, bool)), make_batch(8)
    assert same_bits(update(algo, state, cut), update(algo, state, whole))
    elsewhere = cut._replace(next_obs=cut.next_obs + 1.0)
    assert apart(update(algo, state, cut)[1], update(algo, state, elsewhere)[1]) > 1e-3


@pytest.mark.parametrize("name", ALGORITHMS)
def test_termination_stops_bootstrapping(name):
    algo, state = started(name)
    ended = make_batch(8, terminated=np.ones(8, bool))
    elsewhere = ended._replace(next_obs=ended.next_obs + 1.0)
    assert same_bits(update(algo, state, ended), update(algo, state, elsewhere))
    assert apart(update(algo, state, ended)[1], update(algo, state, make_batch(8))[1]) > 1e-3


@pytest.mark.parametrize("name", TARGETED)
def test_the_target_is_the_reward_plus_the_discounted_value(name):
    """With constant critics of value 0 online and 5 in the targets, the error is r + gamma 5, or r at an end."""
    algo, state = started(name)
    critics = {**networks_of(state, "critic"), **networks_of(state, "target_critic")}
    values = {field: _constant(each, 5.0 if "target" in field else 0.0) for field, each in critics.items()}
    state = state._replace(**values)
    reward, terminated = np.array([1.0, 2.0]), np.array([False, True])
    _, metrics = update(algo, state, make_batch(2, reward=reward, terminated=terminated, truncated=[True, True]))
    target = np.array([1.0 + algo.gamma * 5.0, 2.0])
    assert metrics["loss/critic"].numpy() == pytest.approx(np.mean(target**2), rel=1e-5)


def _constant(params, value):
    """The same networks with kernels 0 and `value` as the output's bias."""
    if isinstance(params, list):
        return [_constant(each, value) for each in params]
    zero = [tf.zeros_like(weight) for weight in params.trainable]
    return Params([*zero[:-1], zero[-1] + value], params.frozen)


# Where gradients flow, by what a change of one network changes in another.


@pytest.mark.parametrize("name", TARGETED)
def test_the_actors_loss_gives_the_critic_no_gradient(name):
    """The critic's step does not depend on the online actor, nor on how fast it learns."""
    algo, state = started(name)
    batch = make_batch(8)
    one, _ = update(algo, state, batch)
    two, _ = update(replace(algo, actor_lr_scale=10.0), state._replace(actor=nudged(state.actor)), batch)
    assert same_bits(networks_of(one, "critic"), networks_of(two, "critic"))
    assert not same_bits(one.actor, two.actor)


@pytest.mark.parametrize("name", TARGETED)
def test_the_critics_loss_moves_the_critic_alone(name):
    """The actor's step is the slope of the updated critic through its own actions, whatever the reward was."""
    algo, state = started(name)
    batch = make_batch(8)
    after, metrics = update(algo, state, batch)
    critic = next(iter(networks_of(after, "critic").values()))
    critic = critic[0] if isinstance(critic, list) else critic

    def loss(weights):
        action = algo.actor_net.apply(state.actor._replace(trainable=weights), batch.obs)
        return -tf.reduce_mean(algo.critic_net.apply(critic, batch.obs, action)), ()

    (value, _), grads = ops.value_and_grad(loss, state.actor.trainable)
    expected = tf.nest.map_structure(lambda w, g: w - 0.1 * g, state.actor.trainable, grads)
    assert apart(after.actor.trainable, expected) < 1e-6
    assert metrics["loss/actor"].numpy() == pytest.approx(value.numpy(), abs=1e-6)
    assert apart(networks_of(after, "critic"), networks_of(state, "critic")) > 1e-4


@pytest.mark.parametrize("name", TARGETED)
def test_targets_move_by_tau_alone(name):
    algo, state = started(name)
    after, _ = update(algo, state, make_batch(8))
    for field, target in networks_of(state, "target_").items():
        online = getattr(after, field.removeprefix("target_"))
        moved = tf.nest.map_structure(lambda old, new: 0.75 * old + 0.25 * new, target, online)
        assert apart(getattr(after, field), moved) < 1e-6
    still, _ = update(replace(algo, tau=1e-40), state, make_batch(8))
    assert same_bits(networks_of(still, "target_"), networks_of(state, "target_"))


@pytest.mark.parametrize("name", TARGETED)
def test_the_target_comes_from_the_target_networks(name):
    """The critic's error changes with each target network; online, with the critic alone."""
    algo, state = started(name)
    loss = lambda state: update(algo, state, make_batch(8))[1]["loss/critic"].numpy()  # noqa: E731
    for field, network in networks_of(state, "target_").items():
        assert loss(state._replace(**{field: nudged(network, 0.5)})) != loss(state)
    assert loss(state._replace(actor=nudged(state.actor, 0.5))) == loss(state)


# TD3.

LINEAR = MLP(hidden=())
SMALL = TD3(spec_of(1, 1), LINEAR, LINEAR, optim.SGD(lr=0.1), noise.NoNoise(), gamma=0.5, target_noise=0.0)


def flat(*weights, bias=0.0):
    return Params([tf.constant([[float(w)] for w in weights]), tf.constant([float(bias)])], [])


def td3_state(target_action, target_critics):
    state = SMALL.init(KEY)
    critics = [flat(0, 0), flat(0, 0)]  # two tensors each: the gradient of one shared by both would be their sum
    return state._replace(
        target_actor=flat(0, bias=target_action), critics=critics, target_critics=list(target_critics)
    )


def td3_loss(state, algo=SMALL, rows=4, key=KEY):
    batch = make_batch(rows, 1, 1, reward=np.zeros(rows))
    return algo.update(state, batch, key, progress())[1]["loss/critic"].numpy()


@pytest.mark.parametrize("values", [(2.0, 3.0), (3.0, 2.0)])
def test_td3_bootstraps_from_the_smaller_critic(values):
    state = td3_state(0.0, [flat(0, 0, bias=value) for value in values])
    assert td3_loss(state) == pytest.approx((0.5 * 2.0) ** 2)


def test_td3_takes_the_minimum_in_each_row():
    """Critics +a and -a: the smaller is -|a|."""
    state = td3_state(0.0, [flat(0, 1), flat(0, -1)])
    algo = replace(SMALL, target_noise=0.3, target_noise_clip=10.0)
    drawn = np.clip(0.3 * rng.normal(KEY, (64, 1)).numpy(), -1, 1)
    batch = make_batch(64, 1, 1, reward=np.zeros(64))
    _, metrics = algo.update(state, batch, KEY, progress())
    assert metrics["loss/critic"].numpy() == pytest.approx(np.mean((0.5 * drawn) ** 2), rel=1e-5)
    after, _ = algo.update(state, batch, KEY, progress(update=0))
    # The gradient of mean((y - 0)^2) in the bias is -2 mean(y), and y = -0.5 |a| is never positive.
    step = 0.1 * 2 * np.mean(-0.5 * np.abs(drawn))
    assert after.critics[0].trainable[1].numpy()[0] == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize("scale, clip", [(0.2, 0.5), (0.2, 0.1), (100.0, 0.5)])
def test_td3_target_noise_is_drawn_and_clipped(scale, clip):
    algo = replace(SMALL, target_noise=scale, target_noise_clip=clip)
    shift = np.clip(scale * rng.normal(KEY, (64, 1)).numpy(), -clip, clip)
    loss = td3_loss(td3_state(0.0, [flat(0, 1), flat(0, 1)]), algo, 64)
    assert loss == pytest.approx(np.mean((0.5 * shift) ** 2), rel=1e-5)


def test_td3_target_actions_stay_within_bounds():
    algo = replace(SMALL, target_noise=100.0, target_noise_clip=0.5)
    actions = np.clip(0.9 + 0.5 * np.sign(rng.normal(KEY, (64, 1)).numpy()), -1, 1)
    loss = td3_loss(td3_state(0.9, [flat(0, 1), flat(0, 1)]), algo, 64)
    assert loss == pytest.approx(np.mean((0.5 * actions) ** 2), rel=1e-5)


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_td3_moves_policy_and_targets_every_policy_delay_rounds(delay):
    algo = make_algo("td3", "optimizer=sgd", policy_delay=delay)
    state = algo.init(KEY)
    moved = []
    for round_ in range(6):
        after, metrics = update(algo, state, make_batch(8), update=round_)
        fields = ("actor", "target_actor", "target_critics")
        each = {not same_bits(getattr(after, field), getattr(state, field)) for field in fields}
        assert len(each) == 1  # all or none
        assert not same_bits(after.critics, state.critics)
        moved.append(each.pop())
        assert (metrics["loss/actor"].numpy() != 0) == moved[-1]
        state = after
    assert moved == [(round_ + 1) % delay == 0 for round_ in range(6)]


def test_td3_critics_start_apart_and_learn_from_one_target():
    algo = make_algo("td3")
    one, two = algo.init(KEY).critics
    assert not same_bits(one, two)


# How many gradient steps.


@pytest.mark.parametrize("name", ALGORITHMS)
def test_updates_and_update_every_do_as_many_steps_as_they_say(name):
    """Every 3rd of 12 iterations, 2 steps each, once `learning_starts` transitions lie before the iteration's own."""
    settings = dict(update_every=3, updates=2, batch_size=4, policy_delay=2)
    rows = make_batch(2)
    timestep = TimeStep(rows.obs, tf.zeros(2, tf.bool))
    for starts, expected in ((9, [0, 0, 0, 0, 0, 2, 2, 2, 4, 4, 4, 6]), (12, [0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 4])):
        trainer = make_plan(name, "env.num_envs=2", learning_starts=starts, **settings).trainer
        state = trainer.init(KEY, (), timestep)
        counts, optimizers = [], []
        for t in range(12):
            state = trainer.collect(state, rows.action, Outcome(*rows[2:]), timestep, ())
            if t >= trainer.silent_iterations:
                state = trainer.learn(state, tf.constant(t, tf.int64))
            counts.append(int(state.totals.count))
            optimizers.append(int(state.algo.critic_optimizer.count))
        assert counts == optimizers == expected


# Small worlds with known values: three kinds of episode, told apart by the first three observations.


class ProbeState(NamedTuple):
    kind: tf.Tensor
    sign: tf.Tensor
    second: tf.Tensor


@dataclass(frozen=True)
class Probe:
    """kind 0: one step, reward 1. kind 1: one step, reward 1 - 4 (a - sign / 2)^2. kind 2: two steps, reward 0, then 2.

    The observation: one-hot kind, sign, whether it is the second step.
    """

    def reset(self, key):
        drawn = rng.uniform(key, (2,))
        sign = tf.where(drawn[1] < 0.5, -1.0, 1.0)
        return ProbeState(tf.floor(3.0 * drawn[0]), sign, tf.constant(0.0))

    def step(self, state, action, key):
        aimed = 1.0 - 4.0 * tf.square(action[0] - 0.5 * state.sign)
        reward = tf.where(state.kind == 0.0, 1.0, tf.where(state.kind == 1.0, aimed, 2.0 * state.second))
        terminated = tf.logical_or(state.kind < 2.0, state.second > 0.0)
        return state._replace(second=tf.constant(1.0)), reward, terminated

    def observe(self, state):
        kinds = [tf.cast(state.kind == float(kind), tf.float32) for kind in range(3)]
        return tf.stack([*kinds, state.sign, state.second])


class ProbeEnv(gym.Env):
    """Names the spaces of `Probe`; only its compiled twin is ever stepped."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)


gym.register("Probe-v0", entry_point=ProbeEnv, max_episode_steps=10)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_probes_are_learned(name):
    """Known values: 1; the best action is half the sign; gamma times 2, then 2. Three seeds, at gamma 0.5.

    Bits differ from processor to processor, and so does the path: with one small layer, one seed in ten still had a
    saturated actor after these steps; with two, none of 64.
    """
    task = Task("Probe-v0", num_envs=4, physics=Probe())
    unsaturated = "network.actor.output_initializer='uniform(0.003)'"
    plan = make_plan(
        name, unsaturated, "noise.sigma=1.0", hidden=(32, 32), gamma=0.5, tau=0.05, batch_size=64, learning_starts=400
    )
    algo = replace(with_values(plan.trainer.algo, {"optimizer.lr": 1e-3}), spec=task.spec)
    runner = PopulationRunner(Trainer(algo, replace(plan.trainer.buffer, capacity=8_000)), task, range(3))
    runner.advance(5_000, True)
    state = runner.state().algo
    constant, left, right, first, second = np.float32(
        [[1, 0, 0, 1, 0], [0, 1, 0, -1, 0], [0, 1, 0, 1, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]
    )
    for seed in range(3):
        own = tf.nest.map_structure(lambda leaf: leaf[seed], state)  # noqa: B023
        critic = next(iter(networks_of(own, "critic").values()))
        critic = critic[0] if isinstance(critic, list) else critic
        obs = tf.constant([constant, first, second])
        values = algo.critic_net.apply(critic, obs, algo.policy(own, obs))[:, 0]
        np.testing.assert_allclose(values, [1.0, 0.5 * 2.0, 2.0], atol=0.15)
        best = algo.policy(own, tf.constant([left, right]))[:, 0]
        np.testing.assert_allclose(best, [-0.5, 0.5], atol=0.25)
