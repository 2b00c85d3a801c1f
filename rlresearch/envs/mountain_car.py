"""MountainCar-v0 and MountainCarContinuous-v0 on the device: Gymnasium's equations, step by step, in float32.

Position in m along the valley, velocity in m per step; height is sin(3 position).
Source: gymnasium/envs/classic_control/mountain_car.py and continuous_mountain_car.py (Moore 1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key

LEFTMOST, RIGHTMOST, FASTEST, GRAVITY = -1.2, 0.6, 0.07, 0.0025
FORCE, GOAL = 0.001, 0.5  # of the car with three actions
POWER, CONTINUOUS_GOAL = 0.0015, 0.45  # of the car with a throttle


class CarState(NamedTuple):
    """float32 scalars."""

    position: tf.Tensor
    velocity: tf.Tensor


@dataclass(frozen=True)
class MountainCar:
    """Pushed left (0), not at all (1) or right (2); -1 for every step, also the one that reaches the goal.

    goal_velocity: what the car needs at the goal at least, in m per step.
    """

    goal_velocity: float = 0.0

    def reset(self, key: Key) -> CarState:
        """A car at rest, its position uniform in [-0.6, -0.4): float32 scalars."""
        return _at_the_bottom(key)

    def step(self, state: CarState, action: tf.Tensor, key: Key) -> tuple[CarState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar). action: int32 scalar."""
        moved = _rolled(state, FORCE * (tf.cast(action, tf.float32) - 1.0))
        return moved, tf.constant(-1.0), _arrived(moved, GOAL, self.goal_velocity)

    def observe(self, state: CarState) -> tf.Tensor:
        """float32[2]: position and velocity."""
        return tf.stack(state)


@dataclass(frozen=True)
class MountainCarContinuous:
    """Pushed by a throttle in [-1, 1], which costs 0.1 of its square; 100 at the goal.

    goal_velocity: what the car needs at the goal at least, in m per step.
    """

    goal_velocity: float = 0.0

    def reset(self, key: Key) -> CarState:
        """A car at rest, its position uniform in [-0.6, -0.4): float32 scalars."""
        return _at_the_bottom(key)

    def step(self, state: CarState, action: tf.Tensor, key: Key) -> tuple[CarState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar). action: float32[1]."""
        moved = _rolled(state, POWER * tf.clip_by_value(action[0], -1.0, 1.0))
        arrived = _arrived(moved, CONTINUOUS_GOAL, self.goal_velocity)
        return moved, tf.where(arrived, 100.0, 0.0) - 0.1 * tf.square(action[0]), arrived

    def observe(self, state: CarState) -> tf.Tensor:
        """float32[2]: position and velocity."""
        return tf.stack(state)


def _at_the_bottom(key: Key) -> CarState:
    return CarState(rng.uniform(key, (), -0.6, -0.4), tf.constant(0.0))


def _rolled(state: CarState, push: tf.Tensor) -> CarState:
    """One step later; the wall on the left takes all speed, the right border only holds the car."""
    velocity = state.velocity + push - GRAVITY * tf.cos(3.0 * state.position)
    velocity = tf.clip_by_value(velocity, -FASTEST, FASTEST)
    position = tf.clip_by_value(state.position + velocity, LEFTMOST, RIGHTMOST)
    at_wall = tf.logical_and(position <= LEFTMOST, velocity < 0.0)
    return CarState(position, tf.where(at_wall, 0.0, velocity))


def _arrived(state: CarState, goal: float, goal_velocity: float) -> tf.Tensor:
    return tf.logical_and(state.position >= goal, state.velocity >= goal_velocity)
