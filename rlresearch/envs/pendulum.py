"""Pendulum-v1 on the device: Gymnasium's equations, step by step, in float32.

Angle 0 is upright, in radians; angular velocity in rad/s; torque in N m; 0.05 s per step.
Source: gymnasium/envs/classic_control/pendulum.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key

MAX_SPEED, MAX_TORQUE, DT, MASS, LENGTH = 8.0, 2.0, 0.05, 1.0, 1.0


class PendulumState(NamedTuple):
    """angle [rad] and angular velocity [rad/s], float32 scalars."""

    angle: tf.Tensor
    velocity: tf.Tensor


@dataclass(frozen=True)
class Pendulum:
    """g: gravity in m/s^2, Gymnasium's constructor argument."""

    g: Annotated[float, at.Ge(0)] = 10.0

    def reset(self, key: Key) -> PendulumState:
        """An angle uniform in [-pi, pi) and a velocity uniform in [-1, 1): float32 scalars."""
        drawn = rng.uniform(key, (2,), -1.0, 1.0)
        return PendulumState(math.pi * drawn[0], drawn[1])

    def step(self, state: PendulumState, action: tf.Tensor, key: Key) -> tuple[PendulumState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, False). action: float32[1], a torque, clipped to [-2, 2]."""
        torque = tf.clip_by_value(action[0], -MAX_TORQUE, MAX_TORQUE)
        angle = tf.math.floormod(state.angle + math.pi, 2 * math.pi) - math.pi
        reward = -(angle**2 + 0.1 * state.velocity**2 + 0.001 * torque**2)
        acceleration = 3 * self.g / (2 * LENGTH) * tf.sin(state.angle) + 3.0 / (MASS * LENGTH**2) * torque
        velocity = tf.clip_by_value(state.velocity + acceleration * DT, -MAX_SPEED, MAX_SPEED)
        return PendulumState(state.angle + velocity * DT, velocity), reward, tf.constant(False)

    def observe(self, state: PendulumState) -> tf.Tensor:
        """float32[3]: cosine and sine of the angle, then the velocity."""
        return tf.stack([tf.cos(state.angle), tf.sin(state.angle), state.velocity])
