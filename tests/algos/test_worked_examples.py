"""Small computations with published or hand-made answers, through the framework's own parts."""

import math

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import batch_for, make_plan, progress, same_bits, spec_of

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.algos.ddpg import DDPG
from rlresearch.config.compose import compose
from rlresearch.envs import bandits
from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.device import DeviceEnv
from rlresearch.envs.pendulum import PendulumState
from rlresearch.runners.population import PopulationRunner
from rlresearch.training.experiment import plan
from rlresearch.training.loop import train
from rlresearch.training.settings import EvalSettings
from rlresearch.types import Batch

# DDPG by hand: linear networks, a batch of one.
S, S_NEXT, A, R = [[3.0, 2.0, 1.0]], [[4.0, 3.0, 2.0]], [[6.0, 5.0]], [3.0]
POLICY = [[2.0, -1.0], [1.0, 3.0], [4.0, -3.0]]
CRITIC = [[1.0], [3.0], [2.0], [1.0], [-3.0]]
BATCH = Batch(*map(tf.constant, (S, A, R, [False], [False], S_NEXT, [1.0], [1.0], [0])))
LINEAR = networks.MLP(hidden=())
SGD = optim.SGD(lr=0.01)
DDPG_BY_HAND = DDPG(spec_of(3, 2), LINEAR, LINEAR, SGD, noise.NoNoise(), gamma=0.1, tau=0.1, actor_lr_scale=0.1)


def params(kernel):
    return networks.Params([tf.constant(kernel), tf.zeros(len(kernel[0]))], [])


@pytest.fixture(scope="module")
def start():
    state = DDPG_BY_HAND.init(rng.key(0))
    policy, critic = params(POLICY), params(CRITIC)
    return state._replace(actor=policy, target_actor=policy, critic=critic, target_critic=critic)


@pytest.fixture(scope="module")
def updated(start):
    return DDPG_BY_HAND.update(start, BATCH, rng.key(1), progress())[:2]


def value_of_policy(critic, actor, obs=S):
    obs = tf.constant(obs)
    return DDPG_BY_HAND.critic_net.apply(critic, obs, DDPG_BY_HAND.actor_net.apply(actor, obs))[0, 0]


def policy_step(actor, critic, optimizer_state):
    """One explicit step of the policy up the critic; also the gradient."""
    loss = lambda weights: (-value_of_policy(critic, actor._replace(trainable=weights)), ())  # noqa: E731
    _, grads = ops.value_and_grad(loss, actor.trainable)
    weights, optimizer_state = SGD.update(grads, optimizer_state, actor.trainable, progress(), 0.1)
    return actor._replace(trainable=weights), optimizer_state, grads


def close(actual, expected, digits=1e-6):
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=digits, atol=digits)


def test_ddpgs_target_is_as_computed_by_hand(start):
    target_value = value_of_policy(start.target_critic, start.target_actor, S_NEXT)
    close(target_value, 39.0)
    close(ops.td_target(BATCH.reward, ops.discount(0.1, BATCH.terminated), target_value[None]), [6.9])


def test_ddpgs_critic_loss_is_the_squared_error_without_the_half(start, updated):
    close(DDPG_BY_HAND.critic_net.apply(start.critic, BATCH.obs, BATCH.action), [[2.0]])
    close(updated[1]["value/q"], 2.0)
    close(updated[1]["loss/critic"], 24.01)


def test_ddpgs_critic_after_one_step_is_as_computed_by_hand(updated):
    close(updated[0].critic.trainable[0][:, 0], [1.294, 3.196, 2.098, 1.588, -2.51])
    close(updated[0].critic.trainable[1], [0.098])


def test_the_policys_value_under_the_new_critic_is_as_computed_by_hand(updated):
    close(updated[1]["loss/actor"], -31.526)


