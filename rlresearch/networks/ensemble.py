"""Ensembles: one network with K sets of parameters, such as the twin critics of TD3 and SAC.

Clipped double Q-learning (Fujimoto et al. 2018, equation 10): every critic has its own initial draw and its own
gradient, all learn the same target, and the smallest value counts. Shapes: K critics, B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from rlresearch import ops, optim
from rlresearch.networks.functional import Network, Params
from rlresearch.types import Key, Progress, Tree


class Fit(NamedTuple):
    """The critics after a gradient step, with means over the critics before it.

    params: K sets; optimizer: its state. loss, q_mean: float32 scalars, the squared TD error and the value, also
    averaged over the batch. abs_td_error: float32[B].
    """

    params: list[Params]
    optimizer: Tree
    loss: tf.Tensor
    q_mean: tf.Tensor
    abs_td_error: tf.Tensor


def init(network: Network, keys: Sequence[Key]) -> list[Params]:
    """One set of parameters for each key, drawn independently."""
    return [network.init(key) for key in keys]


def minimum(network: Network, critics: Sequence[Params], *inputs: tf.Tensor) -> tf.Tensor:
    """The smallest of the critics' outputs for inputs [B, ...], number by number: float32[B, outputs]."""
    outputs = tf.stack([network.apply(params, *inputs) for params in critics])
    return tf.reduce_min(outputs, axis=0)


def fit(
    value: Callable[[Params], tuple[tf.Tensor, list[tf.Tensor]]],
    critics: Sequence[Params],
    target: tf.Tensor,
    weight: tf.Tensor,
    optimizer: optim.Optimizer,
    optimizer_state: Tree,
    progress: Progress,
) -> Fit:
    """One gradient step of all critics down the weighted mean squared error to `target` float32[B].

    value(params): (Q(s, a) float32[B] of the batch's stored actions, the new `frozen` numbers) of one critic.
    weight: float32[B], the importance of each row. The loss is the sum over critics, so that each moves as it
    would alone.
    """

    def loss(weights: list[list[tf.Tensor]]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        params = [critic._replace(trainable=trainable) for critic, trainable in zip(critics, weights, strict=True)]
        q_tm1, frozen = zip(*map(value, params), strict=True)
        td_errors = target - tf.stack(q_tm1)
        losses = tf.reduce_mean(weight * tf.square(td_errors), axis=1)
        return tf.reduce_sum(losses), (tf.reduce_mean(losses), td_errors, tf.reduce_mean(tf.stack(q_tm1)), frozen)

    weights = [critic.trainable for critic in critics]
    (_, (mean_loss, td_errors, q_mean, frozen)), grads = ops.value_and_grad(loss, weights)
    weights, optimizer_state = optimizer.update(grads, optimizer_state, weights, progress)
    params = [Params(*pair) for pair in zip(weights, frozen, strict=True)]
    return Fit(params, optimizer_state, mean_loss, q_mean, tf.reduce_mean(tf.abs(td_errors), axis=0))
