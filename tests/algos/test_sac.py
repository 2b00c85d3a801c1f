"""What is particular to soft actor-critics, of vectors of actions and of discrete ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import (
    apart,
    batch_for,
    make_algo,
    make_batch,
    make_plan,
    networks_of,
    nudged,
    progress,
    same_bits,
    spec_of,
    started,
    update,
    without_xla,
)

from rlresearch import ops, optim, rng
from rlresearch.algos.discrete_sac import DiscreteSAC
from rlresearch.algos.sac import SAC
from rlresearch.distributions import Categorical, SquashedGaussian
from rlresearch.errors import ConfigError
from rlresearch.networks import MLP, Params
from rlresearch.types import TimeStep

SOFT = ["discrete_sac", "sac"]
KEY = rng.key(7)
LR = 0.1  # of `started`


# Actions.


def seen(obs, envs):
    return TimeStep(tf.tile(tf.constant([obs], tf.float32), (envs, 1)), tf.zeros(envs, tf.bool))


def constant(params, *values):
    """The same network with kernels 0 and `values` as the output's bias."""
    zero = [tf.zeros_like(weight) for weight in params.trainable]
    return Params([*zero[:-1], zero[-1] + tf.constant(values)], params.frozen)


def test_sac_explores_by_draws_from_its_squashed_gaussian_and_is_evaluated_by_its_median():
    algo = make_algo("sac", "env.num_envs=1000")
    state = algo.init(KEY)
    state = state._replace(actor=constant(state.actor, 0.3, -0.5))
    actions, after = algo.act(state, seen([1.0, 2.0, 3.0], 1000), KEY, progress())
    assert same_bits(after, state)
    assert scipy.stats.kstest(np.arctanh(actions[:, 0]), scipy.stats.norm(0.3, math.exp(-0.5)).cdf).pvalue > 1e-3
    np.testing.assert_allclose(algo.policy(state, tf.zeros((1, 3))), [[math.tanh(0.3)]], rtol=1e-6)


@pytest.mark.parametrize("log_std, clipped", [(30.0, 2.0), (-30.0, -20.0)])
def test_sac_clips_the_logarithm_of_the_deviation(log_std, clipped):
    algo = make_algo("sac", "env.num_envs=1000")
    state = algo.init(KEY)
    drawn = lambda log_std: algo.act(  # noqa: E731
        state._replace(actor=constant(state.actor, 0.3, log_std)), seen([0.0] * 3, 1000), KEY, progress()
    )[0]
    assert same_bits(drawn(log_std), drawn(clipped))
    assert not same_bits(drawn(clipped), drawn(0.9 * clipped))


def test_discrete_sac_explores_by_its_probabilities_and_is_evaluated_by_the_likeliest():
    algo = make_algo("discrete_sac", "env.num_envs=1000")
    state = algo.init(KEY)
    state = state._replace(actor=constant(state.actor, 1.0, 2.0))
    actions, after = algo.act(state, seen([0.0] * 4, 1000), KEY, progress())
    assert same_bits(after, state)
    share = 1.0 / (1.0 + math.exp(-1.0))
    assert scipy.stats.chisquare(np.bincount(actions), [1000 * (1 - share), 1000 * share]).pvalue > 1e-3
    assert algo.policy(state, tf.zeros((100, 4))).numpy().tolist() == [1] * 100


# The critics' target, by hand. Policies, critics and temperature are constants.

GAMMA, T = 0.5, 0.2


def by_hand(name):
    """(algorithm, state): online critics 0 everywhere, policies and target critics constant."""
    algo = make_algo(name, "optimizer=sgd", gamma=GAMMA, temperature=T, learn_temperature=False)
    state = algo.init(KEY)
    outputs = {"sac": ([0.0], [[5.0], [3.0]]), "discrete_sac": ([0.0, 0.0], [[5.0, 1.0], [3.0, 4.0]])}[name]
    online, targets = outputs
    return algo, state._replace(
        actor=constant(state.actor, *{"sac": (0.3, -0.5), "discrete_sac": (0.0, math.log(3.0))}[name]),
        critics=[constant(each, *online) for each in state.critics],
        target_critics=[constant(each, *values) for each, values in zip(state.target_critics, targets)],
    )


