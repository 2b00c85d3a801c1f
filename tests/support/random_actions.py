"""An algorithm that learns nothing, for tests of what is around it: programs with it start soon."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import tensorflow as tf

from rlresearch import rng
from rlresearch.types import EnvSpec

YAML = """# @package _global_
# Uniform actions, nothing learned.
defaults:
  - override /network: none
  - override /buffer: uniform
  - override /noise: none
  - override /normalize: none

algo:
  _target_: support.random_actions.RandomActions
  learning_starts: 0
"""


def folder_with(folder: Path) -> Path:
    """A folder for --config-dir that offers `algo=random_actions`."""
    (folder / "algo").mkdir(parents=True)
    (folder / "algo" / "random_actions.yaml").write_text(YAML)
    return folder


@dataclass(frozen=True)
class RandomActions:
    """The least that satisfies `types.Algorithm`: uniform actions, nothing learned. Programs with it compile fast."""

    spec: EnvSpec
    learning_starts: int = 2**40
    random_start: bool = False
    update_every: int = 1
    updates: int = 1
    batch_size: int = 1
    gamma: float = 0.99
    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        pass

    def init(self, key):
        return tf.constant(0.0)

    def act(self, state, timestep, key, progress):
        if hasattr(self.spec.action_space, "n"):
            return rng.randint(key, (self.spec.num_envs,), self.spec.num_actions), state
        return rng.uniform(key, (self.spec.num_envs, *self.spec.action_space.shape), -1.0, 1.0), state

    def policy(self, state, obs):
        kind = tf.int32 if hasattr(self.spec.action_space, "n") else tf.float32
        return tf.zeros((tf.shape(obs)[0], *self.spec.action_space.shape), kind)

    def update(self, state, batch, key, progress):
        return state, {}, tf.zeros(batch.reward.shape)
