"""Acrobot-v1 on the device: Gymnasium's equations, step by step, in float32.

Two links of 1 m and 1 kg hang from a fixed joint; a motor turns the joint between them. Angles in radians:
`inner` from straight down, `outer` from the direction of the first link; spins in rad/s; torque in N m;
0.2 s per step, one Runge-Kutta step of fourth order.
Source: gymnasium/envs/classic_control/acrobot.py, with the equations of the book (Sutton 1996; Sutton & Barto,
section 11.3 of the first edition), its default.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key

MASS, LENGTH, CENTER, INERTIA, GRAVITY, DT = 1.0, 1.0, 0.5, 1.0, 9.8, 0.2  # of each link
FASTEST_INNER, FASTEST_OUTER = 4 * math.pi, 9 * math.pi


class AcrobotState(NamedTuple):
    """float32 scalars."""

    inner: tf.Tensor
    outer: tf.Tensor
    inner_spin: tf.Tensor
    outer_spin: tf.Tensor


@dataclass(frozen=True)
class Acrobot:
    """Torque -1 (0), none (1) or 1 (2); -1 a step until the tip is 1 m above the fixed joint, where it ends with 0."""

    def reset(self, key: Key) -> AcrobotState:
        """Angles in rad and speeds in rad/s, each uniform in [-0.1, 0.1): float32 scalars."""
        return AcrobotState(*tf.unstack(rng.uniform(key, (4,), -0.1, 0.1)))

    def step(self, state: AcrobotState, action: tf.Tensor, key: Key) -> tuple[AcrobotState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar) after 0.2 s. action: int32 scalar."""
        inner, outer, inner_spin, outer_spin = tf.unstack(_swung(tf.stack(state), tf.cast(action, tf.float32) - 1.0))
        moved = AcrobotState(
            _wrapped(inner),
            _wrapped(outer),
            tf.clip_by_value(inner_spin, -FASTEST_INNER, FASTEST_INNER),
            tf.clip_by_value(outer_spin, -FASTEST_OUTER, FASTEST_OUTER),
        )
        risen = -tf.cos(moved.inner) - tf.cos(moved.inner + moved.outer) > 1.0
        return moved, tf.where(risen, 0.0, -1.0), risen

    def observe(self, state: AcrobotState) -> tf.Tensor:
        """float32[6]: cosine and sine of the inner and of the outer angle, then both speeds."""
        angles = [tf.cos(state.inner), tf.sin(state.inner), tf.cos(state.outer), tf.sin(state.outer)]
        return tf.stack([*angles, state.inner_spin, state.outer_spin])


def _swung(y: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
    """The state float32[4] one Runge-Kutta step later."""
    k1 = _rate(y, torque)
    k2 = _rate(y + DT / 2 * k1, torque)
    k3 = _rate(y + DT / 2 * k2, torque)
    k4 = _rate(y + DT * k3, torque)
    return y + DT / 6 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def _rate(y: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
    """dy/dt float32[4]; d1, d2, phi1, phi2 as the book names them."""
    inner, outer, inner_spin, outer_spin = tf.unstack(y)
    sine, cosine = tf.sin(outer), tf.cos(outer)
    coupling = MASS * LENGTH * CENTER
    d1 = MASS * CENTER**2 + MASS * (LENGTH**2 + CENTER**2) + 2.0 * coupling * cosine + 2.0 * INERTIA
    d2 = MASS * CENTER**2 + coupling * cosine + INERTIA
    phi2 = MASS * CENTER * GRAVITY * tf.sin(inner + outer)
    phi1 = (
        -coupling * tf.square(outer_spin) * sine
        - 2.0 * coupling * outer_spin * inner_spin * sine
        + (MASS * CENTER + MASS * LENGTH) * GRAVITY * tf.sin(inner)
        + phi2
    )
    pull = torque + d2 / d1 * phi1 - coupling * tf.square(inner_spin) * sine - phi2
    outer_turning = pull / (MASS * CENTER**2 + INERTIA - tf.square(d2) / d1)
    inner_turning = -(d2 * outer_turning + phi1) / d1
    return tf.stack([inner_spin, outer_spin, inner_turning, outer_turning])


def _wrapped(angle: tf.Tensor) -> tf.Tensor:
    """The same angle in [-pi, pi)."""
    return tf.math.floormod(angle + math.pi, 2 * math.pi) - math.pi
