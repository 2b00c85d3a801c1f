"""Derivatives of functions of tensors: gradients and Jacobians, of one input or row by row. B: rows of a batch."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.ops.td import value_and_grad


def grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """The gradient of a scalar function at x, in x's shape. For rows of a batch see `batch_grad`."""
    return value_and_grad(lambda x: (function(x), ()), x)[1]


def batch_grad(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Gradients [B, ...] at x [B, ...], row by row; the function maps [B, ...] to [B] and treats rows separately."""
    return grad(lambda x: tf.reduce_sum(function(x)), x)


def jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """d function(x)_i / d x_j, shape [*outputs, *inputs], for one x of shape [*inputs]."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.jacobian(y, x)


def batch_jacobian(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Jacobians [B, outputs, inputs] at x [B, inputs], row by row; the function treats rows separately."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tape.batch_jacobian(y, x)
