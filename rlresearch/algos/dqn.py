"""Deep Q-networks (DQN), with double Q-learning.

Mnih et al. 2015, "Human-level control through deep reinforcement learning",
https://doi.org/10.1038/nature14236, Algorithm 1; double: van Hasselt, Guez & Silver 2016,
https://arxiv.org/abs/1509.06461, equation 4.
Shapes: N environments, B batch rows, A actions.

Dueling and noisy layers belong to the network, prioritized replay and n-step returns to the buffer, exploration to the
group noise; they combine freely. A noisy network draws new noise for every action, and for every gradient step, there
separately for its three roles (Fortunato et al. 2018, https://arxiv.org/abs/1706.10295, section 3.1). All rows share
it. Evaluation uses none.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`).
2. The target moves by a share `tau` every `target_every` gradient steps; 1 copies, as in the paper.
3. With `huber` the error is Huber's, which equals the paper's clipping of the error's gradient to [-1, 1]. Otherwise
   it is half the square.
4. Any optimizer, in place of the paper's RMSProp. The environment skips and stacks frames, not the algorithm.
5. The defaults suit small tasks: batches of 64 (paper: 32), a learning rate of 1e-3 (2.5e-4), a target copied every 250
   gradient steps (10,000), one gradient step each step (every 4), exploration down to 0.05 in 10,000 steps (0.1, 1M).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.ranges import Fraction, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class DQNState(NamedTuple):
    """The state of DQN."""

    q: networks.Params
    target_q: networks.Params
    optimizer: Tree


@dataclass(frozen=True)
class DQN:
    """gamma: discount per step. tau: share of the online network taken into the target, every
    `target_every` gradient steps. double: the online network chooses the action that the target
    values. huber: absolute errors above 1 count linearly. The others: `types.Algorithm`.
    """

    spec: EnvSpec
    q: networks.NetworkBuilder
    optimizer: optim.Optimizer
    noise: noise.Exploration

    gamma: Fraction = 0.99
    tau: PositiveFraction = 1.0
    target_every: PositiveInt = 250
    double: bool = False
    huber: bool = True
    batch_size: PositiveInt = 64
    learning_starts: NonNegativeInt = 1_000
    random_start: bool = False
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/q": "mean error over the batch, Huber's or half the square, in squared units of return",
        "value/q": "mean value of the batch's stored actions, in units of return",
        "value/target": "mean target, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless actions are discrete."""
        self.spec.require_discrete_actions("DQN")

    @property
    def q_net(self) -> networks.Network:
        """From observations [B, ...] to values float32[B, A]."""
        return networks.bind(self.q, (self.spec.observation_space.shape,), self.spec.num_actions)

    def init(self, key: Key) -> DQNState:
        """New parameters; the targets are equal to them."""
        q = self.q_net.init(key)
        return DQNState(q=q, target_q=q, optimizer=self.optimizer.init(q.trainable))

    def values(self, q: networks.Params, obs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Q(s, a) float32[B, A] for observations [B, ...]. noise: of a noisy network; None uses its mean weights."""
        return self.q_net.apply(q, obs, noise=noise)

    def policy(self, state: DQNState, obs: tf.Tensor) -> tf.Tensor:
        """The best actions int32[B] for observations [B, ...]."""
        return tf.argmax(self.values(state.q, obs), axis=1, output_type=tf.int32)

    def act(self, state: DQNState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, DQNState]:
        """(exploring actions int32[N], the state)."""
        noise_key, choice_key = tf.unstack(rng.split(key, 2))
        values = self.values(state.q, timestep.obs, self.q_net.noise(noise_key, progress))
        return self.noise.choose(values, choice_key, progress), state

    def update(
        self, state: DQNState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[DQNState, dict[str, tf.Tensor], tf.Tensor]:
        """One gradient step on B rows; every `target_every`-th also moves the target. Also |TD error| float32[B]."""
        online_noise, *others = (self.q_net.noise(each, progress) for each in tf.unstack(rng.split(key, 3)))
        target = self._target(state, batch, *others)

        def loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            values, frozen = self.q_net.apply_training(
                state.q._replace(trainable=trainable), batch.obs, noise=online_noise
            )
            q_tm1 = ops.index_by_action(values, batch.action)
            td_error = target - q_tm1
            error = ops.huber(td_error) if self.huber else 0.5 * tf.square(td_error)
            return tf.reduce_mean(batch.weight * error), (td_error, tf.reduce_mean(q_tm1), frozen)

        (value, (td_error, q_mean, frozen)), grads = ops.value_and_grad(loss, state.q.trainable)
        weights, optimizer = self.optimizer.update(grads, state.optimizer, state.q.trainable, progress)
        q = networks.Params(weights, frozen)
        share = self.tau * ops.every(progress.update, self.target_every)
        state = DQNState(q=q, target_q=ops.polyak(state.target_q, q, share), optimizer=optimizer)
        metrics = {"loss/q": value, "value/q": q_mean, "value/target": tf.reduce_mean(target)}
        return state, metrics, tf.abs(td_error)

    def _target(
        self, state: DQNState, batch: Batch, noise: tf.Tensor | None, chooser_noise: tf.Tensor | None
    ) -> tf.Tensor:
        """y of Algorithm 1, float32[B]."""
        values = self.values(state.target_q, batch.next_obs, noise)
        chooser = self.values(state.q, batch.next_obs, chooser_noise) if self.double else values
        q_t = ops.index_by_action(values, tf.argmax(chooser, axis=1, output_type=tf.int32))
        return ops.td_target(batch.reward, ops.discount(self.gamma, batch.terminated, batch.steps), q_t)