def soft_values(name, rows):
    """V(s') by numpy, float64[rows]: the smaller target critic and the draw's, or the policy's, entropy."""
    if name == "discrete_sac":  # probabilities 1/4 and 3/4, smaller values 3 and 1
        value = 0.25 * (3.0 - T * math.log(0.25)) + 0.75 * (1.0 - T * math.log(0.75))
        return np.full(rows, value)
    drawn = rng.normal(tf.unstack(rng.split(KEY, 2))[0], (rows, 1)).numpy()[:, 0].astype(np.float64)
    before = 0.3 + math.exp(-0.5) * drawn
    log_prob = scipy.stats.norm(0.3, math.exp(-0.5)).logpdf(before) - np.log(1.0 - np.tanh(before) ** 2)
    return 3.0 - T * log_prob


@pytest.mark.parametrize("name", SOFT)
def test_the_target_is_the_reward_plus_the_discounted_soft_value(name):
    algo, state = by_hand(name)
    reward = np.array([1.0, 2.0, -1.0, 0.5])
    terminated, steps = np.array([False, True, False, False]), np.array([1.0, 1.0, 3.0, 1.0])
    batch = batch_for(algo, 4, reward=reward, terminated=terminated, steps=steps, truncated=[True] * 4)
    _, metrics, errors = algo.update(state, batch, KEY, progress())
    target = reward + np.where(terminated, 0.0, GAMMA**steps) * soft_values(name, 4)
    np.testing.assert_allclose(errors, np.abs(target), rtol=1e-5)
    assert metrics["loss/critic"].numpy() == pytest.approx(np.mean(target**2), rel=1e-5)
    assert metrics["value/q"].numpy() == 0.0 and metrics["policy/temperature"].numpy() == pytest.approx(T)


@pytest.mark.parametrize("name", SOFT)
def test_rows_count_by_their_weight(name):
    algo, state = by_hand(name)
    reward, weight = np.array([1.0, 2.0]), np.array([3.0, 1.5])
    batch = batch_for(algo, 2, reward=reward, weight=weight, terminated=[True, True])
    assert update(algo, state, batch)[1]["loss/critic"].numpy() == pytest.approx(np.mean(weight * reward**2))


LINEAR = MLP(hidden=())
SMALL = SAC(spec_of(1, 1), LINEAR, LINEAR, optim.SGD(lr=0.1), gamma=0.5, temperature=0.0, learn_temperature=False)


def flat(*weights, bias=0.0):
    return Params([tf.constant([[float(w)] for w in weights]), tf.constant([float(bias)])], [])


def test_sac_takes_the_smaller_critic_in_each_row():
    """Critics +a and -a: the smaller is -|a|, in the target and in the policy's loss. Temperature 0, no entropy."""
    opposite = [flat(0, 1), flat(0, -1)]
    actor = Params([tf.zeros((1, 2)), tf.constant([0.1, 0.0])], [])
    target_key, actor_key = tf.unstack(rng.split(KEY, 2))
    drawn = lambda key: np.tanh(0.1 + rng.normal(key, (64, 1)).numpy())  # noqa: E731
    batch = make_batch(64, 1, 1, reward=np.zeros(64))
    state = SMALL.init(KEY)._replace(actor=actor, critics=[flat(0, 0), flat(0, 0)], target_critics=opposite)
    _, metrics = update(SMALL, state, batch, KEY)
    assert metrics["loss/critic"].numpy() == pytest.approx(np.mean((0.5 * drawn(target_key)) ** 2), rel=1e-5)
    still = replace(SMALL, optimizer=optim.SGD(lr=1e-30))
    _, metrics = update(still, state._replace(critics=opposite), batch, KEY)
    assert metrics["loss/actor"].numpy() == pytest.approx(np.mean(np.abs(drawn(actor_key))), rel=1e-5)


@pytest.mark.parametrize("name", SOFT)
def test_critics_start_apart_and_their_targets_with_them(name):
    state = make_algo(name).init(KEY)
    assert not same_bits(*state.critics)
    assert same_bits(state.critics, state.target_critics)


# Where gradients flow, by what a change of one part changes in another.


@pytest.mark.parametrize("name", SOFT)
def test_the_target_comes_from_the_target_critics_and_the_online_policy(name):
    """The errors change with each target critic and with the policy; an ended row's change with neither."""
    algo, state = started(name)
    batch = batch_for(algo)
    errors = lambda state: algo.update(state, batch, KEY, progress())[2].numpy()  # noqa: E731
    one, two = state.target_critics
    assert not same_bits(errors(state._replace(target_critics=[nudged(one, -9.0), two])), errors(state))
    assert not same_bits(errors(state._replace(target_critics=[one, nudged(two, -9.0)])), errors(state))
    assert not same_bits(errors(state._replace(actor=nudged(state.actor))), errors(state))
    batch = batch._replace(terminated=tf.ones(8, tf.bool))
    elsewhere = state._replace(actor=nudged(state.actor), target_critics=nudged(state.target_critics))
    assert same_bits(errors(elsewhere), errors(state))