def test_ddpgs_policy_gradient_is_as_computed_by_hand(start, updated):
    kernel, bias = [[-4.764, 7.53], [-3.176, 5.02], [-1.588, 2.51]], [-1.588, 2.51]
    _, _, grads = policy_step(start.actor, updated[0].critic, SGD.init(start.actor.trainable))
    close(grads[0], kernel)
    close(grads[1], bias)
    # The critic moved by its own loss alone: by -0.01 * -9.8 * [s, a], and by -0.01 * -9.8 in its bias.
    moved = updated[0].critic.trainable[0][:, 0] - start.critic.trainable[0][:, 0]
    close(moved, 0.098 * np.array([3.0, 2.0, 1.0, 6.0, 5.0]))


@pytest.fixture(scope="module")
def two_policy_steps(start, updated):
    """The policy after one and after two steps up the critic of point 3."""
    one, optimizer_state, _ = policy_step(start.actor, updated[0].critic, SGD.init(start.actor.trainable))
    two, _, _ = policy_step(one, updated[0].critic, optimizer_state)
    return one, two


def test_ddpgs_policy_after_each_step_is_as_computed_by_hand(updated, two_policy_steps):
    one, two = two_policy_steps
    critic = updated[0].critic
    for own, theirs in zip(updated[0].actor.trainable, one.trainable):
        close(own, theirs, 1e-7)  # DDPG's own step is the explicit one
    close(value_of_policy(critic, one), 31.658327)
    close(value_of_policy(critic, two), 31.790653)
    close(two.trainable[0], [[2.0095282, -1.01506], [1.006352, 2.98996], [4.0031757, -3.00502]])
    close(two.trainable[1], [0.003176, -0.00502])


def test_keras_fit_with_a_custom_loss_takes_ddpgs_policy_step(start, updated, two_policy_steps):
    model = LINEAR.model(((3,),), 2)
    model.set_weights([weight.numpy() for weight in start.actor.trainable])
    critic = updated[0].critic

    def minus_value(obs, action):
        return -DDPG_BY_HAND.critic_net.apply(critic, obs, action)[:, 0]

    model.compile(tf.keras.optimizers.SGD(0.001), loss=minus_value, run_eagerly=True)
    model.fit(np.asarray(S, np.float32), np.asarray(S, np.float32), epochs=2, verbose=0)
    for fitted, own in zip(model.get_weights(), two_policy_steps[1].trainable):
        close(fitted, own, 1e-7)


def test_ddpgs_soft_targets_are_as_computed_by_hand(start, updated, two_policy_steps):
    close(updated[0].target_actor.trainable[0], [[2.0004764, -1.000753], [1.0003176, 2.999498], [4.0001588, -3.000251]])
    close(updated[0].target_critic.trainable[0][:, 0], [1.0294, 3.0196, 2.0098, 1.0588, -2.951])
    close(updated[0].target_critic.trainable[1], [0.0098])
    target_actor = ops.polyak(start.target_actor, two_policy_steps[1], 0.1)
    close(value_of_policy(updated[0].target_critic, target_actor, S_NEXT), 40.31217)


# Automatic differentiation.


def test_gradients_of_one_row_and_of_a_batch_are_the_worked_ones():
    f = lambda x: tf.sin(x[..., 0]) + x[..., 0] * x[..., 1]  # noqa: E731
    close(ops.grad(lambda x: x**2, tf.constant(3.0)), 6.0)
    close(ops.grad(f, tf.constant([math.pi / 4, 3.0])), [3.7071068, 0.7853982])
    batch = [[math.pi / 4, 3.0], [0.0, 2.0]]
    close(ops.batch_grad(f, tf.constant(batch)), [[3.7071068, 0.7853982], [3.0, 0.0]])


def test_jacobians_of_one_row_and_of_a_batch_are_the_worked_ones():
    f = lambda x: tf.stack([x[..., 0] + x[..., 1], x[..., 0] * x[..., 1]], axis=-1)  # noqa: E731
    close(ops.jacobian(f, tf.constant([2.0, 3.0])), [[1.0, 1.0], [3.0, 2.0]])
    batch = tf.constant([[2.0, 3.0], [5.0, 7.0]])
    close(ops.batch_jacobian(f, batch), [[[1.0, 1.0], [3.0, 2.0]], [[1.0, 1.0], [7.0, 5.0]]])


