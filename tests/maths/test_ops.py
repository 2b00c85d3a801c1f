"""The mathematics of reinforcement learning, against tables made by hand and references in float64."""

import math

import numpy as np
import pytest
import tensorflow as tf

from rlresearch import ops

# Values of actions, errors, sums of several steps.


def test_chosen_takes_each_rows_own_action_from_values_and_from_distributions():
    values = tf.reshape(tf.range(24.0), (2, 3, 4))
    np.testing.assert_array_equal(ops.index_by_action(values, tf.constant([2, 0])), [[8, 9, 10, 11], [12, 13, 14, 15]])
    np.testing.assert_array_equal(ops.index_by_action(values[:, :, 0], tf.constant([2, 0])), [8, 12])


@pytest.mark.parametrize(
    "kappa, expected", [(1.0, [0.125, 0.5, 2.5]), (2.0, [0.125, 0.5, 4.0]), (0.5, [0.125, 0.375, 1.375])]
)
def test_huber_is_half_the_square_up_to_kappa_and_linear_beyond(kappa, expected):
    np.testing.assert_allclose(ops.huber(tf.constant([0.5, -1.0, 3.0]), kappa), expected, rtol=1e-6)
    slopes = ops.batch_grad(lambda x: ops.huber(x, kappa), tf.constant([0.25, -9.0, 9.0]))
    np.testing.assert_allclose(slopes, [0.25, -kappa, kappa], rtol=1e-6)


def test_targets_give_no_gradient():
    """Neither to rewards nor discounts nor values, also where a loss computes its target inside the tape."""
    parts = [tf.constant([1.0, 2.0]), tf.constant([0.9, 0.0]), tf.constant([3.0, 4.0])]
    (value, _), grads = ops.value_and_grad(lambda parts: (tf.reduce_sum(ops.td_target(*parts)), ()), parts)
    assert value.numpy() == pytest.approx(1.0 + 2.7 + 2.0)
    assert not any(np.any(grad) for grad in grads)


def test_n_step_return_ends_with_the_episode_or_with_what_is_stored():
    """Rewards 1, 10, 100 at gamma 1/2; an end at the first or second step, or no third one yet."""
    flags = lambda *rows: tf.constant(rows) > 0  # noqa: E731
    reward = tf.tile([[1.0, 10.0, 100.0]], (5, 1))
    terminated = flags([0, 0, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 1])
    truncated = flags([0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0])
    stored = flags([1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 1])
    total, steps = ops.n_step_return(reward, terminated, truncated, stored, 0.5)
    np.testing.assert_allclose(total, [31.0, 1.0, 6.0, 6.0, 31.0])
    np.testing.assert_array_equal(steps, [3, 1, 2, 2, 3])


# Numbers brought to mean 0 and deviation 1.


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: tf.function(x, jit_compile=True)], ids=["eager", "xla"])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 7, 10, 49, 64, 1000, 100_003])
def test_equal_rows_are_standardized_to_0_at_every_size(rows, wrapped):
    for value in (0.0, 0.1, 1 / 3, -7.7, 123_456.7, 1e9 + 64.0, 1e-30, -3e38):
        np.testing.assert_array_equal(wrapped(ops.standardized)(tf.fill(rows, value)), 0.0)


@pytest.mark.parametrize("rows", [2, 3, 64, 1001, 100_003])
@pytest.mark.parametrize(
    "offset, scale", [(0.0, 1.0), (0.0, 1e-30), (0.0, 1e30), (1e3, 1e-2), (-1e6, 1.0), (1e-9, 1e-9)]
)
def test_standardized_is_float64s_of_the_same_rows_whatever_their_offset_and_scale(rows, offset, scale):
    x = (offset + scale * np.random.default_rng(rows).normal(size=rows)).astype(np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        ops.standardized(tf.constant(x)), (wide - wide.mean()) / wide.std(), rtol=1e-6, atol=1e-6
    )


# What other functions promise of their results, over sizes and scales.


@pytest.mark.parametrize("steps", [1, 2, 3, 17, 64, 1000])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_backward_sum_is_the_recursion_at_every_length(steps, scale):
    draw = np.random.default_rng(steps)
    x = (scale * draw.normal(size=(steps, 3))).astype(np.float32)
    decay = (0.99 * (draw.uniform(size=(steps, 3)) > 0.05)).astype(np.float32)
    wanted, running = np.zeros((steps, 3)), np.zeros(3)
    for t in reversed(range(steps)):
        running = wanted[t] = x[t] + decay[t].astype(np.float64) * running
    np.testing.assert_allclose(ops.backward_sum(x, decay) / scale, wanted / scale, atol=3e-5)