@pytest.mark.parametrize("name", SOFT)
def test_critics_descend_their_squared_error_to_a_target_that_stands_still(name):
    """With the same critics online and as targets, a slope through the target would show."""
    algo, state = started(name)
    state, batch = state._replace(target_critics=state.critics), batch_for(algo)
    values = lambda critic: (  # noqa: E731
        algo.critic_net.apply(critic, batch.obs, batch.action)[:, 0]
        if name == "sac"
        else ops.index_by_action(algo.critic_net.apply(critic, batch.obs), batch.action)
    )
    after, _, _ = algo.update(state, batch, KEY, progress())
    target = target_of(name, algo, state, batch)
    for critic, moved in zip(state.critics, after.critics, strict=True):
        loss = lambda own, critic=critic: tf.reduce_mean(tf.square(target - values(critic._replace(trainable=own))))  # noqa: E731
        (_, _), grads = ops.value_and_grad(lambda own: (loss(own), ()), critic.trainable)  # noqa: B023
        expected = tf.nest.map_structure(lambda w, g: w - LR * g, critic.trainable, grads)
        assert apart(moved.trainable, expected) < 1e-6


def target_of(name, algo, state, batch):
    output, temperature = algo.actor_net.apply(state.actor, batch.next_obs), tf.exp(state.log_temperature)
    if name == "sac":
        action, log_prob = SquashedGaussian(output[:, :1], output[:, 1:]).sample(tf.unstack(rng.split(KEY, 2))[0])
        q = [algo.critic_net.apply(each, batch.next_obs, action)[:, 0] for each in state.target_critics]
        value = ops.soft_value(tf.minimum(*q), log_prob, temperature)
    else:
        q = [algo.critic_net.apply(each, batch.next_obs) for each in state.target_critics]
        value = ops.expected_soft_value(tf.minimum(*q), tf.nn.log_softmax(output), temperature)
    return batch.reward + algo.gamma * value


@pytest.mark.parametrize("name", SOFT)
def test_the_policys_loss_gives_the_critics_no_gradient(name):
    """Where no target asks the policy, the critics' step is the same whatever the policy is."""
    algo, state = started(name)
    batch = batch_for(algo, terminated=np.ones(8, bool))
    one, _ = update(algo, state, batch)
    two, _ = update(algo, state._replace(actor=nudged(state.actor)), batch)
    assert same_bits(networks_of(one, "critic"), networks_of(two, "critic"))
    assert apart(one.critics, state.critics) > 1e-4


@pytest.mark.parametrize("name", SOFT)
def test_the_policy_descends_its_loss_under_the_moved_critics(name):
    algo, state = started(name)
    batch = batch_for(algo)
    after, metrics, _ = algo.update(state, batch, KEY, progress())
    temperature = tf.exp(state.log_temperature)

    def loss(weights):
        output = algo.actor_net.apply(state.actor._replace(trainable=weights), batch.obs)
        if name == "sac":
            action, log_prob = SquashedGaussian(output[:, :1], output[:, 1:]).sample(tf.unstack(rng.split(KEY, 2))[1])
            q = tf.minimum(*[algo.critic_net.apply(each, batch.obs, action)[:, 0] for each in after.critics])
            return tf.reduce_mean(temperature * log_prob - q), -tf.reduce_mean(log_prob)
        probs = tf.nn.softmax(output)
        q = tf.minimum(*[algo.critic_net.apply(each, batch.obs) for each in after.critics])
        each = tf.reduce_sum(probs * (temperature * tf.math.log(probs) - q), axis=1)
        return tf.reduce_mean(each), -tf.reduce_mean(tf.reduce_sum(probs * tf.math.log(probs), axis=1))

    (value, entropy), grads = ops.value_and_grad(loss, state.actor.trainable)
    expected = tf.nest.map_structure(lambda w, g: w - LR * g, state.actor.trainable, grads)
    assert apart(after.actor.trainable, expected) < 1e-6
    assert metrics["loss/actor"].numpy() == pytest.approx(value.numpy(), abs=1e-5)
    assert metrics["policy/entropy"].numpy() == pytest.approx(entropy.numpy(), abs=1e-5)


