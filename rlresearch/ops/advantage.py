"""Policy gradients from rollouts: advantages along time, and the clipped objectives of PPO.

Shapes: T steps of a rollout on the leading axis, B rows of a batch.
"""

from __future__ import annotations

import tensorflow as tf

from rlresearch.ops.td import discount
from rlresearch.types import Batch


def backward_sum(x: tf.Tensor, decay: tf.Tensor) -> tf.Tensor:
    """y float32[T, ...] with y_t = x_t + decay_t * y_{t+1} and y_{T-1} = x_{T-1}; x and decay: float32[T, ...].

    By doubling (Hillis & Steele 1986): log2(T) operations on whole arrays, which compile and map. A loop of T
    small operations takes longer. The last decay is not read.
    """
    shift = 1
    while shift < x.shape[0]:
        beyond = tf.zeros_like(x[:shift])
        x = x + decay * tf.concat([x[shift:], beyond], axis=0)
        decay = decay * tf.concat([decay[shift:], beyond], axis=0)
        shift *= 2
    return x


def generalized_advantage(
    r_t: tf.Tensor,
    discount_t: tf.Tensor,
    ended: tf.Tensor,
    v_tm1: tf.Tensor,
    v_t: tf.Tensor,
    gae_lambda: tf.Tensor | float,
) -> tf.Tensor:
    """Generalized advantage estimates float32[T, ...], Schulman et al. 2016 (https://arxiv.org/abs/1506.02438), eq. 16.

    Arguments are float32[T, ...], but `ended` bool[T, ...]. ended: the step terminated or was truncated; nothing
    after it is summed. discount_t: `ops.discount`, 0 only where the task terminated. v_tm1: values of the
    observations acted on. v_t: values of the observations that followed in the same episode, so that a truncated
    step still bootstraps. No gradient flows.
    """
    td_error = r_t + discount_t * v_t - v_tm1
    goes_on = 1.0 - tf.cast(ended, tf.float32)
    return tf.stop_gradient(backward_sum(td_error, gae_lambda * discount_t * goes_on))


def rollout_advantage(
    batch: Batch, v_tm1: tf.Tensor, v_t: tf.Tensor, gamma: tf.Tensor | float, gae_lambda: tf.Tensor | float
) -> tf.Tensor:
    """`generalized_advantage` float32[T, N] of a rollout's rewards and ends, with discount gamma per step.

    v_tm1, v_t: values float32[T, N] of `batch.obs` and of `batch.next_obs`. No gradient flows.
    """
    ended = tf.logical_or(batch.terminated, batch.truncated)
    discount_t = discount(gamma, batch.terminated)
    return generalized_advantage(batch.reward, discount_t, ended, v_tm1, v_t, gae_lambda)


def standardized(x: tf.Tensor) -> tf.Tensor:
    """(x - mean) / deviation, float32[B], of whatever size the numbers are; 0 where all rows are equal."""
    wide = tf.cast(x, tf.float64)
    # Less the first row: the mean of equal numbers need not be that number, and its rounding error would be scaled up.
    shifted = wide - wide[0]
    centered = shifted - tf.reduce_mean(shifted)
    deviation = tf.sqrt(tf.reduce_mean(tf.square(centered)))
    return tf.cast(tf.math.divide_no_nan(centered, deviation), tf.float32)


def clipped_objective(ratio: tf.Tensor, advantage: tf.Tensor, clip: tf.Tensor | float) -> tf.Tensor:
    """The objective float32[B] of Schulman et al. 2017, equation 7; to be maximised.

    ratio: probabilities float32[B] of the actions, divided by those of the policy that acted. The gradient is 0
    where the ratio is more than `clip` from 1 on the side to which the advantage float32[B] pulls.
    """
    return tf.minimum(ratio * advantage, tf.clip_by_value(ratio, 1.0 - clip, 1.0 + clip) * advantage)


def clipped_value_error(
    value: tf.Tensor, old: tf.Tensor, target: tf.Tensor, clip: tf.Tensor | float | None
) -> tf.Tensor:
    """Squared error float32[B] of values: the larger of two, that of `value` and that of `old` moved by at most `clip`.

    All arguments float32[B]. From the code that accompanies Schulman et al. 2017. With clip None nothing is clipped.
    """
    error = tf.square(value - target)
    if clip is None:
        return error
    return tf.maximum(error, tf.square(old + tf.clip_by_value(value - old, -clip, clip) - target))
