"""Exploration: noise added to actions in [-1, 1], or a choice among discrete ones that is not always the best.

A noise is a frozen dataclass with `init(num_envs, size) -> state` and
`sample(state, first, key, progress) -> (noise float32[N, A], state)`; first bool[N] is true where
an episode begins. `sigma` is in units of half the action range: 0.1 is 5 % of the range.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Protocol

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Key, Progress, Tree


class Noise(Protocol):
    """What the group `noise` offers to an algorithm."""

    def init(self, num_envs: int, size: int) -> Tree:
        """The state before the first step, for actions of `size` numbers."""

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(noise float32[N, A], the state after it)."""


@dataclass(frozen=True)
class NoNoise:
    """The policy's own action, every time."""

    def init(self, num_envs: int, size: int) -> Tree:
        return tf.zeros((num_envs, size))

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        return state, state


@dataclass(frozen=True)
class Gaussian:
    """Independent normal noise; sigma is multiplied by `schedule`."""

    sigma: Annotated[float, at.Ge(0)] = 0.1
    schedule: Schedule = field(default_factory=Constant)

    def init(self, num_envs: int, size: int) -> Tree:
        return tf.zeros((num_envs, size))  # never read: it tells `sample` the shape

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        scale = self.sigma * self.schedule(progress)
        return scale * rng.normal(key, state.shape), state


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """Noise that remembers (Uhlenbeck & Ornstein 1930; Lillicrap et al. 2016, section 3).

    x <- x + theta (mu - x) dt + sigma sqrt(dt) N(0, 1), begun again at mu with each episode;
    the noise is x times `schedule`. theta: pull towards mu per unit of time; dt: time per step.
    """

    sigma: Annotated[float, at.Ge(0)] = 0.2
    theta: Annotated[float, at.Ge(0)] = 0.15
    mu: float = 0.0
    dt: Annotated[float, at.Gt(0)] = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def init(self, num_envs: int, size: int) -> Tree:
        return tf.zeros((num_envs, size)) + self.mu

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        x = tf.where(first[:, None], tf.zeros_like(state) + self.mu, state)
        diffusion = self.sigma * tf.sqrt(tf.cast(self.dt, tf.float32)) * rng.normal(key, state.shape)
        x = x + self.theta * (self.mu - x) * self.dt + diffusion
        return x * self.schedule(progress), x


class Exploration(Protocol):
    """What the group `noise` offers to an algorithm of discrete actions."""

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        """An action int32[N] for each environment, by the values float32[N, A] of its actions."""

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        """What `choose` draws by, float32[N, A]."""


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best action, or with probability `epsilon` times `schedule` any, decided for each environment."""

    epsilon: Annotated[float, at.Interval(ge=0, le=1)] = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        decide_key, action_key = tf.unstack(rng.split(key, 2))
        rows, actions = values.shape
        explore = rng.uniform(decide_key, (rows,)) < self.epsilon * self.schedule(progress)
        drawn = tf.cast(rng.randint(action_key, (rows,), actions), tf.int32)
        return tf.where(explore, drawn, tf.argmax(values, axis=1, output_type=tf.int32))

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        epsilon = self.epsilon * self.schedule(progress)
        return (1.0 - epsilon) * _best(values) + epsilon / values.shape[1]


@dataclass(frozen=True)
class Boltzmann:
    """Actions in proportion to exp(value / temperature), the temperature multiplied by `schedule`.

    Drawn by the largest of values / temperature + Gumbel noise.
    """

    temperature: Annotated[float, at.Gt(0)] = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        temperature = tf.maximum(self.temperature * self.schedule(progress), 1e-8)
        return tf.argmax(values / temperature + rng.gumbel(key, values.shape), axis=1, output_type=tf.int32)

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        return tf.nn.softmax(values / tf.maximum(self.temperature * self.schedule(progress), 1e-8))


@dataclass(frozen=True)
class Greedy:
    """The best action, every time."""

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        return tf.argmax(values, axis=1, output_type=tf.int32)

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        return _best(values)


def _best(values: tf.Tensor) -> tf.Tensor:
    """1 for the first of each row's best actions, float32[N, A]."""
    return tf.one_hot(tf.argmax(values, axis=1, output_type=tf.int32), values.shape[1])
