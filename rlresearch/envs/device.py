"""The layer around on-device physics: many copies, time limits, automatic reset, action rescaling."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.envs.task import Task
from rlresearch.types import Key, Outcome, TimeStep, Tree


class DeviceEnvState(NamedTuple):
    """keys: uint32[N, 2], constant, the source of every episode's draws; episode: int64[N], episodes
    begun before this one; elapsed: int64[N], steps taken in it; physics: the simulators, leading axis N.
    """

    keys: tf.Tensor
    episode: tf.Tensor
    elapsed: tf.Tensor
    physics: Tree


class DeviceEnv:
    """`num_envs` copies of a task's physics as pure functions of one state."""

    def __init__(self, task: Task) -> None:
        self.physics = task.physics
        self.time_limit = task.time_limit
        self.num_envs = task.num_envs
        _, action = task.spaces
        self.low, self.high = action.low, action.high
        self.middle, self.half = (action.high + action.low) / 2, (action.high - action.low) / 2
        # Once for all members of a population. Concrete: TensorFlow warns of functions traced again in every run.
        self.init = tf.function(self._init, autograph=False).get_concrete_function(tf.TensorSpec((2,), tf.uint32))

    def _init(self, key: Key) -> tuple[DeviceEnvState, TimeStep]:
        """First episodes everywhere."""
        keys = rng.split(key, self.num_envs)
        zeros = tf.zeros(self.num_envs, tf.int64)
        physics = self._map(self.physics.reset, episode_keys(keys, zeros))
        obs = self._map(self.physics.observe, physics)
        return DeviceEnvState(keys, zeros, zeros, physics), TimeStep(obs, tf.ones(self.num_envs, tf.bool))

    def step(self, state: DeviceEnvState, action: tf.Tensor) -> tuple[DeviceEnvState, Outcome, TimeStep]:
        """Applies actions [-1, 1] float32[N, A]; where an episode ends the next one begins at once.

        `Outcome.next_obs` is the last observation of the episode, `TimeStep.obs` where the next starts.
        """
        keys = episode_keys(state.keys, state.episode)
        step_keys = self._map(lambda key, elapsed: rng.fold_in(key, elapsed + 1), keys, state.elapsed)
        physics, reward, terminated = self._map(self.physics.step, state.physics, self._rescale(action), step_keys)
        elapsed = state.elapsed + 1
        truncated = elapsed >= (self.time_limit or tf.int64.max)
        next_obs = self._map(self.physics.observe, physics)
        outcome = Outcome(reward, terminated, truncated, next_obs)

        done = tf.logical_or(terminated, truncated)
        episode = state.episode + tf.cast(done, tf.int64)
        fresh = self._map(self.physics.reset, episode_keys(state.keys, episode))
        physics = tf.nest.map_structure(lambda new, old: tf.where(_align(done, new), new, old), fresh, physics)
        obs = tf.where(_align(done, next_obs), self._map(self.physics.observe, fresh), next_obs)
        elapsed = tf.where(done, tf.zeros_like(elapsed), elapsed)
        return DeviceEnvState(state.keys, episode, elapsed, physics), outcome, TimeStep(obs, done)

    def _rescale(self, action: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(self.middle + self.half * action, self.low, self.high)

    def _map(self, function, *arguments: Tree) -> Tree:
        """The copies side by side: physics are written for one."""
        return tf.vectorized_map(lambda row: function(*row), arguments, fallback_to_while_loop=False)


def episode_keys(keys: tf.Tensor, episode: tf.Tensor) -> tf.Tensor:
    """One key an episode, uint32[N, 2]; on the host the same key is Gymnasium's reset seed."""
    return tf.vectorized_map(lambda row: rng.fold_in(*row), (keys, episode), fallback_to_while_loop=False)


def _align(flags: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(flags, [-1] + [1] * (len(like.shape) - 1))
