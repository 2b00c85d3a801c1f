"""The mathematics of reinforcement learning against tables computed by hand."""

import math

import numpy as np
import tensorflow as tf

from rlresearch import ops

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
