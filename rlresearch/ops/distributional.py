"""Distributions of returns: the categorical projection of C51 and the quantile regression loss of QR-DQN.

Shapes: B rows of a batch, K atoms or quantiles of a distribution, J samples or atoms of its target.
"""

from __future__ import annotations

import tensorflow as tf

from rlresearch.ops.td import huber


def categorical_projection(locations: tf.Tensor, probabilities: tf.Tensor, support: tf.Tensor) -> tf.Tensor:
    """Probabilities float32[B, K] on `support` [K], from probabilities [B, J] at `locations` [B, J].

    The support is evenly spaced. A location between two atoms gives each a part by its distance; one beyond an
    end goes to that end. This is the projection of Bellemare, Dabney & Munos 2017,
    https://arxiv.org/abs/1707.06887, equation 7. Sums stay the same, and so do means inside the support.
    """
    low, high, last = support[0], support[-1], support.shape[0] - 1
    # In atoms from the first one: a difference of whole numbers is exact, that of two returns far from 0 is not.
    position = (tf.clip_by_value(locations, low, high) - low) / ((high - low) / last)
    distance = tf.abs(tf.minimum(position, last)[:, :, None] - tf.range(last + 1, dtype=tf.float32))
    return tf.reduce_sum(probabilities[:, :, None] * tf.maximum(1.0 - distance, 0.0), axis=1)


def kl_divergence(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """KL(target || softmax(logits)), float32[B], in nats, of probabilities [B, K] and logits [B, K].

    No gradient flows through `target`.
    """
    target = tf.stop_gradient(target)
    return tf.reduce_sum(tf.math.xlogy(target, target) - target * tf.nn.log_softmax(logits), axis=1)


def quantile_huber_loss(quantiles: tf.Tensor, target: tf.Tensor, kappa: tf.Tensor | float = 1.0) -> tf.Tensor:
    """The quantile Huber loss float32[B] of quantiles [B, K] at (2 i + 1) / (2 K), for target samples [B, J].

    Summed over quantiles, averaged over samples: |tau - 1{u < 0}| huber(u, kappa) / kappa with
    u = sample - quantile (Dabney et al. 2018, https://arxiv.org/abs/1710.10044, equation 10). It is divided by
    kappa as in the later https://arxiv.org/abs/1806.06923, equation 3: a small kappa gives plain quantile
    regression. No gradient flows through `target`.
    """
    u = tf.stop_gradient(target)[:, None, :] - quantiles[:, :, None]
    count = quantiles.shape[1]
    tau = (2.0 * tf.range(count, dtype=tf.float32)[:, None] + 1.0) / (2.0 * count)
    side = tf.abs(tau - tf.cast(u < 0.0, tf.float32))
    return tf.reduce_sum(tf.reduce_mean(side * huber(u, kappa) / kappa, axis=2), axis=1)
