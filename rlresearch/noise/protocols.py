"""What a part of the group `noise` offers: `Noise` to algorithms of continuous actions, `Exploration` to discrete ones.

Each part is a frozen dataclass. Shapes: N environments, A action dimensions or discrete actions. `sigma` is in units
of half the action range: 0.1 is 5 % of the range.
"""

from __future__ import annotations

from typing import Protocol

import tensorflow as tf

from rlresearch.types import Key, Progress, Tree


class Noise(Protocol):
    """What the group `noise` offers to an algorithm of continuous actions."""

    def init(self, num_envs: int, size: int) -> Tree:
        """The state before the first step, for N = `num_envs` environments and A = `size` action dimensions."""

    def sample(self, state: Tree, first: tf.Tensor, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(noise float32[N, A], the next state). first: bool[N], true where an episode begins."""


class Exploration(Protocol):
    """What the group `noise` offers to an algorithm of discrete actions."""

    def choose(self, values: tf.Tensor, key: Key, progress: Progress) -> tf.Tensor:
        """An action int32[N] for each environment, given the values float32[N, A] of its actions."""

    def probabilities(self, values: tf.Tensor, progress: Progress) -> tf.Tensor:
        """The probabilities float32[N, A] with which `choose` takes each action."""
