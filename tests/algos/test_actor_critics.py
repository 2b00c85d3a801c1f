"""What is particular to algorithms with an actor that follows a critic's slope: DDPG and TD3."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    ALGORITHMS,
    apart,
    has,
    make_algo,
    make_batch,
    networks_of,
    nudged,
    progress,
    same_bits,
    spec_of,
    started,
    update,
)

from rlresearch import noise, ops, optim, rng
from rlresearch.algos.td3 import TD3
from rlresearch.networks import MLP, Params
from rlresearch.types import TimeStep

DETERMINISTIC = [name for name in ALGORITHMS if has(name, "actor_lr_scale")]
KEY = rng.key(7)


# Actions.


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_exploring_actions_are_near_the_policys(name):
    algo = make_algo(name, "env.num_envs=400", "noise.sigma=0.01")
    state, timestep = algo.init(KEY), TimeStep(tf.zeros((400, 3)), tf.ones(400, tf.bool))
    actions, _ = algo.act(state, timestep, KEY, progress())
    assert 0.0 < np.abs(actions - algo.policy(state, timestep.obs)).max() < 0.06


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_policy_is_bounded_also_where_its_network_is_not(name):
    algo = make_algo(name)  # the command refuses such a network; one of a user's own may not say what it is
    algo = replace(algo, actor=replace(algo.actor, output_activation="linear"))
    state = algo.init(KEY)
    state = state._replace(actor=nudged(state.actor, 1.0))
    assert algo.policy(state, tf.fill((1, 3), 100.0)).numpy().tolist() == [[1.0]]


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_exploring_actions_stay_within_bounds(name):
    algo = make_algo(name, "env.num_envs=50", "noise.sigma=3.0")
    timestep = TimeStep(tf.zeros((50, 3)), tf.ones(50, tf.bool))
    actions, _ = algo.act(algo.init(KEY), timestep, KEY, progress(step=10**6))
    assert np.abs(actions).max() == 1.0


@pytest.mark.parametrize("name", DETERMINISTIC)
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


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_priorities_say_how_wrong_each_row_was(name):
    algo, state = started(name)
    critics = [_constant(each, 2.0) for each in networks_of(state, "critic").values()][0]
    state = state._replace(**{field: critics for field in networks_of(state, "critic")})
    batch = make_batch(3, reward=[2.0, -1.0, 7.0], terminated=[True, True, True])
    np.testing.assert_allclose(algo.update(state, batch, KEY, progress())[2], [0.0, 3.0, 5.0], atol=1e-6)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_exploration_remembers_its_noise(name):
    algo = make_algo(name, "noise=ou")
    state, timestep = algo.init(KEY), TimeStep(tf.zeros((1, 3)), tf.zeros(1, tf.bool))
    _, expected = algo.noise.sample(state.noise, timestep.first, KEY, progress())
    _, after = algo.act(state, timestep, KEY, progress())
    assert same_bits(after.noise, expected) and not same_bits(after.noise, state.noise)


# Where gradients flow, by what a change of one network changes in another.


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_actors_loss_gives_the_critic_no_gradient(name):
    """The critic's step does not depend on the online actor, nor on how fast it learns."""
    algo, state = started(name)
    batch = make_batch(8)
    one, _ = update(algo, state, batch)
    two, _ = update(replace(algo, actor_lr_scale=10.0), state._replace(actor=nudged(state.actor)), batch)
    assert same_bits(networks_of(one, "critic"), networks_of(two, "critic"))
    assert not same_bits(one.actor, two.actor)


@pytest.mark.parametrize("name", DETERMINISTIC)
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


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_the_actor_learns_at_its_own_rate(name):
    """Plain gradient descent: ten times slower is a tenth of the step, and nothing to the critic."""
    algo, state = started(name)
    slow, quick = (update(replace(algo, actor_lr_scale=scale), state, make_batch(8))[0] for scale in (0.1, 1.0))
    step = lambda after: tf.nest.map_structure(tf.subtract, after.actor.trainable, state.actor.trainable)  # noqa: E731
    assert apart(step(slow), tf.nest.map_structure(lambda each: 0.1 * each, step(quick))) < 1e-6
    assert apart(slow.actor, quick.actor) > 1e-4
    assert same_bits(networks_of(slow, "critic"), networks_of(quick, "critic"))


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_critics_descend_their_squared_error_to_a_target_that_stands_still(name):
    """With the same networks online and as targets, a slope through the target would show."""
    algo, state = started(name)
    algo = replace(algo, **({"target_noise": 0.0} if hasattr(algo, "target_noise") else {}))
    targets = {field: getattr(state, field.removeprefix("target_")) for field in networks_of(state, "target_")}
    state, batch = state._replace(**targets), make_batch(8)
    after, _ = update(algo, state, batch)
    (critics,), (moved,) = (networks_of(each, "critic").values() for each in (state, after))
    critics, moved = ([each] if isinstance(each, Params) else each for each in (critics, moved))
    action = algo.policy(state, batch.next_obs)
    q_t = tf.reduce_min([algo.critic_net.apply(each, batch.next_obs, action)[:, 0] for each in critics], axis=0)
    for critic, now in zip(critics, moved, strict=True):

        def loss(weights, critic=critic):
            q = algo.critic_net.apply(critic._replace(trainable=weights), batch.obs, batch.action)[:, 0]
            return tf.reduce_mean(tf.square(batch.reward + algo.gamma * q_t - q)), ()

        grads = ops.value_and_grad(loss, critic.trainable)[1]
        expected = tf.nest.map_structure(lambda w, g: w - 0.1 * g, critic.trainable, grads)
        assert apart(now.trainable, expected) < 1e-6


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_targets_move_by_tau_alone(name):
    algo, state = started(name)
    after, _ = update(algo, state, make_batch(8))
    for field, target in networks_of(state, "target_").items():
        online = getattr(after, field.removeprefix("target_"))
        moved = tf.nest.map_structure(lambda old, new: 0.75 * old + 0.25 * new, target, online)
        assert apart(getattr(after, field), moved) < 1e-6
    still, _ = update(replace(algo, tau=1e-40), state, make_batch(8))
    assert same_bits(networks_of(still, "target_"), networks_of(state, "target_"))


@pytest.mark.parametrize("name", DETERMINISTIC)
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
    return update(algo, state, batch, key)[1]["loss/critic"].numpy()


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
    _, metrics = update(algo, state, batch)
    assert metrics["loss/critic"].numpy() == pytest.approx(np.mean((0.5 * drawn) ** 2), rel=1e-5)
    after, _ = update(algo, state, batch)
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