@pytest.mark.parametrize("size, offset, scale", [(2, 0.0, 1.0), (51, 0.0, 30.0), (51, 1e4, 1.0), (1000, 0.0, 1e-3)])
def test_a_divergence_from_itself_is_0_and_from_others_never_below(size, offset, scale):
    draw = np.random.default_rng(size)
    logits, others = (tf.constant(offset + scale * draw.normal(size=(20, size)), tf.float32) for _ in range(2))
    target = tf.nn.softmax(logits)
    np.testing.assert_allclose(ops.kl_divergence(target, logits), 0.0, atol=2e-6)
    assert np.all(ops.kl_divergence(target, others).numpy() > -2e-6)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_polyak_is_exact_at_both_ends(scale):
    old, new = (tf.constant(scale * np.random.default_rng(seed).normal(size=100), tf.float32) for seed in (0, 1))
    np.testing.assert_array_equal(ops.polyak(old, new, 0.0), old)
    np.testing.assert_array_equal(ops.polyak(old, new, 1.0), new)


# Distributions of returns.


def projected(places, probabilities, support):
    """Bellemare et al. 2017, Algorithm 1, one atom after the other in float64."""
    result = np.zeros((len(places), len(support)))
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    for row in range(len(places)):
        for place, probability in zip(places[row], probabilities[row]):
            b = (np.clip(place, support[0], support[-1]) - support[0]) / spacing
            low, high = int(np.floor(b)), int(np.ceil(b))
            if low == high:
                result[row, low] += probability
            else:
                result[row, low] += probability * (high - b)
                result[row, high] += probability * (b - low)
    return result


@pytest.mark.parametrize("atoms, low, high", [(2, 0.0, 1.0), (11, -3.0, 2.0), (51, -10.0, 10.0)])
def test_categorical_projection_is_the_papers_algorithm(atoms, low, high):
    draw = np.random.default_rng(atoms)
    places = draw.uniform(low - 2.0, high + 2.0, (40, 7)).astype(np.float32)
    probabilities = draw.dirichlet(np.ones(7), 40).astype(np.float32)
    support = np.linspace(low, high, atoms)
    out = ops.categorical_projection(places, probabilities, tf.constant(support, tf.float32)).numpy()
    np.testing.assert_allclose(out, projected(places, probabilities, support), atol=2e-5)
    np.testing.assert_allclose(out.sum(1), 1.0, atol=1e-5)
    inside = np.clip(places, low, high)
    np.testing.assert_allclose(out @ support, (inside * probabilities).sum(1), atol=1e-4)


FAR = [(2, 1000.0, 1001.0), (51, 1000.0, 1001.0), (51, -1e6, -1e6 + 64.0), (201, 1e-6, 3e-6), (51, -1e30, 1e30)]


@pytest.mark.parametrize("atoms, low, high", FAR)
@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: tf.function(x, jit_compile=True)], ids=["eager", "xla"])
def test_a_projection_keeps_its_mass_and_mean_on_every_support(atoms, low, high, wrapped):
    """As algorithms build it: the support in float32, the locations anywhere around it."""
    support = tf.constant(low) + tf.constant(high - low) * tf.linspace(0.0, 1.0, atoms)
    draw, span = np.random.default_rng(atoms), high - low
    places = draw.uniform(low - 0.3 * span, high + 0.3 * span, (200, 7)).astype(np.float32)
    places[0] = support[-1]
    probabilities = draw.dirichlet(np.ones(7), 200).astype(np.float32)
    out = wrapped(ops.categorical_projection)(tf.constant(places), tf.constant(probabilities), support).numpy()
    np.testing.assert_allclose(out.sum(1, dtype=np.float64), probabilities.sum(1, dtype=np.float64), atol=1e-6)
    ends = np.float64(support[0]), np.float64(support[-1])
    wanted = (np.clip(places.astype(np.float64), *ends) * probabilities).sum(1)
    np.testing.assert_allclose(
        (out @ np.linspace(*ends, atoms) - wanted) / span, 0.0, atol=2e-6 + 1e-6 * abs(low / span)
    )


def test_categorical_projection_by_hand():
    """On 0, 1, 2: 0.25 shares 3 to 1, 1 stays, 7 is the end's."""
    out = ops.categorical_projection(tf.constant([[0.25, 1.0, 7.0]]), tf.constant([[0.4, 0.5, 0.1]]), tf.range(3.0))
    np.testing.assert_allclose(out, [[0.3, 0.6, 0.1]], atol=1e-6)


