"""What is particular to the DQN family: DQN, C51 and QR-DQN."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import apart, batch_for, make_algo, make_plan, nudged, progress, same_bits, started, update

from rlresearch import networks, rng
from rlresearch.noise import Boltzmann, EpsilonGreedy, Greedy
from rlresearch.schedules import Linear
from rlresearch.types import StepResult, TimeStep

FAMILY = ["dqn", "c51", "qr_dqn"]
KEY = rng.key(7)


def linear(name, *overrides, **settings):
    """The algorithm with values that are a bias alone, plain gradient descent of 0.1 and integers as C51's atoms."""
    ranged = ["algo.v_min=0", "algo.v_max=20"] if name == "c51" else []
    return make_algo(name, "optimizer=sgd", "optimizer.lr=0.1", *ranged, *overrides, hidden=(), **settings)


def worth(algo, *values):
    """Parameters with which the actions have these values, whatever the observation: for C51 whole numbers."""
    params = algo.q_net.init(KEY)
    kernel, bias = params.trainable
    if hasattr(algo, "atoms"):
        bias = tf.reshape(tf.one_hot(values, algo.atoms) * 100.0, (-1,))
    else:
        bias = tf.repeat(tf.constant(values, tf.float32), bias.shape[0] // len(values))
    return params._replace(trainable=[tf.zeros_like(kernel), bias])


def batch(algo, **columns):
    """Two rows: reward 1 and action 0 each, the second terminated."""
    ends = {"reward": [1.0, 1.0], "action": [0, 0], "terminated": [False, True]}
    return batch_for(algo, 2, **(ends | columns))


# Which network chooses, which values.


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("double, bootstrap", [(False, 10.0), (True, 4.0)])
def test_the_target_network_values_and_with_double_the_online_network_chooses(name, double, bootstrap):
    """Online 1 and 2, target 10 and 4, gamma 1/2: y = 1 + 10 / 2, or, of online's best, 1 + 4 / 2; 1 at the end."""
    algo = linear(name, double=double, gamma=0.5)
    state = algo.init(KEY)._replace(q=worth(algo, 1, 2), target_q=worth(algo, 10, 4))
    _, metrics = update(algo, state, batch(algo))
    assert metrics["value/target"].numpy() == pytest.approx(((1.0 + 0.5 * bootstrap) + 1.0) / 2, abs=1e-4)
    assert metrics["value/q"].numpy() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_the_policy_is_the_online_networks_best_action(name):
    algo = linear(name)
    state = algo.init(KEY)._replace(q=worth(algo, 3, 5), target_q=worth(algo, 9, 0))
    assert algo.policy(state, tf.zeros((2, 4))).numpy().tolist() == [1, 1]
    np.testing.assert_allclose(algo.values(state.q, tf.zeros((1, 4))), [[3.0, 5.0]], atol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_exploring_actions_are_the_online_networks_best_ones(name):
    algo = linear(name, "noise=greedy")
    state = algo.init(KEY)._replace(q=worth(algo, 3, 5), target_q=worth(algo, 9, 0))
    assert algo.act(state, TimeStep(tf.zeros((1, 4)), tf.ones(1, tf.bool)), KEY, progress())[0].numpy().tolist() == [1]


@pytest.mark.parametrize("name", ["c51", "qr_dqn"])
@pytest.mark.parametrize("sure, best", [(4, 1), (7, 0)])
def test_an_action_is_worth_the_mean_of_its_returns(name, sure, best):
    """Action 0 returns 4, or 7, for sure; action 1 returns 16 with 3/8, otherwise 0: neither mode, median nor best."""
    algo = linear(name, "noise=greedy", gamma=0.5, double=False)
    params = algo.q_net.init(KEY)
    kernel, bias = params.trainable
    if name == "c51":
        chances = np.zeros((2, algo.atoms))
        chances[0, sure], chances[1, [0, 16]] = 1.0, (5 / 8, 3 / 8)
        bias = tf.constant(np.log(chances + 1e-30).ravel(), tf.float32)
    else:
        bias = tf.constant([sure] * 8 + [0.0] * 5 + [16.0] * 3, tf.float32)
    wide = params._replace(trainable=[tf.zeros_like(kernel), bias])
    state = algo.init(KEY)._replace(q=wide, target_q=wide)
    first = TimeStep(tf.zeros((1, 4)), tf.ones(1, tf.bool))
    assert algo.policy(state, first.obs).numpy().tolist() == [best]
    assert algo.act(state, first, KEY, progress())[0].numpy().tolist() == [best]
    _, metrics = update(algo, state, batch(algo, terminated=[False, False]))
    assert metrics["value/target"].numpy() == pytest.approx(1.0 + 0.5 * max(sure, 6.0), abs=1e-4)


# Where gradients flow.


@pytest.mark.parametrize("name", FAMILY)
def test_the_target_passes_no_gradient(name):
    """Only the output of the action that was taken moves, though online and target are one network."""
    algo = linear(name, double=True, gamma=0.5)
    state = algo.init(KEY)
    params = worth(algo, 2, 3)
    if name == "c51":  # undecided, or the divergence would be flat
        params = params._replace(trainable=[params.trainable[0], params.trainable[1] * 0.01])
    state = state._replace(q=params, target_q=params)
    after, _ = update(algo, state, batch(algo, terminated=[False, False]))
    moved = tf.reshape(after.q.trainable[1] - params.trainable[1], (2, -1)).numpy()
    assert np.abs(moved[0]).max() > 1e-3
    assert np.abs(moved[1]).max() == 0.0


def test_dqn_steps_by_the_error_towards_the_target():
    """y = 1 + 3 / 2 and 1, q = 2: the bias moves by 0.1 times the mean error -1/4."""
    algo = linear("dqn", gamma=0.5)
    state = algo.init(KEY)._replace(q=worth(algo, 2, 3), target_q=worth(algo, 2, 3))
    after, metrics = update(algo, state, batch(algo))
    assert after.q.trainable[1].numpy()[0] == pytest.approx(2.0 + 0.1 * (0.5 - 1.0) / 2)
    assert metrics["loss/q"].numpy() == pytest.approx((0.125 + 0.5) / 2)


@pytest.mark.parametrize("huber, loss, step", [(True, 2.5, 1.0), (False, 4.5, 3.0)])
def test_huber_errors_above_one_count_linearly(huber, loss, step):
    algo = linear("dqn", gamma=0.5, huber=huber)
    state = algo.init(KEY)._replace(q=worth(algo, 4, 0))
    after, metrics = update(algo, state, batch(algo, terminated=[True, True]))
    assert metrics["loss/q"].numpy() == pytest.approx(loss)
    assert after.q.trainable[1].numpy()[0] == pytest.approx(4.0 - 0.1 * step)


@pytest.mark.parametrize("name", FAMILY)
def test_priorities_say_how_wrong_each_row_was(name):
    algo = linear(name, gamma=0.5)
    state = algo.init(KEY)._replace(q=worth(algo, 4, 0), target_q=worth(algo, 6, 0))
    priority = algo.update(state, batch(algo, reward=[1.0, 1.0]), KEY, progress())[2].numpy()
    assert priority.shape == (2,) and priority[0] == pytest.approx(0.0, abs=1e-4)
    if name == "dqn":
        assert priority[1] == pytest.approx(3.0)
    assert priority[1] > 1.0


@pytest.mark.parametrize("kappa, loss", [(1.0, 4 * 2.5), (0.5, 4 * 2.75)])
def test_errors_of_quantiles_above_kappa_count_linearly(kappa, loss):
    """8 quantiles at 4, a return of 1: their sides sum to 4, and Huber's error of 3 over kappa is 3 - kappa / 2."""
    algo = linear("qr_dqn", kappa=kappa)
    state = algo.init(KEY)._replace(q=worth(algo, 4, 0))
    _, metrics = update(algo, state, batch(algo, terminated=[True, True]))
    assert metrics["loss/q"].numpy() == pytest.approx(loss)


# When targets move.


@pytest.mark.parametrize("name", FAMILY)
def test_hard_copies_are_exact_and_come_every_target_every_gradient_steps(name):
    algo, state = started(name)
    algo = replace(algo, tau=1.0, target_every=3)
    for step in range(7):
        after, _ = update(algo, state, batch_for(algo, seed=step), update=step)
        assert not same_bits(after.q, state.q)
        assert same_bits(after.target_q, after.q if step in (2, 5) else state.target_q)
        state = after


@pytest.mark.parametrize("name", FAMILY)
def test_soft_targets_move_by_tau(name):
    algo, state = started(name)
    after, _ = update(algo, state, batch_for(algo))
    moved = tf.nest.map_structure(lambda old, new: 0.75 * old + 0.25 * new, state.target_q, after.q)
    assert apart(after.target_q, moved) < 1e-6


def test_gradient_steps_are_counted_across_rounds():
    """2 steps after every 3rd iteration of one transition, from the 6th on: the target lags by steps, not by rounds."""
    seen = []

    class Counting:
        def __init__(self, algo):
            self._algo = algo

        def __getattr__(self, name):
            return getattr(self._algo, name)

        def update(self, state, batch, key, progress):
            seen.append((int(progress.step), int(progress.update)))
            return self._algo.update(state, batch, key, progress)

    trainer = make_plan("dqn", update_every=3, updates=2, learning_starts=4).trainer
    trainer = replace(trainer, algo=Counting(trainer.algo))
    rows = batch_for(trainer.algo, 1)
    timestep = TimeStep(rows.obs, tf.zeros(1, tf.bool))
    state = trainer.init(KEY, (), timestep)
    for t in range(12):
        state = trainer.collect(state, rows.action, StepResult(*rows[2:6]), timestep, ())
        if t >= trainer.learning_start_iteration:
            state = trainer.learn(state, tf.constant(t, tf.int64))
    assert seen == [(6, 0), (6, 1), (9, 2), (9, 3), (12, 4), (12, 5)]


# Exploration.

VALUES = tf.constant(np.tile([0.5, 2.0, 1.0, -1.0], (8_000, 1)), tf.float32)


@pytest.mark.parametrize("step, epsilon", [(0, 0.8), (500, 0.5), (1_000, 0.2), (9_000, 0.2)])
def test_epsilon_follows_its_schedule_and_is_decided_for_each_environment(step, epsilon):
    noise = EpsilonGreedy(0.8, Linear(start=1.0, end=0.25, over=1_000))
    chosen = noise.choose(VALUES, KEY, progress(step=step)).numpy()
    expected = np.full(4, epsilon / 4) + [0, 1 - epsilon, 0, 0]
    np.testing.assert_allclose(noise.probabilities(VALUES[:1], progress(step=step)), [expected], rtol=1e-5)
    assert scipy.stats.chisquare(np.bincount(chosen, minlength=4), 8_000 * expected).pvalue > 1e-3


def test_epsilon_one_is_uniform_and_zero_is_greedy():
    always = EpsilonGreedy(1.0).choose(VALUES, KEY, progress()).numpy()
    assert scipy.stats.chisquare(np.bincount(always)).pvalue > 1e-3
    for noise in (EpsilonGreedy(0.0), Greedy()):
        assert set(noise.choose(VALUES, KEY, progress()).numpy()) == {1}


@pytest.mark.parametrize("step, temperature", [(0, 2.0), (1_000, 0.5)])
def test_boltzmann_actions_are_as_frequent_as_the_softmax_says(step, temperature):
    noise = Boltzmann(2.0, Linear(start=1.0, end=0.25, over=1_000))
    chosen = noise.choose(VALUES, KEY, progress(step=step)).numpy()
    expected = tf.nn.softmax(VALUES[0] / temperature).numpy()
    np.testing.assert_allclose(noise.probabilities(VALUES[:1], progress(step=step)), [expected], rtol=1e-5)
    assert scipy.stats.chisquare(np.bincount(chosen, minlength=4), 8_000 * expected / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("unit", [0.0, 1.0 - 2.0**-24])
def test_boltzmann_never_takes_a_hopeless_action_whatever_is_drawn(unit, monkeypatch):
    monkeypatch.setattr(rng, "uniform", lambda key, shape: tf.constant([[0.5, unit]]))
    assert Boltzmann(1.0).choose(tf.constant([[100.0, 0.0]]), KEY, progress()).numpy().tolist() == [0]


@pytest.mark.parametrize("name", FAMILY)
def test_one_seed_explores_otherwise_in_every_environment(name):
    algo = make_algo(name, "env.num_envs=64", "noise.schedule.start=0.5")
    timestep = TimeStep(tf.zeros((64, 4)), tf.ones(64, tf.bool))
    actions = algo.act(algo.init(KEY), timestep, KEY, progress())[0].numpy()
    greedy = algo.policy(algo.init(KEY), timestep.obs).numpy()
    assert 4 <= np.sum(actions != greedy) <= 28  # a quarter is expected


# Noisy networks.


@pytest.mark.parametrize("name", FAMILY)
def test_noise_moves_actions_and_updates_but_neither_evaluation_nor_what_is_kept(name):
    algo = make_algo(name, "network=noisy", "noise=greedy", "network.q.sigma0=3.0", "optimizer=sgd", double=True)
    state, obs = algo.init(KEY), batch_for(algo, 64).obs
    act = lambda seed: algo.act(state, TimeStep(obs, None), rng.key(seed), progress())[0]  # noqa: E731
    assert same_bits(act(0), act(0))
    assert len({act(seed).numpy().tobytes() for seed in range(8)}) > 4
    assert same_bits(algo.policy(state, obs), algo.policy(state, obs))
    one, again, two = (update(algo, state, batch_for(algo), rng.key(seed))[0] for seed in (0, 0, 1))
    assert same_bits(one, again) and not same_bits(one, two)
    assert one.q.frozen == []


@pytest.mark.parametrize("name", FAMILY)
def test_each_role_of_a_noisy_network_has_its_own_noise(name):
    """The online network's, the target's and the chooser's."""
    drawn = []
    algo = make_algo(name, "network=noisy", double=True)
    state = algo.init(KEY)
    with pytest.MonkeyPatch.context() as patch:
        call = networks.Network.call

        def noted(self, params, inputs, noise, training):
            drawn.append(noise.numpy().tobytes())
            return call(self, params, inputs, noise, training)

        patch.setattr(networks.Network, "call", noted)
        update(algo, state, batch_for(algo))
    assert len(drawn) == len(set(drawn)) == 3


@pytest.mark.parametrize("name", FAMILY)
def test_noisy_and_dueling_networks_learn_all_their_numbers(name):
    algo = make_algo(name, "network=dueling", "network.q.noisy=true", "optimizer=sgd", "optimizer.lr=1.0")
    state = nudged(algo.init(KEY), 0.3)
    after, _ = update(algo, state, batch_for(algo, 64))
    for old, new in zip(state.q.trainable, after.q.trainable, strict=True):
        assert apart(old, new) > 0.0