@pytest.mark.parametrize("name", SOFT)
def test_target_critics_move_by_tau_alone(name):
    algo, state = started(name)
    after, _ = update(algo, state, batch_for(algo))
    moved = tf.nest.map_structure(lambda old, new: 0.75 * old + 0.25 * new, state.target_critics, after.critics)
    assert apart(after.target_critics, moved) < 1e-6
    still, _ = update(replace(algo, tau=1e-40), state, batch_for(algo))
    assert same_bits(still.target_critics, state.target_critics)


# The temperature.

AIM = {"sac": "target_entropy", "discrete_sac": "entropy_ratio"}


@pytest.mark.parametrize("name", SOFT)
def test_the_temperatures_loss_moves_the_temperature_alone(name):
    algo, state = started(name)
    one, metrics = update(replace(algo, **{AIM[name]: 0.25}), state, batch_for(algo))
    two, _ = update(replace(algo, **{AIM[name]: 0.75}), state, batch_for(algo))
    assert not same_bits(one.log_temperature, two.log_temperature)
    assert same_bits(one._replace(log_temperature=()), two._replace(log_temperature=()))
    aim = 0.25 * (1.0 if name == "sac" else math.log(2.0))
    step = -LR * (metrics["policy/entropy"].numpy() - aim)
    assert (one.log_temperature - state.log_temperature).numpy() == pytest.approx(step, abs=1e-6)
    assert metrics["policy/temperature"].numpy() == pytest.approx(math.exp(state.log_temperature.numpy()))


@pytest.mark.parametrize("output, rises", [({"sac": (0.0, 0.0), "discrete_sac": (0.0, 0.0)}, False),
                                           ({"sac": (0.0, -4.0), "discrete_sac": (0.0, 5.0)}, True)])  # fmt: skip
@pytest.mark.parametrize("name", SOFT)
def test_the_temperature_rises_where_the_entropy_is_low_and_falls_where_it_is_high(name, output, rises):
    algo, state = started(name)
    state = state._replace(actor=constant(state.actor, *output[name]))
    after, _ = update(algo, state, batch_for(algo))
    assert (after.log_temperature > state.log_temperature).numpy() == rises


@pytest.mark.parametrize("actions", [1, 3])
def test_sacs_target_entropy_is_minus_the_size_of_the_action(actions):
    algo = replace(SMALL, spec=spec_of(1, actions), temperature=1.0, learn_temperature=True)
    batch = make_batch(4, 1, actions)
    own, _ = update(algo, algo.init(KEY), batch)
    told, _ = update(replace(algo, target_entropy=-float(actions)), algo.init(KEY), batch)
    other, _ = update(replace(algo, target_entropy=-actions - 0.5), algo.init(KEY), batch)
    assert same_bits(own, told) and not same_bits(own, other)


@pytest.mark.parametrize("name", SOFT)
def test_a_fixed_temperature_stays_and_may_be_0(name):
    for temperature in (0.0, 0.3):
        algo = make_algo(name, temperature=temperature, learn_temperature=False)
        state = algo.init(KEY)
        after, metrics = update(algo, state, batch_for(algo))
        assert state.log_temperature == after.log_temperature == ()
        assert metrics["policy/temperature"].numpy() == np.float32(temperature)


@pytest.mark.parametrize("name", SOFT)
def test_the_temperature_learns_under_clipped_gradients(name):
    algo = make_algo(name, "optimizer=sgd", "optimizer.lr=1.0", "optimizer.max_grad_norm=0.01")
    state = algo.init(KEY)
    after, _ = update(algo, state, batch_for(algo))
    assert abs((after.log_temperature - state.log_temperature).numpy()) == pytest.approx(0.01, rel=1e-5)


def test_the_entropy_is_brought_to_its_target():
    """Alone with a value that knows no difference, a policy's entropy settles where it should."""
    made = make_algo("discrete_sac", "optimizer.lr=0.02", entropy_ratio=0.6, temperature=0.5, gamma=0.0)
    batch = batch_for(made, obs=np.ones((8, 4)), reward=[1.0, 0.0] * 4)
    batch = batch._replace(action=tf.constant([0, 1] * 4))
    step = tf.function(lambda state: update(made, state, batch), autograph=False)
    state = made.init(KEY)
    for _ in range(600):
        state, metrics = step(state)
    assert metrics["policy/entropy"].numpy() == pytest.approx(0.6 * math.log(2.0), abs=0.01)


# What is refused.