# DDPG on Pendulum with tiny networks: what the source got wrong.


@pytest.fixture(scope="module")
def tiny():
    return plan(compose(["experiment=pendulum_tiny_networks"]).config)


def shift_of(algo, key, **where):
    """What act adds to an actor whose output is 0, at an episode's first step."""
    state = algo.init(rng.key(0))
    state = state._replace(actor=tf.nest.map_structure(tf.zeros_like, state.actor))
    timestep = DeviceEnv(TASK).init(rng.key(0))[1]
    return algo.act(state, timestep, key, progress(step=10**6, **where))[0]


TASK = make_plan("ddpg").task


def test_pendulums_noise_is_added_to_the_policys_action(tiny):
    assert tiny.trainer.algo.noise.sigma == 0.2 and tiny.trainer.algo.noise.theta == 0.15
    key = rng.key(5)
    close(shift_of(tiny.trainer.algo, key), 0.2 * rng.normal(key, (1, 1)))


def test_pendulums_noise_decays_with_episodes(tiny):
    key = rng.key(5)
    first, tenth = (shift_of(tiny.trainer.algo, key, episode=n) for n in (0, 10))
    close(tenth, first * 0.99**10)
    assert abs(first.numpy().item()) > 0.01


def test_pendulums_noise_remembers_its_last_value():
    ou = noise.OrnsteinUhlenbeck(sigma=0.3, theta=0.15, mu=0.1, dt=0.25)
    state, x = ou.init(1, 2), np.full((1, 2), 0.1)
    for step in range(3):
        key = rng.key(step)
        out, state = ou.sample(state, tf.constant([step == 0]), key, progress())
        x = x + 0.15 * (0.1 - x) * 0.25 + 0.3 * math.sqrt(0.25) * rng.normal(key, (1, 2)).numpy()
        close(out, x)


@pytest.mark.parametrize("action", [1.0, -1.0, 0.5])
def test_pendulums_actions_are_scaled_by_half_the_range(action):
    torque = 2.0 * action
    env = DeviceEnv(TASK)
    state, _ = env.init(rng.key(0))
    upright = state._replace(physics=PendulumState(tf.zeros(1), tf.zeros(1)))
    _, outcome, _ = env.step(upright, tf.constant([[action]]))
    close(outcome.reward, [-0.001 * torque**2])
    close(outcome.next_obs[0, 2], 3.0 * torque * 0.05)
    host = CheckedEnv(gym.make("Pendulum-v1"), "Pendulum-v1")
    host.reset(seed=0)
    host.unwrapped.state = np.zeros(2)
    obs, reward, *_ = host.step(np.array([action], np.float32))
    close(reward, -0.001 * torque**2)
    close(obs[2], 3.0 * torque * 0.05)


def test_pendulums_step_limit_truncates():
    env = DeviceEnv(TASK)
    state, _ = env.init(rng.key(0))
    state = state._replace(elapsed=state.elapsed + 198)
    for truncated in (False, True):
        state, outcome, _ = env.step(state, tf.zeros((1, 1)))
        assert outcome.truncated.numpy().tolist() == [truncated]
        assert outcome.terminated.numpy().tolist() == [False]


def test_l2_of_ddpg_on_pendulum_shrinks_kernels_and_not_biases(tiny):
    optimizer = tiny.trainer.algo.optimizer
    assert optimizer.l2 == 5e-7
    weights = [tf.ones((2, 2)), tf.ones(2)]
    moved, _ = optimizer.update([tf.zeros((2, 2)), tf.zeros(2)], optimizer.init(weights), weights, progress())
    assert (moved[0].numpy() < 1.0).all()
    assert (moved[1].numpy() == 1.0).all()
    sgd = optim.SGD(lr=0.5, l2=0.25)
    moved, _ = sgd.update([tf.zeros((2, 2)), tf.zeros(2)], sgd.init(weights), weights, progress())
    close(moved[0], np.full((2, 2), 0.75))  # 1 - 0.5 * 2 * 0.25
    close(moved[1], [1.0, 1.0])


