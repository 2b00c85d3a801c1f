"""CartPole-v1 on the device: Gymnasium's equations, step by step, in float32.

Position in m, angle in radians from upright, velocities per second; force in N; 0.02 s per step.
Source: gymnasium/envs/classic_control/cartpole.py (Barto, Sutton & Anderson 1983).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key

GRAVITY, CART, POLE, HALF_LENGTH, FORCE, DT = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FARTHEST, STEEPEST = 2.4, 12 * 2 * math.pi / 360


class CartPoleState(NamedTuple):
    """float32 scalars."""

    position: tf.Tensor
    velocity: tf.Tensor
    angle: tf.Tensor
    spin: tf.Tensor


@dataclass(frozen=True)
class CartPole:
    """A cart pushed left (0) or right (1) under a pole; 1 for every step, also the one that ends it."""

    def reset(self, key: Key) -> CartPoleState:
        """Every number uniform in [-0.05, 0.05): float32 scalars."""
        return CartPoleState(*tf.unstack(rng.uniform(key, (4,), -0.05, 0.05)))

    def step(self, state: CartPoleState, action: tf.Tensor, key: Key) -> tuple[CartPoleState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar) after 0.02 s. action: int32 scalar."""
        force = tf.where(action == 1, FORCE, -FORCE)
        sine, cosine = tf.sin(state.angle), tf.cos(state.angle)
        pushed = (force + POLE * HALF_LENGTH * tf.square(state.spin) * sine) / (CART + POLE)
        inertia = HALF_LENGTH * (4.0 / 3.0 - POLE * tf.square(cosine) / (CART + POLE))
        turning = (GRAVITY * sine - cosine * pushed) / inertia
        acceleration = pushed - POLE * HALF_LENGTH * turning * cosine / (CART + POLE)
        moved = CartPoleState(
            state.position + DT * state.velocity,
            state.velocity + DT * acceleration,
            state.angle + DT * state.spin,
            state.spin + DT * turning,
        )
        fallen = tf.logical_or(tf.abs(moved.position) > FARTHEST, tf.abs(moved.angle) > STEEPEST)
        return moved, tf.constant(1.0), fallen

    def observe(self, state: CartPoleState) -> tf.Tensor:
        """float32[4]: position, velocity, angle and spin."""
        return tf.stack(state)
