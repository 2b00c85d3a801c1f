"""Observations of a compiled environment: the same transformations as Gymnasium's wrappers, as pure functions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import tensorflow as tf

from rlresearch.envs.task import Task
from rlresearch.types import Tree


class ObservationTransform:
    """A task's observations of one environment: `first` at the start of an episode, `next` at each later step.

    Both return (frames, observation float32[...]). frames: the stacked frames float32[K, ...] to pass to `next`, or
    () where frames are not stacked.
    """

    def __init__(self, task: Task) -> None:
        self._space = task.original_observation_space
        self._flat = task.flatten or not isinstance(self._space, gym.spaces.Box)
        self._limit = task.time_limit if task.time_aware else None
        self._frames = task.frame_stack

    def first(self, raw: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        """(frames, observation float32[...]) at an episode's start. raw: in the environment's own space."""
        frame = self._frame(raw, tf.constant(0, tf.int64))
        if self._frames == 1:
            return (), frame
        frames = tf.repeat(frame[None], self._frames, axis=0)
        return frames, frames

    def next(self, frames: Tree, raw: tf.Tensor, elapsed: tf.Tensor) -> tuple[Tree, tf.Tensor]:
        """(frames, observation float32[...]) after a step. elapsed: int64 scalar, steps of the episode so far."""
        frame = self._frame(raw, elapsed)
        if self._frames == 1:
            return (), frame
        frames = tf.concat([frames[1:], frame[None]], axis=0)
        return frames, frames

    def _frame(self, raw: tf.Tensor, elapsed: tf.Tensor) -> tf.Tensor:
        """One frame float32[...]: one-hot, flattened or as it is, with the used part of the time limit appended."""
        if isinstance(self._space, gym.spaces.Discrete):
            frame = tf.one_hot(raw - int(self._space.start), int(self._space.n))
        elif isinstance(self._space, gym.spaces.MultiDiscrete):
            counts = np.ravel(self._space.nvec)
            parts = tf.unstack(tf.reshape(raw - self._space.start.astype(raw.dtype.as_numpy_dtype), (-1,)), counts.size)
            frame = tf.concat([tf.one_hot(part, int(count)) for part, count in zip(parts, counts)], axis=0)
        else:
            frame = tf.cast(tf.reshape(raw, (-1,)) if self._flat else raw, tf.float32)
        if self._limit is None:
            return frame
        used = tf.cast(elapsed, tf.float32) / float(self._limit)
        return tf.concat([frame, used[None]], axis=0)
