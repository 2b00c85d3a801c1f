"""Proximal policy optimization (PPO), with a clipped objective.

Schulman, Wolski, Dhariwal, Radford, Klimov 2017, "Proximal policy optimization algorithms",
https://arxiv.org/abs/1707.06347, Algorithm 1; equations by their numbers there. Advantages: Schulman et al.
2016, https://arxiv.org/abs/1506.02438, equation 16 (`ops.rollout_advantage`).
Shapes: T steps of N environments in a rollout, B rows of a minibatch, A actions or action dimensions.

Old log-probabilities, values and advantages of a rollout are computed once, from the parameters that acted. Then
follow `epochs` times `minibatches` gradient steps up equation 9. Each epoch shuffles all rows into minibatches.

Differences from the paper:
1. A time limit does not end a value: a truncated step bootstraps from the observation that follows it. Only
   `terminated` ends a value. Both end the sum of advantages.
2. Policy and value share no layers.
3. Advantages get mean 0 and deviation 1 in each minibatch; `value_clip` clips values too: as in the authors' code.
4. Continuous actions come from a normal distribution whose deviations do not depend on the observation (the
   paper's section 6.1). The algorithm learns from the sampled action; only the environment clips it.
5. Learning rate and `clip` may follow any schedule (the paper: to zero in a straight line, for Atari).
6. Adam's epsilon is 1e-5 (`optimizer=adam_ppo`), as in the authors' code; the paper names none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import distributions, networks, ops, optim, rng
from rlresearch.errors import ConfigError
from rlresearch.ranges import Fraction, NonNegativeFloat, PositiveFloat, PositiveInt
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class PPOState(NamedTuple):
    """The state of PPO. log_std: float32[A], of continuous actions, or ()."""

    actor: networks.Params
    critic: networks.Params
    log_std: Tree
    optimizer: Tree


class Samples(NamedTuple):
    """A row for each step of the rollout, with what the acting parameters gave: log_prob to target float32[B]."""

    obs: tf.Tensor
    action: tf.Tensor
    log_prob: tf.Tensor
    value: tf.Tensor
    advantage: tf.Tensor
    target: tf.Tensor


@dataclass(frozen=True)
class PPO:
    """gamma: discount per step. gae_lambda: 0 relies on the values, 1 on the rewards. rollout_steps: T.
    epochs, minibatches: of each rollout. clip: how far the probability ratio may leave 1, times `clip_schedule`.
    value_clip: the same for values, in units of return; None does not clip. value_weight, entropy_weight: c1 and
    c2 of equation 9. normalize_advantages: in each minibatch. initial_log_std: of continuous actions.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer

    gamma: Fraction = 0.99
    gae_lambda: Fraction = 0.95
    rollout_steps: PositiveInt = 2048
    epochs: PositiveInt = 10
    minibatches: PositiveInt = 32
    clip: PositiveFloat = 0.2
    clip_schedule: Schedule = field(default_factory=Constant)
    value_clip: PositiveFloat | None = None
    value_weight: NonNegativeFloat = 0.5
    entropy_weight: NonNegativeFloat = 0.0
    normalize_advantages: bool = True
    initial_log_std: float = 0.0

    learning_starts: ClassVar[int] = 0
    random_start: ClassVar[bool] = False
    updates: ClassVar[int] = 1
    LEARNS_FROM: ClassVar[str] = "rollouts"
    METRICS: ClassVar[dict[str, str]] = {  # means over all minibatches of all epochs
        "loss/policy": "minus the clipped objective of equation 7, in units of advantage",
        "loss/value": "mean squared error of values, in squared units of return",
        "policy/entropy": "mean entropy of the policy, in nats",
        "policy/kl": "divergence of the policy from the one that acted, as mean(ratio - 1 - log ratio), in nats",
        "policy/clipped": "rows whose ratio is farther from 1 than clip, in parts of 1",
    }

    def check(self) -> None:
        """Raises ConfigError on actions that are no number or vector, or minibatches of unequal size."""
        if not hasattr(self.spec.action_space, "n"):
            self.spec.require_continuous_actions("PPO")
        if self.batch_size % self.minibatches:
            raise ConfigError(
                f"algo.minibatches={self.minibatches}: must divide the {self.batch_size} rows of a rollout, "
                "algo.rollout_steps times env.num_envs."
            )

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

    def init(self, key: Key) -> PPOState:
        """New parameters."""
        actor_key, critic_key = tf.unstack(rng.split(key, 2))
        actor, critic = self.actor_net.init(actor_key), self.critic_net.init(critic_key)
        log_std = () if hasattr(self.spec.action_space, "n") else tf.zeros(self.spec.action_size) + self.initial_log_std
        optimizer = self.optimizer.init((actor.trainable, critic.trainable, log_std))
        return PPOState(actor, critic, log_std, optimizer)

    def policy(self, state: PPOState, obs: tf.Tensor) -> tf.Tensor:
        """The policy's most likely actions, int32[B] or float32[B, A] in [-1, 1], for observations [B, ...]."""
        action = distributions.from_outputs(self.actor_net.apply(state.actor, obs), state.log_std).mode()
        return action if action.dtype == tf.int32 else tf.clip_by_value(action, -1.0, 1.0)

    def act(self, state: PPOState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, PPOState]:
        """(actions int32[N] or float32[N, A] sampled from the policy, the state)."""
        outputs = self.actor_net.apply(state.actor, timestep.obs)
        return distributions.from_outputs(outputs, state.log_std).sample(key), state

    def update(
        self, state: PPOState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[PPOState, dict[str, tf.Tensor], None]:
        """All gradient steps on a rollout [T, N, ...]."""
        rows, steps = self._samples(state, batch), self.epochs * self.minibatches
        deal = lambda key: rng.permutation(key, rows.value.shape[0])  # noqa: E731
        orders = tf.vectorized_map(deal, rng.split(key, self.epochs), fallback_to_while_loop=False)
        orders = tf.reshape(orders, (steps, -1))  # each minibatch's rows: one loop compiles sooner than two nested ones

        def minibatch(index: tf.Tensor, state: PPOState, sums: dict[str, tf.Tensor]) -> tuple[Any, ...]:
            dealt = tf.nest.map_structure(lambda leaf: tf.gather(leaf, orders[index]), rows)
            state, metrics = self._step(state, dealt, progress)
            return index + 1, state, {name: total + metrics[name] for name, total in sums.items()}

        sums = {name: tf.constant(0.0) for name in self.METRICS}
        _, state, sums = tf.while_loop(lambda index, *_: index < steps, minibatch, (0, state, sums))
        return state, {name: total / steps for name, total in sums.items()}, None

    def _samples(self, state: PPOState, batch: Batch) -> Samples:
        """The rollout [T, N, ...] as rows [T N, ...], with the acting parameters' log-probabilities and advantages."""
        flat = lambda leaf: tf.reshape(leaf, (-1, *leaf.shape[2:]))  # noqa: E731
        value_of = lambda obs: self.critic_net.apply(state.critic, flat(obs))[:, 0]  # noqa: E731
        obs, action, value = flat(batch.obs), flat(batch.action), value_of(batch.obs)
        v_tm1 = tf.reshape(value, batch.reward.shape)
        v_t = tf.reshape(value_of(batch.next_obs), batch.reward.shape)
        advantage = ops.rollout_advantage(batch, v_tm1, v_t, self.gamma, self.gae_lambda)
        log_prob = distributions.from_outputs(self.actor_net.apply(state.actor, obs), state.log_std).log_prob(action)
        return Samples(obs, action, log_prob, value, flat(advantage), flat(advantage) + value)

    def _step(self, state: PPOState, rows: Samples, progress: Progress) -> tuple[PPOState, dict[str, tf.Tensor]]:
        """One gradient step on one minibatch."""
        clip = self.clip * self.clip_schedule(progress)
        advantage = ops.standardized(rows.advantage) if self.normalize_advantages else rows.advantage

        def loss(weights: tuple[list[tf.Tensor], ...]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            actor, critic, log_std = weights
            outputs, actor_frozen = self.actor_net.apply_training(state.actor._replace(trainable=actor), rows.obs)
            values, critic_frozen = self.critic_net.apply_training(state.critic._replace(trainable=critic), rows.obs)
            policy = distributions.from_outputs(outputs, log_std)
            log_ratio = policy.log_prob(rows.action) - rows.log_prob
            ratio = tf.exp(log_ratio)
            errors = ops.clipped_value_error(values[:, 0], rows.value, rows.target, self.value_clip)
            metrics = {
                "loss/policy": -tf.reduce_mean(ops.clipped_objective(ratio, advantage, clip)),
                "loss/value": tf.reduce_mean(errors),
                "policy/entropy": tf.reduce_mean(policy.entropy()),
                "policy/kl": tf.reduce_mean(ratio - 1.0 - log_ratio),
                "policy/clipped": tf.reduce_mean(tf.cast(tf.abs(ratio - 1.0) > clip, tf.float32)),
            }
            value = metrics["loss/policy"] + self.value_weight * metrics["loss/value"]
            return value - self.entropy_weight * metrics["policy/entropy"], (metrics, actor_frozen, critic_frozen)

        weights = (state.actor.trainable, state.critic.trainable, state.log_std)
        (_, (metrics, *frozen)), grads = ops.value_and_grad(loss, weights)
        (actor, critic, log_std), optimizer = self.optimizer.update(grads, state.optimizer, weights, progress)
        actor, critic = networks.Params(actor, frozen[0]), networks.Params(critic, frozen[1])
        return PPOState(actor, critic, log_std, optimizer), metrics