def test_kl_divergence_is_zero_at_the_target_and_its_slope_the_difference():
    logits = tf.constant([[0.0, 0.0], [1.0, 3.0]])
    target = tf.constant([[1.0, 0.0], tf.nn.softmax([1.0, 3.0]).numpy()])
    np.testing.assert_allclose(ops.kl_divergence(target, logits), [np.log(2.0), 0.0], atol=1e-6)
    slope = ops.grad(lambda x: tf.reduce_sum(ops.kl_divergence(target, x)), logits)
    np.testing.assert_allclose(slope, tf.nn.softmax(logits) - target, atol=1e-6)
    np.testing.assert_array_equal(ops.grad(lambda x: tf.reduce_sum(ops.kl_divergence(x, logits)), target), 0.0)


def quantile_loss(quantiles, target, kappa):
    """Dabney et al. 2018, equations 9 and 10, pair by pair in float64, divided by kappa."""
    total = np.zeros(len(quantiles))
    for row in range(len(quantiles)):
        for i, theta in enumerate(quantiles[row]):
            tau = (2 * i + 1) / (2 * len(quantiles[row]))
            for sample in target[row]:
                u = float(sample) - float(theta)
                huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                total[row] += abs(tau - (u < 0)) * huber / kappa / len(target[row])
    return total


@pytest.mark.parametrize("count, samples, kappa", [(1, 1, 1.0), (5, 8, 1.0), (8, 5, 0.3), (20, 20, 2.0)])
def test_quantile_huber_loss_is_the_papers_sum(count, samples, kappa):
    draw = np.random.default_rng(count)
    quantiles, target = (2.0 * draw.normal(size=(10, size)).astype(np.float32) for size in (count, samples))
    loss = ops.quantile_huber_loss(tf.constant(quantiles), tf.constant(target), kappa)
    np.testing.assert_allclose(loss, quantile_loss(quantiles, target, kappa), rtol=1e-5)


def test_quantile_huber_loss_finds_the_quantiles():
    """Of 0 to 99, quantiles at 1/8, 3/8, 5/8, 7/8, by gradient descent."""
    target, theta = tf.range(100.0)[None], tf.zeros((1, 4))
    for _ in range(800):
        theta -= 2.0 * ops.grad(lambda x: tf.reduce_sum(ops.quantile_huber_loss(x, target, 0.1)), theta)
    np.testing.assert_allclose(theta, [[12.0, 37.0, 62.0, 87.0]], atol=1.0)


def test_the_targets_of_the_quantile_loss_get_no_gradient():
    slope = ops.grad(lambda x: tf.reduce_sum(ops.quantile_huber_loss(tf.zeros((2, 3)), x)), tf.ones((2, 4)))
    np.testing.assert_array_equal(slope, 0.0)


# Soft values.


def test_a_soft_value_is_the_value_less_temperature_times_log_probability():
    v = ops.soft_value(tf.constant([1.0, 2.0, -3.0]), tf.constant([-0.5, 0.0, 2.0]), 0.2)
    np.testing.assert_allclose(v, [1.1, 2.0, -3.4], rtol=1e-6)


def test_an_expected_soft_value_adds_temperature_times_entropy():
    """Of values 4 and 8 with 1/4 and 3/4: 7 and the entropy. Uniform over equal ones: log 2. A sure choice: nothing."""
    log_probs = tf.math.log([[0.25, 0.75], [0.5, 0.5], [1.0, 1e-30]])
    v = ops.expected_soft_value(tf.constant([[4.0, 8.0], [3.0, 3.0], [5.0, 100.0]]), log_probs, 2.0)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    np.testing.assert_allclose(v, [7.0 + 2.0 * entropy, 3.0 + 2.0 * math.log(2.0), 5.0], rtol=1e-6)


def test_no_policy_has_a_higher_soft_value_than_the_softmax():
    """The best is temperature * logsumexp(q / temperature) (Haarnoja et al. 2018b, eq. 4)."""
    q, temperature = tf.constant([[1.0, -0.5, 2.0]]), 0.7
    best = ops.expected_soft_value(q, tf.nn.log_softmax(q / temperature), temperature)
    np.testing.assert_allclose(best, temperature * tf.reduce_logsumexp(q / temperature, axis=1), rtol=1e-6)
    near = ops.expected_soft_value(q, tf.nn.log_softmax(q / temperature + [[0.1, 0.0, -0.1]]), temperature)
    assert near.numpy() < best.numpy()


def test_the_temperatures_slope_is_what_the_entropy_has_too_much():
    """At any temperature; no gradient reaches the entropy."""
    for log_temperature in (-3.0, 0.0, 2.0):
        (loss, _), (slope, onward) = ops.value_and_grad(
            lambda both: (ops.temperature_loss(both[0], both[1], -1.0), ()),
            [tf.constant(log_temperature), tf.constant(0.5)],
        )
        assert (loss.numpy(), slope.numpy(), onward.numpy()) == (1.5 * log_temperature, 1.5, 0.0)