@pytest.mark.parametrize(
    "wrong, said",
    [
        (("algo=sac", "env=cartpole"), "SAC needs continuous actions"),
        (("algo=discrete_sac", "env=pendulum"), "DiscreteSAC needs discrete actions"),
        (("algo=sac", "noise=gaussian"), "noise: SAC explores by itself and takes no Gaussian; choose noise=none"),
        (("algo=sac", "network=actor_critic"), "output_activation=tanh: must be linear for SAC"),
        (("algo=discrete_sac", "network=actor_critic", "env=cartpole"), "network=stochastic_actor_critic fits"),
        (("algo=sac", "algo.temperature=0.0"), "algo.temperature=0.0: must be above 0"),
        (("algo=discrete_sac", "algo.temperature=0.0", "env=cartpole"), "algo.learn_temperature=false"),
        (("algo=discrete_sac", "algo.entropy_ratio=1.5", "env=cartpole"), "from 0 to 1"),
    ],
)
def test_what_cannot_learn_is_refused(wrong, said):
    with pytest.raises(ConfigError, match=said):
        make_plan(wrong[0].removeprefix("algo="), *wrong[1:])


@pytest.mark.usefixtures("quick_draws")
def test_members_may_differ_in_temperature_and_target():
    values = "runner.values={algo.temperature:[0.1,0.2],algo.target_entropy:[-1.0,-2.0]}"
    made = make_plan("sac", "runner=population", "runner.seeds=2", values, "algo.target_entropy=-1.0")
    with without_xla():
        runner = made.runner.start(made.trainer, made.task, 0)
        np.testing.assert_allclose(runner.state().algo.log_temperature, np.log([0.1, 0.2]), rtol=1e-6)
        runner.advance(40, True)
        assert [row["policy/temperature"] for row in runner.metrics()] == pytest.approx([0.1, 0.2], rel=0.02)


# By hand: analytic gradients of two states and two actions, temperature 1.

W, B = [[-0.67553341, -0.46830416], [-0.29148576, 0.02619374]], [0.27954417, 0.42428023]
K, C = [[-0.00529397, 0.37932295], [-0.58198076, -0.52038747]], [-0.27234524, 0.18961591]
S, S_NEXT, A = [1.0, 2.0], [0.90929743, 0.14112001], 1
P, Q = [0.17978873, 0.82021127], [0.48100669, -1.43313979]


def dense(kernel, bias):
    """A network that gives kernel x + bias (Keras multiplies from the right)."""
    return Params([tf.constant(np.transpose(kernel), tf.float32), tf.constant(bias)], [])


@pytest.fixture(scope="module")
def example():
    """(algorithm, state, batch): both critics are the example's, online and as targets."""
    spec = replace_spec(make_algo("discrete_sac").spec)
    algo = DiscreteSAC(spec, LINEAR, LINEAR, optim.SGD(lr=1.0), temperature=1.0, learn_temperature=False)
    state, critics = algo.init(KEY), [dense(K, C), dense(K, C)]  # of one shared by both the gradient would be the sum
    batch = make_batch(1, 2, obs=[S], next_obs=[S_NEXT], reward=[2.0])._replace(action=tf.constant([A]))
    return algo, state._replace(actor=dense(W, B), critics=critics, target_critics=critics), batch


def replace_spec(spec):
    return spec._replace(observation_space=spec_of(2, 1).observation_space)


