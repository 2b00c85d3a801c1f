"""What a compiled environment shows: the same that Gymnasium's wrappers make of the original's observations."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import tensorflow as tf

from rlresearch.envs.task import Task
from rlresearch.types import Tree


class View:
    """A task's observations as pure functions, for one copy: `first` begins an episode, `then` goes on.

    Both return (what to remember, the observation float32[...]); there is something to remember only
    where frames are stacked.
    """

    def __init__(self, task: Task) -> None:
        self._space = task.original_observation_space
        self._flat = task.flatten or not isinstance(self._space, gym.spaces.Box)
        self._limit = task.time_limit if task.time_aware else None
        self._frames = task.frame_stack

    def first(self, raw: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        """raw: what the physics give, in the environment's own space."""
        frame = self._frame(raw, tf.constant(0, tf.int64))
        if self._frames == 1:
            return (), frame
        frames = tf.repeat(frame[None], self._frames, axis=0)
        return frames, frames

    def then(self, frames: Tree, raw: tf.Tensor, elapsed: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        """elapsed: int64 scalar, steps taken in the episode."""
        frame = self._frame(raw, elapsed)
        if self._frames == 1:
            return (), frame
        frames = tf.concat([frames[1:], frame[None]], axis=0)
        return frames, frames

    def _frame(self, raw: tf.Tensor, elapsed: tf.Tensor) -> tf.Tensor:
        if isinstance(self._space, gym.spaces.Discrete):
            seen = tf.one_hot(raw - int(self._space.start), int(self._space.n))
        elif isinstance(self._space, gym.spaces.MultiDiscrete):
            counts = np.ravel(self._space.nvec)
            parts = tf.unstack(tf.reshape(raw - self._space.start.astype(raw.dtype.as_numpy_dtype), (-1,)), counts.size)
            seen = tf.concat([tf.one_hot(part, int(count)) for part, count in zip(parts, counts)], axis=0)
        else:
            seen = tf.cast(tf.reshape(raw, (-1,)) if self._flat else raw, tf.float32)
        if self._limit is None:
            return seen
        used = tf.cast(elapsed, tf.float32) / float(self._limit)
        return tf.concat([seen, used[None]], axis=0)
