"""Gymnasium's CartPole-v1 for the compiled JAX loops; a state is the observation [4] and the steps of its episode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LIMIT = 500
"""Steps after which an episode is cut."""
FARTHEST, STEEPEST = 2.4, 12 * jnp.pi / 180


class CartPole(NamedTuple):
    """obs [4]: position in m, velocity, angle in radians from upright, angular velocity; elapsed: int32 []."""

    obs: jax.Array
    elapsed: jax.Array


class Ending(NamedTuple):
    """How a step ended: the observation [4] that it led to, and whether the pole fell or the time was over."""

    next_obs: jax.Array
    terminated: jax.Array
    truncated: jax.Array


def reset(uniforms: jax.Array) -> CartPole:
    """From four numbers in [0, 1)."""
    return CartPole(0.1 * uniforms - 0.05, jnp.zeros((), jnp.int32))


def interact(cartpole: CartPole, action: jax.Array, uniforms: jax.Array) -> tuple[CartPole, Ending]:
    """One step with auto-reset, whose reward is always 1; the state to go on from, and how the step ended."""
    x, v, angle, spin = cartpole.obs
    force = jnp.where(action == 1, 10.0, -10.0)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    pushed = (force + 0.05 * spin**2 * sine) / 1.1
    turning = (9.8 * sine - cosine * pushed) / (0.5 * (4.0 / 3.0 - 0.1 * cosine**2 / 1.1))
    moving = pushed - 0.05 * turning * cosine / 1.1
    moved = jnp.stack([x + 0.02 * v, v + 0.02 * moving, angle + 0.02 * spin, spin + 0.02 * turning])
    terminated = (jnp.abs(moved[0]) > FARTHEST) | (jnp.abs(moved[2]) > STEEPEST)
    truncated = cartpole.elapsed + 1 >= LIMIT
    stepped = CartPole(moved, cartpole.elapsed + 1)
    going_on = jax.tree.map(lambda new, old: jnp.where(terminated | truncated, new, old), reset(uniforms), stepped)
    return going_on, Ending(moved, terminated, truncated)
