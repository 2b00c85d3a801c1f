"""The mathematics of reinforcement learning: no networks, no state.

Names follow Sutton & Barto and rlax: `q_tm1` is a value at the time the action was taken, `r_t`
and `q_t` are what came one step later. Shapes: B rows of a batch; every function is elementwise
over B unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.types import Tree


def discount(gamma: tf.Tensor | float, terminated: tf.Tensor) -> tf.Tensor:
    """discount_t float32[B]: gamma where the task goes on, 0 where it terminated.

    The one place where an episode's end meets its value. `truncated` is not an argument: a time
    limit ends the episode, never the value (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
    """
    return gamma * (1.0 - tf.cast(terminated, tf.float32))


def td_target(r_t: tf.Tensor, discount_t: tf.Tensor, v_t: tf.Tensor) -> tf.Tensor:
    """r_t + discount_t * v_t, float32[B], through which no gradient flows."""
    return tf.stop_gradient(r_t + discount_t * v_t)


def polyak(target: Tree, online: Tree, tau: tf.Tensor | float) -> Tree:
    """Soft target update (Lillicrap et al. 2016, Algorithm 1): (1 - tau) * target + tau * online."""
    return tf.nest.map_structure(lambda old, new: old + tau * (new - old), target, online)


def value_and_grad(function: Callable, variables: Tree) -> tuple[tuple[tf.Tensor, Tree], Tree]:
    """Runs `function(variables) -> (scalar, extra)`; returns ((scalar, extra), gradients).

    Gradients have the structure of `variables`; where the scalar does not depend on a variable its
    gradient is zero.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tf.nest.flatten(variables))
        value, extra = function(variables)
    return (value, extra), tape.gradient(value, variables, unconnected_gradients="zero")


def grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """The gradient of a scalar function at x, in x's shape. For a batch see `batch_grad`."""
    return value_and_grad(lambda x: (function(x), ()), x)[1]


def batch_grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Row by row gradients [B, ...] of a function from [B, ...] to [B] that treats rows apart."""
    return grad(lambda x: tf.reduce_sum(function(x)), x)


def jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """d function(x)_i / d x_j, shape [*outputs, *inputs], for one x."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


def batch_jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Row by row Jacobians [B, outputs, inputs] of a function that treats rows apart."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x)
