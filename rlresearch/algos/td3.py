"""Twin delayed deep deterministic policy gradient (TD3).

Fujimoto, van Hoof, Meger 2018, "Addressing function approximation error in actor-critic methods",
https://arxiv.org/abs/1802.09477, Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A action dimensions.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`). (The authors' code does so too.)
2. `learning_starts` transitions of uniform actions come first (theirs: 1,000 or 10,000); learning
   starts after them.
3. Both networks take one optimizer's settings; `actor_lr_scale` tells them apart.
4. The two critics are one network with parameters stacked in a list of two; each has its own
   initial draw and its own gradient. Their losses are reported as a mean, not as a sum.
5. Noise is in units of the [-1, 1] action, as is the authors' after dividing by `max_action`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import networks, noise, ops, optim, rng
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class TD3State(NamedTuple):
    """Everything TD3 knows; `critics` and `target_critics` are pairs."""

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
    actor: networks.Part
    critic: networks.Part
    optimizer: optim.Optimizer
    noise: noise.Noise

    gamma: Annotated[float, at.Interval(ge=0, le=1)] = 0.99
    tau: Annotated[float, at.Interval(gt=0, le=1)] = 0.005
    policy_delay: Annotated[int, at.Gt(0)] = 2
    target_noise: Annotated[float, at.Ge(0)] = 0.2
    target_noise_clip: Annotated[float, at.Ge(0)] = 0.5
    actor_lr_scale: Annotated[float, at.Gt(0)] = 1.0
    batch_size: Annotated[int, at.Gt(0)] = 256
    learning_starts: Annotated[int, at.Ge(0)] = 100
    random_start: bool = True
    update_every: Annotated[int, at.Gt(0)] = 1
    updates: Annotated[int, at.Gt(0)] = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/critic": "mean squared TD error over the batch and both critics, in squared units of return",
        "loss/actor": "minus the first critic's mean value of the learning policy's own actions, in units of return",
        "value/q": "both critics' mean value of the batch's stored actions, in units of return",
    }

    def check(self) -> None:
        self.spec.require_continuous_actions("TD3")

    @property
    def actor_net(self) -> networks.Network:
        return networks.bind(self.actor, (self.spec.observation_space.shape,), self.spec.action_size)

    @property
    def critic_net(self) -> networks.Network:
        return networks.bind(self.critic, (self.spec.observation_space.shape, self.spec.action_space.shape), 1)

    def init(self, key: Key) -> TD3State:
        actor_key, *critic_keys = tf.unstack(rng.split(key, 3))
        actor = self.actor_net.init(actor_key)
        critics = [self.critic_net.init(critic_key) for critic_key in critic_keys]
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
        return tf.clip_by_value(self.actor_net.apply(state.actor, obs), -1.0, 1.0)

    def act(self, state: TD3State, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, TD3State]:
        shift, noise_state = self.noise.sample(state.noise, timestep.first, key, progress)
        action = tf.clip_by_value(self.policy(state, timestep.obs) + shift, -1.0, 1.0)
        return action, state._replace(noise=noise_state)

    def update(
        self, state: TD3State, batch: Batch, key: Key, progress: Progress
    ) -> tuple[TD3State, dict[str, tf.Tensor], tf.Tensor]:
        target = self._target(state, batch, key)

        def critic_loss(trainables: list[list[tf.Tensor]]) -> tuple[tf.Tensor, tuple]:
            params = [critic._replace(trainable=own) for critic, own in zip(state.critics, trainables, strict=True)]
            called = [self.critic_net.apply_training(each, batch.obs, batch.action) for each in params]
            q_tm1 = tf.stack([q[:, 0] for q, _ in called])
            td_errors = target - q_tm1
            losses = tf.reduce_mean(batch.weight * tf.square(td_errors), axis=1)
            frozen = [each for _, each in called]
            return tf.reduce_sum(losses), (tf.reduce_mean(losses), td_errors, tf.reduce_mean(q_tm1), frozen)

        weights = [critic.trainable for critic in state.critics]
        (_, (critic_value, td_errors, q_mean, frozen)), critic_grads = ops.value_and_grad(critic_loss, weights)
        weights, critic_optimizer = self.optimizer.update(critic_grads, state.critic_optimizer, weights, progress)
        critics = [networks.Params(*both) for both in zip(weights, frozen, strict=True)]
        state = state._replace(critics=critics, critic_optimizer=critic_optimizer)

        delayed = tf.equal((progress.update + 1) % self.policy_delay, 0)
        state, actor_value = tf.cond(
            delayed, lambda: self._delayed(state, batch, progress), lambda: (state, tf.constant(0.0))
        )
        metrics = {  # a row averages over all rounds, of which one in `policy_delay` moves the actor
            "loss/critic": critic_value,
            "loss/actor": actor_value * self.policy_delay,
            "value/q": q_mean,
        }
        return state, metrics, tf.reduce_mean(tf.abs(td_errors), axis=0)

    def _target(self, state: TD3State, batch: Batch, key: Key) -> tf.Tensor:
        """y of Algorithm 1, float32[B]: the smaller critic (eq. 10) at a smoothed action (eq. 14)."""
        action = self.actor_net.apply(state.target_actor, batch.next_obs)
        shift = tf.clip_by_value(
            self.target_noise * rng.normal(key, action.shape), -self.target_noise_clip, self.target_noise_clip
        )
        action = tf.clip_by_value(action + shift, -1.0, 1.0)
        q_t = tf.stack([self.critic_net.apply(each, batch.next_obs, action)[:, 0] for each in state.target_critics])
        discount_t = ops.discount(self.gamma, batch.terminated, batch.steps)
        return ops.td_target(batch.reward, discount_t, tf.reduce_min(q_t, axis=0))

    def _delayed(self, state: TD3State, batch: Batch, progress: Progress) -> tuple[TD3State, tf.Tensor]:
        """The policy's step up the first critic, then the targets'; also the loss."""

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
