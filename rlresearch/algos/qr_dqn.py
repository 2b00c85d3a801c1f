"""Quantile regression DQN (QR-DQN): the distribution of returns by its quantiles, with double Q-learning.

Dabney, Rowland, Bellemare & Munos 2018, "Distributional reinforcement learning with quantile regression",
https://arxiv.org/abs/1710.10044, Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A actions, K quantiles.

The network gives theta [B, A, K], the quantiles of the return at tau_i = (2 i + 1) / (2 K); an action's value is
their mean. Targets are r + discount theta_j of the best next action. The loss is the quantile Huber loss (equation
10) between all pairs (`ops.quantile_huber_loss`). It needs no range of returns.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`).
2. The Huber loss is divided by `kappa`, as in the authors' later paper; with their kappa of 1 it is the same.
3. The target moves by a share `tau` every `target_every` gradient steps; 1 copies, as in the paper.
4. `double` lets the online network choose the next action; the paper's does not.
5. Adam's epsilon is the optimizer's own; the paper's is 0.01 / 32. The other defaults are DQN's, for small tasks.
6. The priority of a row, for a prioritized buffer, is its loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class QRDQNState(NamedTuple):
    """The state of QR-DQN."""

    q: networks.Params
    target_q: networks.Params
    optimizer: Tree


@dataclass(frozen=True)
class QRDQN:
    """quantiles: their number. kappa: errors above it count linearly, in units of return. gamma: discount per step.
    tau: share of the online network taken into the target, every `target_every` gradient steps. double: the
    online network chooses the action whose distribution the target gives. The others: `types.Algorithm`.
    """

    spec: EnvSpec
    q: networks.NetworkBuilder
    optimizer: optim.Optimizer
    noise: noise.Exploration

    quantiles: PositiveInt = 200
    kappa: PositiveFloat = 1.0
    gamma: Fraction = 0.99
    tau: PositiveFraction = 1.0
    target_every: PositiveInt = 250
    double: bool = False
    batch_size: PositiveInt = 64
    learning_starts: NonNegativeInt = 1_000
    random_start: bool = False
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/q": "quantile Huber loss: sum over quantiles, mean over target samples and batch, in units of return",
        "value/q": "mean value of the batch's stored actions, in units of return",
        "value/target": "mean of the targets, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless actions are discrete."""
        self.spec.require_discrete_actions("QR-DQN")

    @property
    def q_net(self) -> networks.Network:
        """From observations [B, ...] to quantiles float32[B, A, K]."""
        shape = (self.spec.num_actions, self.quantiles)
        return networks.bind(self.q, (self.spec.observation_space.shape,), shape)

    def init(self, key: Key) -> QRDQNState:
        """New parameters; the targets are equal to them."""
        q = self.q_net.init(key)
        return QRDQNState(q=q, target_q=q, optimizer=self.optimizer.init(q.trainable))

    def values(self, q: networks.Params, obs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Q(s, a) float32[B, A] for observations [B, ...]. noise: of a noisy network; None uses its mean weights."""
        return tf.reduce_mean(self.q_net.apply(q, obs, noise=noise), axis=2)

    def policy(self, state: QRDQNState, obs: tf.Tensor) -> tf.Tensor:
        """The best actions int32[B] for observations [B, ...]."""
        return tf.argmax(self.values(state.q, obs), axis=1, output_type=tf.int32)

    def act(self, state: QRDQNState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, QRDQNState]:
        """(exploring actions int32[N], the state)."""
        noise_key, choice_key = tf.unstack(rng.split(key, 2))
        values = self.values(state.q, timestep.obs, self.q_net.noise(noise_key, progress))
        return self.noise.choose(values, choice_key, progress), state

    def update(
        self, state: QRDQNState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[QRDQNState, dict[str, tf.Tensor], tf.Tensor]:
        """One gradient step on B rows; every `target_every`-th also moves the target. Also the losses float32[B]."""
        online_noise, *others = (self.q_net.noise(each, progress) for each in tf.unstack(rng.split(key, 3)))
        target = self._target(state, batch, *others)

        def loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            theta, frozen = self.q_net.apply_training(
                state.q._replace(trainable=trainable), batch.obs, noise=online_noise
            )
            theta = ops.index_by_action(theta, batch.action)
            error = ops.quantile_huber_loss(theta, target, self.kappa)
            return tf.reduce_mean(batch.weight * error), (error, tf.reduce_mean(theta), frozen)

        (value, (error, q_mean, frozen)), grads = ops.value_and_grad(loss, state.q.trainable)
        weights, optimizer = self.optimizer.update(grads, state.optimizer, state.q.trainable, progress)
        q = networks.Params(weights, frozen)
        share = self.tau * ops.every(progress.update, self.target_every)
        state = QRDQNState(q=q, target_q=ops.polyak(state.target_q, q, share), optimizer=optimizer)
        return state, {"loss/q": value, "value/q": q_mean, "value/target": tf.reduce_mean(target)}, error

    def _target(
        self, state: QRDQNState, batch: Batch, noise: tf.Tensor | None, chooser_noise: tf.Tensor | None
    ) -> tf.Tensor:
        """T theta_j of Algorithm 1, float32[B, K]."""
        theta = self.q_net.apply(state.target_q, batch.next_obs, noise=noise)
        values = tf.reduce_mean(theta, axis=2)
        chooser = self.values(state.q, batch.next_obs, chooser_noise) if self.double else values
        theta_t = ops.index_by_action(theta, tf.argmax(chooser, axis=1, output_type=tf.int32))
        discount_t = ops.discount(self.gamma, batch.terminated, batch.steps)
        return ops.td_target(batch.reward[:, None], discount_t[:, None], theta_t)
