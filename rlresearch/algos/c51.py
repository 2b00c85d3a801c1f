"""Categorical DQN (C51): the distribution of returns on a fixed support, with double Q-learning.

Bellemare, Dabney & Munos 2017, "A distributional perspective on reinforcement learning",
https://arxiv.org/abs/1707.06887, Algorithm 1; double, as Hessel et al. 2018 combine the two (Rainbow,
https://arxiv.org/abs/1710.02298, section 3).
Shapes: N environments, B batch rows, A actions, K atoms.

The network gives logits [B, A, K] over the support z_i = v_min + i (v_max - v_min) / (K - 1); an action's value is
sum_i z_i p_i. The target is the next action's distribution at the locations r + discount z_i, projected onto the
support (`ops.categorical_projection`). The loss is its divergence from the stored action's distribution.
With a dueling and noisy network, a prioritized buffer and n-step returns this is Rainbow:
conf/experiment/rainbow_cartpole.yaml.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`).
2. The loss is the Kullback-Leibler divergence, not the cross-entropy: its gradient is the same, but its minimum is
   0. It is also the priority of a row, as in Rainbow.
3. The range of returns has no default: the paper's [-10, 10] fits the clipped rewards of Atari.
4. The target moves by a share `tau` every `target_every` gradient steps; 1 copies, as in the paper.
5. Adam's epsilon is the optimizer's own; the paper's is 0.01 / 32. The other defaults are DQN's, for small tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.errors import ConfigError
from rlresearch.ranges import Fraction, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class C51State(NamedTuple):
    """The state of C51."""

    q: networks.Params
    target_q: networks.Params
    optimizer: Tree


@dataclass(frozen=True)
class C51:
    """v_min, v_max: the range of discounted returns that the atoms cover; a return beyond it counts as the end of the
    range. atoms: their number. gamma: discount per step. tau: share of the online network taken into the target, every
    `target_every` gradient steps. double: the online network chooses the action whose distribution the
    target gives. The others: `types.Algorithm`.
    """

    spec: EnvSpec
    q: networks.NetworkBuilder
    optimizer: optim.Optimizer
    noise: noise.Exploration

    v_min: float
    v_max: float
    atoms: Annotated[int, at.Ge(2)] = 51
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
        "loss/q": "mean divergence of the stored actions' distributions from their targets, in nats",
        "value/q": "mean value of the batch's stored actions, in units of return",
        "value/target": "mean of the target distributions, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless actions are discrete and v_min is below v_max."""
        self.spec.require_discrete_actions("C51")
        if self.v_min >= self.v_max:
            raise ConfigError(f"algo.v_max={self.v_max}: must be above algo.v_min, which is {self.v_min}.")

    @property
    def q_net(self) -> networks.Network:
        """From observations [B, ...] to logits float32[B, A, K]."""
        shape = (self.spec.num_actions, self.atoms)
        return networks.bind(self.q, (self.spec.observation_space.shape,), shape)

    @property
    def support(self) -> tf.Tensor:
        """The returns z float32[K] of the atoms."""
        return self.v_min + (self.v_max - self.v_min) * tf.linspace(0.0, 1.0, self.atoms)

    def init(self, key: Key) -> C51State:
        """New parameters; the targets are equal to them."""
        q = self.q_net.init(key)
        return C51State(q=q, target_q=q, optimizer=self.optimizer.init(q.trainable))

    def values(self, q: networks.Params, obs: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Q(s, a) float32[B, A] for observations [B, ...]. noise: of a noisy network; None uses its mean weights."""
        return self._means(self.q_net.apply(q, obs, noise=noise))

    def policy(self, state: C51State, obs: tf.Tensor) -> tf.Tensor:
        """The best actions int32[B] for observations [B, ...]."""
        return tf.argmax(self.values(state.q, obs), axis=1, output_type=tf.int32)

    def act(self, state: C51State, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, C51State]:
        """(exploring actions int32[N], the state)."""
        noise_key, choice_key = tf.unstack(rng.split(key, 2))
        values = self.values(state.q, timestep.obs, self.q_net.noise(noise_key, progress))
        return self.noise.choose(values, choice_key, progress), state

    def update(
        self, state: C51State, batch: Batch, key: Key, progress: Progress
    ) -> tuple[C51State, dict[str, tf.Tensor], tf.Tensor]:
        """One gradient step on B rows; every `target_every`-th also moves the target. Also the losses float32[B]."""
        online_noise, *others = (self.q_net.noise(each, progress) for each in tf.unstack(rng.split(key, 3)))
        target = self._target(state, batch, *others)

        def loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            logits, frozen = self.q_net.apply_training(
                state.q._replace(trainable=trainable), batch.obs, noise=online_noise
            )
            taken = ops.index_by_action(logits, batch.action)
            divergence = ops.kl_divergence(target, taken)
            return tf.reduce_mean(batch.weight * divergence), (divergence, self._means(taken), frozen)

        (value, (divergence, q_tm1, frozen)), grads = ops.value_and_grad(loss, state.q.trainable)
        weights, optimizer = self.optimizer.update(grads, state.optimizer, state.q.trainable, progress)
        q = networks.Params(weights, frozen)
        share = self.tau * ops.every(progress.update, self.target_every)
        state = C51State(q=q, target_q=ops.polyak(state.target_q, q, share), optimizer=optimizer)
        metrics = {
            "loss/q": value,
            "value/q": tf.reduce_mean(q_tm1),
            "value/target": tf.reduce_mean(tf.reduce_sum(target * self.support, axis=1)),
        }
        return state, metrics, divergence

    def _target(
        self, state: C51State, batch: Batch, noise: tf.Tensor | None, chooser_noise: tf.Tensor | None
    ) -> tf.Tensor:
        """m of Algorithm 1: the target probabilities float32[B, K] of the atoms."""
        logits = self.q_net.apply(state.target_q, batch.next_obs, noise=noise)
        chooser = self.values(state.q, batch.next_obs, chooser_noise) if self.double else self._means(logits)
        p_t = tf.nn.softmax(ops.index_by_action(logits, tf.argmax(chooser, axis=1, output_type=tf.int32)))
        discount_t = ops.discount(self.gamma, batch.terminated, batch.steps)
        locations = ops.td_target(batch.reward[:, None], discount_t[:, None], self.support)
        return tf.stop_gradient(ops.categorical_projection(locations, p_t, self.support))

    def _means(self, logits: tf.Tensor) -> tf.Tensor:
        """The means float32[...] of distributions given by logits [..., K]."""
        return tf.reduce_sum(tf.nn.softmax(logits) * self.support, axis=-1)
