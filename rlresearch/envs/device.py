"""The layer around on-device physics: many copies, time limits, automatic reset, action rescaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.envs.actions import units_of
from rlresearch.envs.observations import ObservationTransform
from rlresearch.envs.task import Task
from rlresearch.types import Key, StepResult, TimeStep, Tree


class DeviceEnvState(NamedTuple):
    """keys: uint32[N, 2], constant, the source of every episode's draws; episode: int64[N], episodes
    begun before this one; elapsed: int64[N], steps taken in it; physics: the simulators, leading axis N;
    frames: the stacked frames float32[N, K, ...], or ().
    """

    keys: tf.Tensor
    episode: tf.Tensor
    elapsed: tf.Tensor
    physics: Tree
    frames: Tree


class DeviceEnv:
    """`num_envs` copies of a task's physics as pure functions of one state."""

    def __init__(self, task: Task) -> None:
        assert task.physics is not None  # or the task is the host's
        self.physics = task.physics
        self.time_limit = task.time_limit
        self.num_envs = task.num_envs
        self.view = ObservationTransform(task)
        self.actions = task.spaces[1]
        # Once for all members of a population. Concrete: TensorFlow warns of functions traced again in every run.
        self.init = tf.function(self._init, autograph=False).get_concrete_function(tf.TensorSpec((2,), tf.uint32))

    def _init(self, key: Key) -> tuple[DeviceEnvState, TimeStep]:
        """First episodes everywhere."""
        keys = rng.split(key, self.num_envs)
        zeros = tf.zeros(self.num_envs, tf.int64)
        physics = self._map(self.physics.reset, episode_keys(keys, zeros))
        frames, obs = self._map(self._first, physics)
        return DeviceEnvState(keys, zeros, zeros, physics, frames), TimeStep(obs, tf.ones(self.num_envs, tf.bool))

    def step(self, state: DeviceEnvState, action: tf.Tensor) -> tuple[DeviceEnvState, StepResult, TimeStep]:
        """Applies actions [-1, 1] float32[N, A], or discrete ones from 0 int32[N]; where an episode ends the next
        one begins at once.

        `StepResult.next_obs` is the last observation of the episode, `TimeStep.obs` where the next starts.
        """
        keys = episode_keys(state.keys, state.episode)
        step_keys = self._map(lambda key, elapsed: rng.fold_in(key, elapsed + 1), keys, state.elapsed)
        physics, reward, terminated = self._map(
            self.physics.step, state.physics, self._unscale_action(action), step_keys
        )
        elapsed = state.elapsed + 1
        truncated = elapsed >= (self.time_limit or tf.int64.max)
        frames, next_obs = self._map(self._then, state.frames, physics, elapsed)
        outcome = StepResult(reward, terminated, truncated, next_obs)

        done = tf.logical_or(terminated, truncated)
        episode = state.episode + tf.cast(done, tf.int64)
        fresh = self._map(self.physics.reset, episode_keys(state.keys, episode))
        begun, shown = self._map(self._first, fresh)
        where_done = lambda new, old: tf.where(_align(done, new), new, old)  # noqa: E731
        physics, frames, obs = tf.nest.map_structure(where_done, (fresh, begun, shown), (physics, frames, next_obs))
        elapsed = tf.where(done, tf.zeros_like(elapsed), elapsed)
        return DeviceEnvState(state.keys, episode, elapsed, physics, frames), outcome, TimeStep(obs, done)

    def _first(self, physics: Tree) -> tuple[Tree, tf.Tensor]:
        return self.view.first(self.physics.observe(physics))

    def _then(self, frames: Tree, physics: Tree, elapsed: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        return self.view.next(frames, self.physics.observe(physics), elapsed)

    def _unscale_action(self, action: tf.Tensor) -> tf.Tensor:
        """Actions as the environment takes them; those that are no integers as float32, in which physics compute."""
        own = units_of(self.actions).tensors(action)
        return tf.cast(own, tf.float32) if own.dtype.is_floating else own

    def _map(self, function, *arguments: Tree) -> Tree:
        """The copies side by side: physics are written for one."""
        return mapped(function, *arguments)


def episode_keys(keys: tf.Tensor, episode: tf.Tensor) -> tf.Tensor:
    """One key an episode, uint32[N, 2]; on the host the same key is Gymnasium's reset seed."""
    return mapped(rng.fold_in, keys, episode)


def mapped(function: Callable, *arguments: Tree) -> Tree:
    """`function` of every row of the arguments, leaves [N, ...] to leaves [N, ...].

    One row is computed as it is, which is traced sooner.
    """
    if tf.nest.flatten(arguments)[0].shape[0] == 1:
        one = function(*tf.nest.map_structure(lambda leaf: leaf[0], arguments))
        return tf.nest.map_structure(lambda leaf: tf.convert_to_tensor(leaf)[None], one)
    return tf.vectorized_map(lambda row: function(*row), arguments, fallback_to_while_loop=False)


def _align(flags: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    return tf.reshape(flags, [-1] + [1] * (len(like.shape) - 1))
