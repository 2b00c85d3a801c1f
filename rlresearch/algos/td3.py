"""Twin delayed deep deterministic policy gradient (TD3).

Fujimoto, van Hoof, Meger 2018, "Addressing function approximation error in actor-critic methods",
https://arxiv.org/abs/1802.09477, Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A action dimensions.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`). (The authors' code does so too.)
2. The first `learning_starts` transitions have uniform actions (theirs: 1,000 or 10,000); learning starts after
   them.
3. Both networks take one optimizer's settings; `actor_lr_scale` tells them apart.
4. The two critics are one network with two sets of parameters (`networks/ensemble.py`). Their losses are reported
   as a mean, not as a sum.
5. Noise is in units of the [-1, 1] action, as is the authors' after dividing by `max_action`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.networks import ensemble
from rlresearch.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class TD3State(NamedTuple):
    """The state of TD3. `critics` and `target_critics` are pairs."""

    actor: networks.Params
    critics: list[networks.Params]
    target_actor: networks.Params
    target_critics: list[networks.Params]
    actor_optimizer: Tree
    critic_optimizer: Tree
    noise: Tree


@dataclass(frozen=True)
class TD3:
    """gamma: discount per step. tau: share of the online networks taken into the targets.
    policy_delay: critic updates for each update of the policy and the targets. target_noise,
    target_noise_clip: deviation and bound of the noise on the target policy's action, in units of
    half the action range. The other fields are described in `types.Algorithm`.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer
    noise: noise.Noise

    gamma: Fraction = 0.99
    tau: PositiveFraction = 0.005
    policy_delay: PositiveInt = 2
    target_noise: NonNegativeFloat = 0.2
    target_noise_clip: NonNegativeFloat = 0.5
    actor_lr_scale: PositiveFloat = 1.0
    batch_size: PositiveInt = 256
    learning_starts: NonNegativeInt = 100
    random_start: bool = True
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    OUTPUTS: ClassVar[dict[str, tuple[str, ...]]] = {"actor": ("tanh", "softsign")}
    METRICS: ClassVar[dict[str, str]] = {
        "loss/critic": "mean squared TD error over the batch and both critics, in squared units of return",
        "loss/actor": "minus the first critic's mean value of the learning policy's own actions, in units of return",
        "value/q": "both critics' mean value of the batch's stored actions, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless an action is a vector of numbers."""
        self.spec.require_continuous_actions("TD3")

    @property
    def actor_net(self) -> networks.Network:
        """From observations [B, ...] to actions float32[B, A]."""
        return networks.bind(self.actor, (self.spec.observation_space.shape,), self.spec.action_size)

    @property
    def critic_net(self) -> networks.Network:
        """From observations [B, ...] and actions float32[B, A] to values float32[B, 1]."""
        return networks.bind(self.critic, (self.spec.observation_space.shape, self.spec.action_space.shape), 1)

    def init(self, key: Key) -> TD3State:
        """New parameters; the targets are equal to them."""
        actor_key, *critic_keys = tf.unstack(rng.split(key, 3))
        actor = self.actor_net.init(actor_key)
        critics = ensemble.init(self.critic_net, critic_keys)
        return TD3State(
            actor=actor,
            critics=critics,
            target_actor=actor,
            target_critics=critics,
            actor_optimizer=self.optimizer.init(actor.trainable),
            critic_optimizer=self.optimizer.init([critic.trainable for critic in critics]),
            noise=self.noise.init(self.spec.num_envs, self.spec.action_size),
        )

    def policy(self, state: TD3State, obs: tf.Tensor) -> tf.Tensor:
        """Deterministic actions float32[B, A] in [-1, 1] for observations [B, ...]."""
        return tf.clip_by_value(self.actor_net.apply(state.actor, obs), -1.0, 1.0)

    def act(self, state: TD3State, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, TD3State]:
        """(actions float32[N, A] with noise, in [-1, 1], the state with the noise after them)."""
        shift, noise_state = self.noise.sample(state.noise, timestep.first, key, progress)
        action = tf.clip_by_value(self.policy(state, timestep.obs) + shift, -1.0, 1.0)
        return action, state._replace(noise=noise_state)

    def update(
        self, state: TD3State, batch: Batch, key: Key, progress: Progress
    ) -> tuple[TD3State, dict[str, tf.Tensor], tf.Tensor]:
        """One gradient step of both critics, and in time of the actor and the targets. Also |TD error| float32[B]."""
        target = self._target(state, batch, key)

        def q_tm1(critic: networks.Params) -> tuple[tf.Tensor, list[tf.Tensor]]:
            q, frozen = self.critic_net.apply_training(critic, batch.obs, batch.action)
            return q[:, 0], frozen

        critics = ensemble.fit(
            q_tm1, state.critics, target, batch.weight, self.optimizer, state.critic_optimizer, progress
        )
        state = state._replace(critics=critics.params, critic_optimizer=critics.optimizer)

        delayed = tf.equal((progress.update + 1) % self.policy_delay, 0)
        state, actor_value = tf.cond(
            delayed, lambda: self._delayed(state, batch, progress), lambda: (state, tf.constant(0.0))
        )
        metrics = {  # a row averages over all steps; one in `policy_delay` moves the actor
            "loss/critic": critics.loss,
            "loss/actor": actor_value * self.policy_delay,
            "value/q": critics.q_mean,
        }
        return state, metrics, critics.abs_td_error

    def _target(self, state: TD3State, batch: Batch, key: Key) -> tf.Tensor:
        """y of Algorithm 1, float32[B]: the smaller critic (eq. 10) at a smoothed action (eq. 14)."""
        action = self.actor_net.apply(state.target_actor, batch.next_obs)
        shift = tf.clip_by_value(
            self.target_noise * rng.normal(key, action.shape), -self.target_noise_clip, self.target_noise_clip
        )
        action = tf.clip_by_value(action + shift, -1.0, 1.0)
        q_t = ensemble.minimum(self.critic_net, state.target_critics, batch.next_obs, action)[:, 0]
        discount_t = ops.discount(self.gamma, batch.terminated, batch.steps)
        return ops.td_target(batch.reward, discount_t, q_t)

    def _delayed(self, state: TD3State, batch: Batch, progress: Progress) -> tuple[TD3State, tf.Tensor]:
        """(the state after the policy's step up the first critic and the targets' soft update, the loss)."""

        def actor_loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, list[tf.Tensor]]:
            action, frozen = self.actor_net.apply_training(state.actor._replace(trainable=trainable), batch.obs)
            return -tf.reduce_mean(self.critic_net.apply(state.critics[0], batch.obs, action)), frozen

        (loss, frozen), grads = ops.value_and_grad(actor_loss, state.actor.trainable)
        weights, actor_optimizer = self.optimizer.update(
            grads, state.actor_optimizer, state.actor.trainable, progress, self.actor_lr_scale
        )
        actor = networks.Params(weights, frozen)
        state = state._replace(
            actor=actor,
            actor_optimizer=actor_optimizer,
            target_actor=ops.polyak(state.target_actor, actor, self.tau),
            target_critics=ops.polyak(state.target_critics, state.critics, self.tau),
        )
        return state, loss
