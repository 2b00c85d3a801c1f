"""Advantage actor-critic (A2C), the synchronous form of A3C.

Mnih et al. 2016, "Asynchronous methods for deep reinforcement learning", https://arxiv.org/abs/1602.01783,
Algorithm S3: one gradient step up log pi(a | s) (R - V(s)) and down (R - V(s))^2 for each rollout.
Shapes: T steps of N environments in a rollout, B = T N rows, A actions or action dimensions.

Differences from the paper:
1. N environments step together; there are no asynchronous workers.
2. A time limit does not end a value: a truncated step bootstraps from the observation that follows it. Only
   `terminated` ends a value. Both end the sum of rewards.
3. R comes from generalized advantages (`ops.rollout_advantage`). With `gae_lambda` 1 it is the paper's return of up
   to T steps.
4. Policy and value share no layers. Gradients are clipped by their norm (the optimizer's `max_grad_norm`).
5. Continuous actions come from a normal distribution. Its deviations are separate parameters, independent of the
   observation. The algorithm learns from the sampled action; only the environment clips it.
6. RMSProp has the paper's form, epsilon inside the root, and its decay 0.99. Epsilon, which the paper does not give, is
   1e-5 as in OpenAI Baselines. (SB3 adds 1e-5 outside the root, which makes steps for small gradients larger.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import distributions, networks, ops, optim, rng
from rlresearch.ranges import Fraction, NonNegativeFloat, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class A2CState(NamedTuple):
    """The state of A2C. log_std: float32[A], of continuous actions, or ()."""

    actor: networks.Params
    critic: networks.Params
    log_std: Tree
    optimizer: Tree


@dataclass(frozen=True)
class A2C:
    """gamma: discount per step. gae_lambda: 0 relies on the values, 1 on the rewards. rollout_steps: T.
    value_weight, entropy_weight: weights of the value's error and of the policy's entropy in the loss.
    normalize_advantages: to mean 0 and deviation 1 in each rollout. initial_log_std: of continuous actions.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer

    gamma: Fraction = 0.99
    gae_lambda: Fraction = 1.0
    rollout_steps: PositiveInt = 5
    value_weight: NonNegativeFloat = 0.5
    entropy_weight: NonNegativeFloat = 0.0
    normalize_advantages: bool = False
    initial_log_std: float = 0.0

    learning_starts: ClassVar[int] = 0
    random_start: ClassVar[bool] = False
    updates: ClassVar[int] = 1
    LEARNS_FROM: ClassVar[str] = "rollouts"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/policy": "minus the mean of log-probability times advantage, in units of advantage",
        "loss/value": "mean squared error of values, in squared units of return",
        "policy/entropy": "mean entropy of the policy, in nats",
    }

    def check(self) -> None:
        """Raises ConfigError unless actions are discrete or vectors of numbers."""
        if not hasattr(self.spec.action_space, "n"):
            self.spec.require_continuous_actions("A2C")

    @property
    def update_every(self) -> int:
        """T: a round of learning follows every rollout."""
        return self.rollout_steps

    @property
    def batch_size(self) -> int:
        """T N, the rows of a rollout."""
        return self.rollout_steps * self.spec.num_envs

    @property
    def actor_net(self) -> networks.Network:
        """From observations [B, ...] to logits or means float32[B, A]."""
        return networks.bind(self.actor, (self.spec.observation_space.shape,), self.spec.action_size)

    @property
    def critic_net(self) -> networks.Network:
        """From observations [B, ...] to values float32[B, 1]."""
        return networks.bind(self.critic, (self.spec.observation_space.shape,), 1)

    def init(self, key: Key) -> A2CState:
        """New parameters."""
        actor_key, critic_key = tf.unstack(rng.split(key, 2))
        actor, critic = self.actor_net.init(actor_key), self.critic_net.init(critic_key)
        log_std = () if hasattr(self.spec.action_space, "n") else tf.zeros(self.spec.action_size) + self.initial_log_std
        optimizer = self.optimizer.init((actor.trainable, critic.trainable, log_std))
        return A2CState(actor, critic, log_std, optimizer)

    def policy(self, state: A2CState, obs: tf.Tensor) -> tf.Tensor:
        """The policy's most likely actions, int32[B] or float32[B, A] in [-1, 1], for observations [B, ...]."""
        action = distributions.from_outputs(self.actor_net.apply(state.actor, obs), state.log_std).mode()
        return action if action.dtype == tf.int32 else tf.clip_by_value(action, -1.0, 1.0)

    def act(self, state: A2CState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, A2CState]:
        """(actions int32[N] or float32[N, A] sampled from the policy, the state)."""
        outputs = self.actor_net.apply(state.actor, timestep.obs)
        return distributions.from_outputs(outputs, state.log_std).sample(key), state

    def update(
        self, state: A2CState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[A2CState, dict[str, tf.Tensor], None]:
        """One gradient step on a rollout [T, N, ...]."""
        flat = lambda leaf: tf.reshape(leaf, (-1, *leaf.shape[2:]))  # noqa: E731
        obs, action = flat(batch.obs), flat(batch.action)
        v_t = tf.reshape(self.critic_net.apply(state.critic, flat(batch.next_obs)), batch.reward.shape)

        def loss(weights: tuple[list[tf.Tensor], ...]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            actor, critic, log_std = weights
            outputs, actor_frozen = self.actor_net.apply_training(state.actor._replace(trainable=actor), obs)
            values, critic_frozen = self.critic_net.apply_training(state.critic._replace(trainable=critic), obs)
            policy = distributions.from_outputs(outputs, log_std)
            v_tm1 = tf.reshape(values, batch.reward.shape)
            error = flat(ops.rollout_advantage(batch, v_tm1, v_t, self.gamma, self.gae_lambda))
            advantage = ops.standardized(error) if self.normalize_advantages else error
            target = error + tf.stop_gradient(values[:, 0])
            metrics = {
                "loss/policy": -tf.reduce_mean(policy.log_prob(action) * advantage),
                "loss/value": tf.reduce_mean(tf.square(target - values[:, 0])),
                "policy/entropy": tf.reduce_mean(policy.entropy()),
            }
            value = metrics["loss/policy"] + self.value_weight * metrics["loss/value"]
            return value - self.entropy_weight * metrics["policy/entropy"], (metrics, actor_frozen, critic_frozen)

        weights = (state.actor.trainable, state.critic.trainable, state.log_std)
        (_, (metrics, *frozen)), grads = ops.value_and_grad(loss, weights)
        (actor, critic, log_std), optimizer = self.optimizer.update(grads, state.optimizer, weights, progress)
        actor, critic = networks.Params(actor, frozen[0]), networks.Params(critic, frozen[1])
        return A2CState(actor, critic, log_std, optimizer), metrics, None