def close(actual, expected):
    """To float32 rounding of the printed digits."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=5e-7, atol=5e-7)


def test_the_worked_softmax_has_its_probabilities_and_values(example):
    algo, state, batch = example
    close(Categorical(algo.actor_net.apply(state.actor, batch.obs)).probs(), [P])
    close(algo.critic_net.apply(state.critics[0], batch.obs), [Q])


def test_the_worked_policy_gradient_is_the_closed_form(example):
    """One step of the whole algorithm down the gradient. The critics rest: the reward is what they expect.

    Slip in the source: the second bias gradient was printed with the first one's formula, -0.506; it is +0.506.
    """
    algo, state, batch = example
    ended = batch._replace(reward=tf.constant([Q[A]]), terminated=tf.constant([True]))
    after, metrics = update(algo, state, ended)
    assert apart(after.critics, state.critics) < 1e-6
    kernel, bias = tf.nest.map_structure(tf.subtract, state.actor.trainable, after.actor.trainable)
    close(tf.transpose(kernel), [[-0.50608809, -1.01217617], [0.50608809, 1.01217617]])
    close(bias, [-0.50608809, 0.50608809])
    p, q = np.array(P), np.array(Q)
    f = q - np.log(p) - 1.0
    first = f[0] * p[0] * (p[0] - 1.0) + f[1] * p[0] * p[1]
    second = f[1] * p[1] * (p[1] - 1.0) + f[0] * p[0] * p[1]
    close(bias, [first, second])
    close(metrics["loss/actor"], -np.sum(p * (q - np.log(p))))


@pytest.mark.parametrize("gamma, target, slope", [(1.0, 2.03747508, -3.47061487), (0.99, 2.03710033, -3.47024012)])
def test_the_worked_critic_gradient_with_the_likeliest_next_action(example, gamma, target, slope):
    """The example's target is of one action. Slip in the source: the discount 0.99 was defined, but 1 was used."""
    algo, state, batch = example
    pi = Categorical(algo.actor_net.apply(state.actor, batch.next_obs))
    q_t = ops.index_by_action(algo.critic_net.apply(state.target_critics[0], batch.next_obs), pi.mode())
    v_t = ops.soft_value(q_t, pi.log_prob(pi.mode()), 1.0)
    y = ops.td_target(batch.reward, ops.discount(gamma, batch.terminated, batch.steps), v_t)
    close(y, [target])

    def loss(trainable):
        q = algo.critic_net.apply(state.critics[0]._replace(trainable=trainable), batch.obs)
        return 0.5 * tf.square(ops.index_by_action(q, batch.action) - y)[0], ()

    kernel, bias = ops.value_and_grad(loss, state.critics[0].trainable)[1]
    close(tf.transpose(kernel), [[0.0, 0.0], [slope, 2.0 * slope]])
    close(bias, [0.0, slope])
    if gamma == 1.0:
        close(kernel[1, 1], -6.94122974)


def test_the_algorithm_takes_the_expectation_over_next_actions(example):
    algo, state, batch = example
    after, _, error = algo.update(state, batch, KEY, progress())
    close(error, [2.30751317 - Q[A]])
    for critic, moved in zip(state.critics, after.critics, strict=True):  # of the whole square: twice the half's slope
        kernel, bias = tf.nest.map_structure(tf.subtract, critic.trainable, moved.trainable)
        slope = -2.0 * (2.30751317 - Q[A])
        np.testing.assert_allclose(tf.transpose(kernel), [[0.0, 0.0], [slope, 2.0 * slope]], rtol=1e-6)
        np.testing.assert_allclose(bias, [0.0, slope], rtol=1e-6)


def test_the_closed_forms_are_the_symbolic_gradients():
    """All six derivatives of the policy's loss and the critic's six, for any numbers."""
    sympy = pytest.importorskip("sympy", reason="of the extra 'test'")
    w, k = sympy.Matrix(2, 2, sympy.symbols("w:4", real=True)), sympy.Matrix(2, 2, sympy.symbols("k:4", real=True))
    b, c, s = (sympy.Matrix(sympy.symbols(f"{name}:2", real=True)) for name in "bcs")
    y = sympy.Symbol("y", real=True)
    z, q = w * s + b, k * s + c
    p = [sympy.exp(each) / (sympy.exp(z[0]) + sympy.exp(z[1])) for each in z]
    loss = -sum(p[i] * (q[i] - sympy.log(p[i])) for i in range(2))
    f = [q[i] - sympy.log(p[i]) - 1 for i in range(2)]
    closed = [f[0] * p[0] * (p[0] - 1) + f[1] * p[0] * p[1], f[1] * p[1] * (p[1] - 1) + f[0] * p[0] * p[1]]
    for i in range(2):
        assert sympy.simplify(sympy.diff(loss, b[i]) - closed[i]) == 0
        for j in range(2):
            assert sympy.simplify(sympy.diff(loss, w[i, j]) - s[j] * closed[i]) == 0
    error = (q[A] - y) ** 2 / 2
    for i in range(2):
        assert sympy.expand(sympy.diff(error, c[i]) - (q[A] - y) * int(i == A)) == 0
        for j in range(2):
            assert sympy.expand(sympy.diff(error, k[i, j]) - s[j] * (q[A] - y) * int(i == A)) == 0
    values = dict(zip([*w, *b, *k, *c, *s, y], [*sum(W, []), *B, *sum(K, []), *C, *S, 2.03747508], strict=True))
    close([float(each.subs(values)) for each in closed], [-0.50608809, 0.50608809])
    close(float(sympy.diff(error, c[A]).subs(values)), -3.47061487)
