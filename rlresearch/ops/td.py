"""Temporal-difference learning: discounts, targets, n-step returns, errors, target networks, gradients.

Names follow Sutton & Barto and rlax: `q_tm1` is a value at the time of the action, `r_t` and `q_t` come one step
later. Shapes: B rows of a batch, A actions. Every function works row by row unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.types import Tree


def discount(gamma: tf.Tensor | float, terminated: tf.Tensor, steps: tf.Tensor | float = 1.0) -> tf.Tensor:
    """discount_t float32[B]: gamma ** steps, and 0 where the task terminated (bool[B]).

    Only this function decides what an episode's end means for a value. `truncated` is not an argument: a time
    limit ends the episode, not the value (Pardo et al. 2018, https://arxiv.org/abs/1712.00378).
    """
    return tf.pow(tf.cast(gamma, tf.float32), steps) * (1.0 - tf.cast(terminated, tf.float32))


def td_target(r_t: tf.Tensor, discount_t: tf.Tensor, v_t: tf.Tensor) -> tf.Tensor:
    """r_t + discount_t * v_t, float32[B]. No gradient flows through it."""
    return tf.stop_gradient(r_t + discount_t * v_t)


def n_step_return(
    reward: tf.Tensor, terminated: tf.Tensor, truncated: tf.Tensor, stored: tf.Tensor, gamma: tf.Tensor | float
) -> tuple[tf.Tensor, tf.Tensor]:
    """(the discounted sum of up to n rewards float32[B], the number of rewards in it float32[B], 1 to n).

    The arguments are consecutive steps [B, n]. A sum includes the step that ends an episode, terminated or
    truncated, and stops there. It stops before the first step that is not `stored`. The value after the sum's
    last step is multiplied by `discount(gamma, terminated of that step, number of rewards)`.
    """
    goes_on = tf.logical_not(tf.logical_or(terminated, truncated))
    included = [stored[:, 0]]
    for k in range(1, reward.shape[1]):
        included.append(tf.logical_and(tf.logical_and(included[-1], goes_on[:, k - 1]), stored[:, k]))
    included = tf.cast(tf.stack(included, axis=1), tf.float32)
    powers = tf.pow(tf.cast(gamma, tf.float32), tf.range(reward.shape[1], dtype=tf.float32))
    return tf.reduce_sum(included * powers * reward, axis=1), tf.reduce_sum(included, axis=1)


def index_by_action(values: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """The value float32[B] of each row's action int32[B], from values [B, A]; or [B, K] from [B, A, K]."""
    mask = tf.one_hot(action, values.shape[1])
    return tf.reduce_sum(values * tf.reshape(mask, (*mask.shape, *[1] * (len(values.shape) - 2))), axis=1)


def huber(error: tf.Tensor, kappa: tf.Tensor | float = 1.0) -> tf.Tensor:
    """Huber's loss (1964), in the shape of `error`: half the square up to `kappa`, linear with slope `kappa` beyond."""
    size = tf.abs(error)
    quadratic = tf.minimum(size, kappa)
    return 0.5 * tf.square(quadratic) + kappa * (size - quadratic)


def every(update: tf.Tensor, period: int) -> tf.Tensor:
    """float32 scalar: 1 in the last of every `period` gradient steps, else 0. update: int64 scalar, from 0."""
    return tf.cast(tf.equal((update + 1) % period, 0), tf.float32)


def polyak(target: Tree, online: Tree, tau: tf.Tensor | float) -> Tree:
    """Soft update of target parameters (Lillicrap et al. 2016, Algorithm 1): (1 - tau) * target + tau * online.

    target, online: trees of equal shapes. The result is exact at both ends: tau 0 keeps `target`, tau 1 copies. Whole
    numbers, such as a layer's random state, have no average: they are copied, unless tau is 0.
    """

    def moved(old: tf.Tensor, new: tf.Tensor) -> tf.Tensor:
        return (1.0 - tau) * old + tau * new if old.dtype.is_floating else tf.where(tau > 0.0, new, old)

    return tf.nest.map_structure(moved, target, online)


def value_and_grad(
    function: Callable[[Tree], tuple[tf.Tensor, Tree]], variables: Tree
) -> tuple[tuple[tf.Tensor, Tree], Tree]:
    """((scalar, extra), gradients) of `function(variables) -> (scalar, extra)`.

    Gradients have the structure and shapes of `variables`; a variable without effect has gradient 0. Those of rows
    that were looked up, as in an embedding, become whole tensors.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(tf.nest.flatten(variables))
        value, extra = function(variables)
    grads = tape.gradient(value, tf.nest.flatten(variables), unconnected_gradients="zero")
    return (value, extra), tf.nest.pack_sequence_as(variables, [tf.convert_to_tensor(each) for each in grads])
