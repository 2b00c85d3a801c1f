"""Continuous actions in an environment's own units: from [-1, 1] to the bounds, the type and the shape of its Box."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import tensorflow as tf

INTEGERS = "iub"  # NumPy's kinds: signed, unsigned, truth values


class ActionScale:
    """Maps an algorithm's vector [A] in [-1, 1] to a Box of any numeric type and shape; A: the numbers in it.

    -1 leads to the lower bound and 1 to the upper one, what lies beyond is clipped. In a Box of integers the nearest
    one is taken. Bounds are computed in float64: a space's own type may not hold their difference (int8: 127 - -128).
    space: of the algorithm's actions.
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        self.space = gym.spaces.Box(-1.0, 1.0, (math.prod(space.shape),), np.float32)
        self._shape, self._dtype = space.shape, space.dtype
        self._low, self._high = space.low.reshape(-1), space.high.reshape(-1)
        self._whole = space.dtype.kind in INTEGERS
        self._plain = space.dtype in (np.float32, np.float64) and len(space.shape) == 1
        if self._whole:
            # Counted from the lower bound: float64 does not tell two large integers of 64 bits apart.
            kind = np.dtype(np.uint64 if space.dtype.itemsize == 8 else np.int64)
            self._first = self._low.astype(kind)
            self._span = (self._high.astype(kind) - self._first).astype(np.float64)
            return
        kind = np.result_type(space.dtype, np.float32)
        low, high = self._low.astype(np.float64), self._high.astype(np.float64)
        self._middle, self._half = ((high + low) / 2).astype(kind), ((high - low) / 2).astype(kind)
        self._ends = low.astype(kind), high.astype(kind)

    def unscale_action(self, action: np.ndarray) -> np.ndarray:
        """The action of one environment, float32[A], as that takes it: a new array of the Box's type and shape."""
        if self._whole:
            number = np.rint(np.clip((action.astype(np.float64) + 1.0) / 2.0, 0.0, 1.0) * self._span)
            at_high = number >= self._span  # by itself: 2**64 is a float64, and no integer
            inside = self._first + np.where(at_high, 0.0, number).astype(self._first.dtype)
            value = np.where(at_high, self._high, inside.astype(self._dtype))
        else:
            low, high = self._ends
            value = np.minimum(np.maximum(self._middle + self._half * action, low), high)
            if self._plain:
                return value
        return value.astype(self._dtype, copy=False).reshape(self._shape)

    def tensors(self, action: tf.Tensor) -> tf.Tensor:
        """Actions float32[n, A] in the Box's own units, type and shape [n, ...]."""
        if self._whole:
            share = tf.clip_by_value((tf.cast(action, tf.float64) + 1.0) / 2.0, 0.0, 1.0)
            number = tf.round(share * self._span)
            at_high = number >= self._span
            inside = self._first + tf.cast(tf.where(at_high, tf.zeros_like(number), number), self._first.dtype)
            value = tf.where(at_high, self._high, tf.cast(inside, self._dtype))
        else:
            low, high = self._ends
            value = tf.clip_by_value(self._middle + self._half * tf.cast(action, self._middle.dtype), low, high)
        value = tf.cast(value, self._dtype)
        return value if len(self._shape) == 1 else tf.reshape(value, (-1, *self._shape))


class NumberedActions:
    """Maps an algorithm's discrete actions, counted from 0, to those of a Discrete space. space: of the algorithm's."""

    def __init__(self, space: gym.spaces.Discrete) -> None:
        self.space = gym.spaces.Discrete(int(space.n))
        self._start = int(space.start)

    def unscale_action(self, action: np.ndarray) -> int:
        """The action of one environment, an int32 scalar, as that takes it."""
        return self._start + int(action)

    def tensors(self, action: tf.Tensor) -> tf.Tensor:
        """Actions int32[n] as the environment takes them."""
        return action + self._start


def units_of(space: gym.Space) -> ActionScale | NumberedActions:
    """How actions reach a space; `Task.spec` refuses all but Box and Discrete."""
    if isinstance(space, gym.spaces.Discrete):
        return NumberedActions(space)
    assert isinstance(space, gym.spaces.Box)
    return ActionScale(space)
