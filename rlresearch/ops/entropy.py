"""Entropy-regularised returns: soft values, and the loss and gradient of a learned temperature.

A soft value is a return plus temperature times entropy. Shapes: B rows of a batch, A actions.
"""

from __future__ import annotations

import tensorflow as tf

from rlresearch.ops.derivatives import grad


def soft_value(q: tf.Tensor, log_prob: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """q - temperature * log_prob, float32[B], of sampled actions: a sample of V (Haarnoja et al. 2018b, eq. 3)."""
    return q - temperature * log_prob


def expected_soft_value(q: tf.Tensor, log_probs: tf.Tensor, temperature: tf.Tensor | float) -> tf.Tensor:
    """V float32[B], the expectation over all actions, of q and log_probs [B, A] (Christodoulou 2019, eq. 10)."""
    return tf.reduce_sum(tf.exp(log_probs) * soft_value(q, log_probs, temperature), axis=-1)


def temperature_loss(log_temperature: tf.Tensor, entropy: tf.Tensor, target_entropy: tf.Tensor | float) -> tf.Tensor:
    """log_temperature * (entropy - target_entropy), float32 scalar, all arguments scalars.

    A step down this loss raises the temperature where the entropy is below its target. It is Haarnoja et al.
    2018b, eq. 18, with the logarithm in place of the temperature. No gradient reaches `entropy`.
    """
    return log_temperature * tf.stop_gradient(entropy - target_entropy)


def temperature_gradient(
    log_temperature: tf.Tensor, entropy: tf.Tensor, target_entropy: tf.Tensor | float
) -> tf.Tensor:
    """The derivative float32 scalar of `temperature_loss` in the logarithm of the temperature."""
    return grad(lambda own: temperature_loss(own, entropy, target_entropy), log_temperature)
