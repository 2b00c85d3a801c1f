"""Deep deterministic policy gradient (DDPG).

Lillicrap et al. 2016, "Continuous control with deep reinforcement learning",
https://arxiv.org/abs/1509.02971, Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A action dimensions.

Differences from the paper:
1. Both networks share the optimizer's settings. The paper's actor learns ten times slower: `actor_lr_scale=0.1`.
   The paper's weight decay of the critic, 1e-2, is the optimizer's `l2`.
2. A time limit does not end a value: only `terminated` does (`ops.discount`).
3. The critic sees the action at its first layer, as in SB3 and CleanRL, not its second.
4. There is no batch normalization. Layer normalization is a setting of the network.
5. The first `learning_starts` actions are uniform in [-1, 1] if `random_start` is true.
6. The exploration noise is a separate part: Gaussian by default, or the paper's Ornstein-Uhlenbeck noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.ranges import Fraction, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class DDPGState(NamedTuple):
    """The state of DDPG."""

    actor: networks.Params
    critic: networks.Params
    target_actor: networks.Params
    target_critic: networks.Params
    actor_optimizer: Tree
    critic_optimizer: Tree
    noise: Tree


@dataclass(frozen=True)
class DDPG:
    """gamma: discount per step. tau: share of the online networks taken into the targets each update.
    The other fields are described in `types.Algorithm`.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer
    noise: noise.Noise

    gamma: Fraction = 0.99
    tau: PositiveFraction = 0.005
    actor_lr_scale: PositiveFloat = 1.0
    batch_size: PositiveInt = 256
    learning_starts: NonNegativeInt = 100
    random_start: bool = True
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    OUTPUTS: ClassVar[dict[str, tuple[str, ...]]] = {"actor": ("tanh", "softsign")}
    METRICS: ClassVar[dict[str, str]] = {
        "loss/critic": "mean squared TD error over the batch, in squared units of return",
        "loss/actor": "minus the critic's mean value of the policy's own actions, in units of return",
        "value/q": "the critic's mean value of the batch's stored actions, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless an action is a vector of numbers."""
        self.spec.require_continuous_actions("DDPG")

    @property
    def actor_net(self) -> networks.Network:
        """From observations [B, ...] to actions float32[B, A]."""
        return networks.bind(self.actor, (self.spec.observation_space.shape,), self.spec.action_size)

    @property
    def critic_net(self) -> networks.Network:
        """From observations [B, ...] and actions float32[B, A] to values float32[B, 1]."""
        return networks.bind(self.critic, (self.spec.observation_space.shape, self.spec.action_space.shape), 1)

    def init(self, key: Key) -> DDPGState:
        """New parameters; the targets are equal to them."""
        actor_key, critic_key = tf.unstack(rng.split(key, 2))
        actor, critic = self.actor_net.init(actor_key), self.critic_net.init(critic_key)
        return DDPGState(
            actor=actor,
            critic=critic,
            target_actor=actor,
            target_critic=critic,
            actor_optimizer=self.optimizer.init(actor.trainable),
            critic_optimizer=self.optimizer.init(critic.trainable),
            noise=self.noise.init(self.spec.num_envs, self.spec.action_size),
        )

    def policy(self, state: DDPGState, obs: tf.Tensor) -> tf.Tensor:
        """Deterministic actions float32[B, A] in [-1, 1] for observations [B, ...]."""
        return tf.clip_by_value(self.actor_net.apply(state.actor, obs), -1.0, 1.0)

    def act(self, state: DDPGState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, DDPGState]:
        """(actions float32[N, A] with noise, in [-1, 1], the state with the noise after them)."""
        shift, noise_state = self.noise.sample(state.noise, timestep.first, key, progress)
        action = tf.clip_by_value(self.policy(state, timestep.obs) + shift, -1.0, 1.0)
        return action, state._replace(noise=noise_state)

    def update(
        self, state: DDPGState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[DDPGState, dict[str, tf.Tensor], tf.Tensor]:
        """One gradient step of the critic, one of the actor, then the targets. Also |TD error| float32[B]."""
        # Critic: the mean squared error against y_i (Algorithm 1; eq. 4 and 5).
        next_action = self.actor_net.apply(state.target_actor, batch.next_obs)
        q_t = self.critic_net.apply(state.target_critic, batch.next_obs, next_action)[:, 0]
        target = ops.td_target(batch.reward, ops.discount(self.gamma, batch.terminated, batch.steps), q_t)

        def critic_loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            params = state.critic._replace(trainable=trainable)
            q_tm1, frozen = self.critic_net.apply_training(params, batch.obs, batch.action)
            td_error = target - q_tm1[:, 0]
            loss = tf.reduce_mean(batch.weight * tf.square(td_error))
            return loss, (td_error, tf.reduce_mean(q_tm1), frozen)

        (critic_value, (td_error, q_mean, frozen)), critic_grads = ops.value_and_grad(
            critic_loss, state.critic.trainable
        )
        critic_weights, critic_optimizer = self.optimizer.update(
            critic_grads, state.critic_optimizer, state.critic.trainable, progress
        )
        critic = networks.Params(critic_weights, frozen)

        # Actor: up the critic's gradient at the policy's own actions (eq. 6).
        def actor_loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            action, frozen = self.actor_net.apply_training(state.actor._replace(trainable=trainable), batch.obs)
            return -tf.reduce_mean(self.critic_net.apply(critic, batch.obs, action)), frozen

        (actor_value, frozen), actor_grads = ops.value_and_grad(actor_loss, state.actor.trainable)
        actor_weights, actor_optimizer = self.optimizer.update(
            actor_grads, state.actor_optimizer, state.actor.trainable, progress, self.actor_lr_scale
        )
        actor = networks.Params(actor_weights, frozen)

        state = state._replace(
            actor=actor,
            critic=critic,
            target_actor=ops.polyak(state.target_actor, actor, self.tau),
            target_critic=ops.polyak(state.target_critic, critic, self.tau),
            actor_optimizer=actor_optimizer,
            critic_optimizer=critic_optimizer,
        )
        metrics = {
            "loss/critic": critic_value,
            "loss/actor": actor_value,
            "value/q": q_mean,
        }
        return state, metrics, tf.abs(td_error)
