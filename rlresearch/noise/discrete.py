"""Exploration with discrete actions: epsilon-greedy, Boltzmann, greedy. Shapes: N environments, A actions."""

from __future__ import annotations

from dataclasses import dataclass, field

import tensorflow as tf

from rlresearch import rng
from rlresearch.ranges import Fraction, PositiveFloat
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Key, Progress


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best action, or with probability `epsilon` times `schedule` a uniform one; each environment decides alone."""

    epsilon: Fraction = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        """Actions int32[N], given values float32[N, A]."""
        decide_key, action_key = tf.unstack(rng.split(key, 2))
        rows, actions = values.shape
        explore = rng.uniform(decide_key, (rows,)) < self.epsilon * self.schedule(progress)
        random = tf.cast(rng.randint(action_key, (rows,), actions), tf.int32)
        return tf.where(explore, random, tf.argmax(values, axis=1, output_type=tf.int32))

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        """The probability float32[N, A] of each action."""
        epsilon = self.epsilon * self.schedule(progress)
        return (1.0 - epsilon) * _best(values) + epsilon / values.shape[1]


@dataclass(frozen=True)
class Boltzmann:
    """Actions with probabilities in proportion to exp(value / temperature).

    `schedule` multiplies the temperature. The action is the argmax of values / temperature + Gumbel noise.
    """

    temperature: PositiveFloat = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        """Actions int32[N], given values float32[N, A]."""
        temperature = tf.maximum(self.temperature * self.schedule(progress), 1e-8)
        return tf.argmax(values / temperature + rng.gumbel(key, values.shape), axis=1, output_type=tf.int32)

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        """The probability float32[N, A] of each action."""
        return tf.nn.softmax(values / tf.maximum(self.temperature * self.schedule(progress), 1e-8))


@dataclass(frozen=True)
class Greedy:
    """The best action, every time."""

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        """Actions int32[N], given values float32[N, A]."""
        return tf.argmax(values, axis=1, output_type=tf.int32)

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        """The probability float32[N, A] of each action: 1 for the best."""
        return _best(values)


def _best(values: tf.Tensor) -> tf.Tensor:
    """1 for the first of each row's best actions, else 0: float32[N, A]."""
    return tf.one_hot(tf.argmax(values, axis=1, output_type=tf.int32), values.shape[1])
