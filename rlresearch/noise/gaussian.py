"""Noise without memory: Gaussian noise, and none."""

from __future__ import annotations

from dataclasses import dataclass, field

import tensorflow as tf

from rlresearch import rng
from rlresearch.ranges import NonNegativeFloat
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Key, Progress, Tree


@dataclass(frozen=True)
class NoNoise:
    """The policy's own action, every time."""

    def init(self, num_envs: int, size: int) -> Tree:
        """The noise itself, float32[N, A] of zeros."""
        return tf.zeros((num_envs, size))

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(zeros float32[N, A], the state)."""
        return state, state


@dataclass(frozen=True)
class Gaussian:
    """Independent normal noise with deviation `sigma`, which is multiplied by `schedule`."""

    sigma: NonNegativeFloat = 0.1
    schedule: Schedule = field(default_factory=Constant)

    def init(self, num_envs: int, size: int) -> Tree:
        """float32[N, A]. Only its shape is read, by `sample`."""
        return tf.zeros((num_envs, size))

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(noise float32[N, A], the state)."""
        scale = self.sigma * self.schedule(progress)
        return scale * rng.normal(key, state.shape), state