# Bandits with memory, learned online.


@pytest.fixture(scope="module")
def bandit():
    return plan(compose(["experiment=matrix_bandit"]).config)


def test_online_q_learns_from_the_newest_pull_alone(bandit):
    """One layer of 24 ReLU units, one step a pull, epsilon 0.1; a target that is the network itself."""
    algo, buffer = bandit.trainer.algo, bandit.trainer.buffer
    assert algo.q.hidden == (24,) and algo.q.activation == "relu"
    assert (algo.gamma, algo.noise.epsilon, algo.update_every, algo.updates) == (0.99, 0.1, 1, 1)
    assert type(buffer).__name__ == "OnlineBuffer"
    state = algo.init(rng.key(0))
    state = algo.update(state, batch_for(algo, 1), rng.key(1), progress())[0]
    assert same_bits(state.q, state.target_q)


def test_no_play_of_the_matrix_bandit_is_worth_more_than_48():
    """By value iteration over the 12 pulls; the cycle 0, 3, 1, 2 pays 4 a pull."""
    value = np.zeros(4)
    for _ in range(12):
        value = (np.array(bandits.MATRIX) + value).max(axis=1)
    assert value[0] == 48.0


@pytest.mark.slow
def test_the_matrix_bandit_is_mastered_in_ten_of_ten_seeds(bandit):
    runner = PopulationRunner(bandit.trainer, bandit.task, range(10))
    finals = train(runner, bandit.task, bandit.settings.total_steps, EvalSettings(None, 10, 500))
    assert min(each.mean for each in finals) >= 46.0


# DQN with many environments: what the source got wrong.


@pytest.fixture(scope="module")
def many():
    return plan(compose(["experiment=cartpole_32"]).config)


def test_each_of_32_cartpoles_decides_for_itself_whether_to_explore(many):
    values = tf.tile([[0.0, 1.0]], (32, 1))
    half_way = progress(step=50_000)  # epsilon about a half
    taken = [many.trainer.algo.noise.choose(values, rng.key(seed), half_way).numpy() for seed in range(50)]
    assert all(0 < each.sum() < 32 for each in taken)
    assert 0.7 < np.mean(taken) < 0.8  # half of them greedy, half of the others lucky


@pytest.mark.parametrize("step, epsilon", [(0, 1.0), (50_000, 0.505), (100_000, 0.01), (300_000, 0.01)])
def test_epsilon_of_32_cartpoles_reaches_its_floor_when_the_setting_says(many, step, epsilon):
    close(many.trainer.algo.noise.probabilities(tf.constant([[0.0, 1.0]]), progress(step=step))[0, 0], epsilon / 2)


def test_a_row_of_32_cartpoles_replay_is_one_transition_and_rounds_copy_the_target(many):
    algo = many.trainer.algo
    assert (many.task.num_envs, algo.batch_size, algo.target_every, algo.gamma) == (32, 128, 100, 0.95)
    made = make_plan("dqn", "env=cartpole", "env.num_envs=32", batch_size=16, learning_starts=32)
    env = DeviceEnv(made.task)
    state = made.trainer.init(rng.key(0), *env.init(rng.key(1)))
    action, state = made.trainer.act(state, tf.constant(0, tf.int64), False)
    env_state, outcome, timestep = env.step(state.env, action)
    state = made.trainer.collect(state, action, outcome, timestep, env_state)
    assert int(state.buffer.added) == 32
    batch = made.trainer.buffer.sample(state.buffer, rng.key(2), 16, 0.95, progress())
    assert batch.obs.shape == (16, 4)


@pytest.mark.slow
def test_the_pole_is_kept_up_for_longer(many):
    """A rolling mean of training returns passes 100, where random play has about 20, in each of four seeds."""
    runner = PopulationRunner(many.trainer, many.task, range(4))
    best = np.zeros(4)
    for _ in range(50):
        runner.advance(200, True)
        best = np.fmax(best, [row["train/return"] for row in runner.metrics()])
    assert best.min() >= 100.0
