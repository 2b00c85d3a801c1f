"""Distributions over actions: NamedTuples of their parameters, so that each is a tree of tensors.

Shapes: B rows, A action dimensions or discrete actions. Log-densities and entropies are float[B], sums over the A
dimensions, in nats, in the dtype of the parameters. Evaluation takes `mode`. Samples of continuous actions have a
gradient in the parameters (reparameterization, Kingma & Welling 2014). Samples of discrete actions have none (argmax of
logits plus Gumbel noise, Maddison et al. 2014).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key, Tree


class DiagonalGaussian(NamedTuple):
    """Independent normal numbers. mean, log_std: float[B, A], the latter may lack B."""

    mean: tf.Tensor
    log_std: tf.Tensor

    def sample(self, key: Key) -> tf.Tensor:
        """float[B, A], with the gradient of both parameters."""
        sample = tf.cast(rng.normal(key, tuple(self.mean.shape)), self.mean.dtype)
        return self.mean + tf.exp(self.log_std) * sample

    def log_prob(self, value: tf.Tensor) -> tf.Tensor:
        """Log-density float[B] at float[B, A]."""
        scaled = (value - self.mean) * tf.exp(-self.log_std)
        return tf.reduce_sum(-0.5 * tf.square(scaled) - self.log_std - 0.5 * math.log(2.0 * math.pi), axis=-1)

    def entropy(self) -> tf.Tensor:
        """float[B]: the sum of log_std + log(2 pi e) / 2."""
        each = self.log_std + 0.5 * math.log(2.0 * math.pi * math.e)
        return tf.reduce_sum(tf.broadcast_to(each, self.mean.shape), axis=-1)

    def mode(self) -> tf.Tensor:
        """float[B, A]."""
        return self.mean


class SquashedGaussian(NamedTuple):
    """tanh of independent normal numbers: actions in [-1, 1] (Haarnoja et al. 2018b, appendix C).

    mean, log_std: float[B, A], of the numbers before tanh. Its entropy has no closed form: it is
    estimated by minus the log-density of samples.
    """

    mean: tf.Tensor
    log_std: tf.Tensor

    def sample(self, key: Key) -> tuple[tf.Tensor, tf.Tensor]:
        """(action float[B, A], its log-density float[B]), with the gradient of both parameters.

        Both together, because the density needs the number before tanh: an action that rounds to 1 has lost it.
        """
        before = DiagonalGaussian(*self)
        sample = before.sample(key)
        return tf.tanh(sample), before.log_prob(sample) - log_slope_of_tanh(sample)

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """Log-density float[B] at actions float[B, A] strictly inside (-1, 1); infinite or NaN at its ends."""
        sample = tf.atanh(action)
        return DiagonalGaussian(*self).log_prob(sample) - log_slope_of_tanh(sample)

    def mode(self) -> tf.Tensor:
        """tanh of the mean, float[B, A]: each number's median, which the paper evaluates, not its densest point."""
        return tf.tanh(self.mean)


class Categorical(NamedTuple):
    """One of A actions. logits: float[B, A], log-probabilities up to a constant of each row."""

    logits: tf.Tensor

    def log_probs(self) -> tf.Tensor:
        """Of all actions, float[B, A]."""
        return tf.nn.log_softmax(self.logits)

    def probs(self) -> tf.Tensor:
        """Of all actions, float[B, A]."""
        return tf.nn.softmax(self.logits)

    def sample(self, key: Key) -> tf.Tensor:
        """Actions int32[B], each row's own draw."""
        noise = tf.cast(rng.gumbel(key, tuple(self.logits.shape)), self.logits.dtype)
        return tf.argmax(self.logits + noise, axis=-1, output_type=tf.int32)

    def log_prob(self, action: tf.Tensor) -> tf.Tensor:
        """float[B] of actions int32[B]."""
        taken = tf.one_hot(action, self.logits.shape[-1], dtype=self.logits.dtype)
        return tf.reduce_sum(self.log_probs() * taken, axis=-1)

    def entropy(self) -> tf.Tensor:
        """float[B], from 0 to log A."""
        return -tf.reduce_sum(self.probs() * self.log_probs(), axis=-1)

    def mode(self) -> tf.Tensor:
        """The most probable actions int32[B]."""
        return tf.argmax(self.logits, axis=-1, output_type=tf.int32)


def from_outputs(outputs: tf.Tensor, log_std: Tree) -> DiagonalGaussian | Categorical:
    """The policy with an actor's outputs float32[B, A]: means where `log_std` is float32[A], logits where it is ()."""
    return Categorical(outputs) if isinstance(log_std, tuple) else DiagonalGaussian(outputs, log_std)


def log_slope_of_tanh(x: tf.Tensor) -> tf.Tensor:
    """The sum float[B] of log(1 - tanh(x) ** 2) over x [B, A], in a form that neither overflows nor rounds to log 0."""
    return tf.reduce_sum(2.0 * (math.log(2.0) - x - tf.nn.softplus(-2.0 * x)), axis=-1)
