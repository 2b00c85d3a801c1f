"""Ornstein-Uhlenbeck noise: consecutive steps of an episode are correlated."""

from __future__ import annotations

from dataclasses import dataclass, field

import tensorflow as tf

from rlresearch import rng
from rlresearch.ranges import NonNegativeFloat, PositiveFloat
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Key, Progress, Tree


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """A process with memory (Uhlenbeck & Ornstein 1930; Lillicrap et al. 2016, section 3).

    x <- x + theta (mu - x) dt + sigma sqrt(dt) N(0, 1); x starts at mu in each episode. The noise is x times
    `schedule`. theta: pull towards mu per unit of time. dt: time per step.
    """

    sigma: NonNegativeFloat = 0.2
    theta: NonNegativeFloat = 0.15
    mu: float = 0.0
    dt: PositiveFloat = 1.0
    schedule: Schedule = field(default_factory=Constant)

    def init(self, num_envs: int, size: int) -> Tree:
        """x float32[N, A], at mu."""
        return tf.zeros((num_envs, size)) + self.mu

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(noise float32[N, A], x float32[N, A])."""
        x = tf.where(first[:, None], tf.zeros_like(state) + self.mu, state)
        diffusion = self.sigma * tf.sqrt(tf.cast(self.dt, tf.float32)) * rng.normal(key, state.shape)
        x = x + self.theta * (self.mu - x) * self.dt + diffusion
        return x * self.schedule(progress), x
