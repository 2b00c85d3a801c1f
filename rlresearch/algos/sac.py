"""Soft actor-critic (SAC) with a learned temperature.

Haarnoja et al. 2018b, "Soft actor-critic algorithms and applications", https://arxiv.org/abs/1812.05905,
Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A action dimensions.

The policy is a squashed Gaussian (`distributions.SquashedGaussian`): its network gives 2 A numbers, means and
logarithms of deviations. It maximises return plus temperature times entropy:

    soft value        V(s) = E[Q(s, a) - temperature log pi(a | s)]                      (3)
    critics           Q(s, a) towards r + gamma V(s'), V from the target critics         (5)
    policy            minimises E[temperature log pi(a | s) - Q(s, a)]                   (9)
    temperature       falls where the entropy is above its target, and rises below       (18)

Both values are the smaller of two critics'. Each expectation is one sample for each row.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`). (The authors' code does so too.)
2. The temperature's loss is linear in its logarithm, which is learned, where (18) is linear in the temperature
   itself: its slope does not fade with the temperature. (The authors' code has had both.)
3. `learning_starts` transitions of uniform actions come first; learning starts after them.
4. The critics' losses are squared errors without the half of (5), reported as a mean over both.
5. Logarithms of deviations are clipped to [-20, 2], as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, ops, optim, rng
from rlresearch.distributions import SquashedGaussian
from rlresearch.errors import ConfigError, format_value
from rlresearch.networks import ensemble
from rlresearch.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree

LEAST_LOG_STD, MOST_LOG_STD = -20.0, 2.0


class SACState(NamedTuple):
    """The state of SAC. critics are pairs, log_temperature float32 scalar, or () where it is fixed."""

    actor: networks.Params
    critics: list[networks.Params]
    target_critics: list[networks.Params]
    log_temperature: Tree
    actor_optimizer: Tree
    critic_optimizer: Tree
    temperature_optimizer: Tree


@dataclass(frozen=True)
class SAC:
    """gamma: discount per step. tau: share of the online critics taken into the targets. temperature:
    what a nat of entropy is worth, in units of reward; with `learn_temperature` only at first, then it
    keeps the entropy at `target_entropy`, in nats over the whole action in [-1, 1]; None is -A. The
    other fields are described in `types.Algorithm`.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer

    gamma: Fraction = 0.99
    tau: PositiveFraction = 0.005
    temperature: NonNegativeFloat = 1.0
    learn_temperature: bool = True
    target_entropy: float | None = None
    batch_size: PositiveInt = 256
    learning_starts: NonNegativeInt = 100
    random_start: bool = True
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/critic": "mean squared soft TD error over the batch and both critics, in squared units of return",
        "loss/actor": "minus the mean soft value of the policy's own actions by the smaller critic, in units of return",
        "value/q": "both critics' mean soft value of the batch's stored actions, in units of return",
        "policy/entropy": "minus the mean log-density of the policy's own actions, in nats",
        "policy/temperature": "what a nat of entropy is worth, in units of reward",
    }

    def check(self) -> None:
        """Raises ConfigError on actions, a temperature or an actor's output that do not fit."""
        self.spec.require_continuous_actions("SAC")
        if self.learn_temperature and self.temperature == 0:
            raise ConfigError("algo.temperature=0.0: must be above 0, or fixed with algo.learn_temperature=false.")
        activation = getattr(self.actor, "output_activation", "linear")
        if activation != "linear":
            wrong = f"network.actor.output_activation={format_value(activation)}: must be linear for SAC"
            raise ConfigError(f"{wrong}, which squashes actions itself; network=stochastic_actor_critic fits.")

    @property
    def actor_net(self) -> networks.Network:
        """From observations [B, ...] to float32[B, 2 A], means and logarithms of deviations."""
        return networks.bind(self.actor, (self.spec.observation_space.shape,), 2 * self.spec.action_size)

    @property
    def critic_net(self) -> networks.Network:
        """From observations [B, ...] and actions float32[B, A] to values float32[B, 1]."""
        return networks.bind(self.critic, (self.spec.observation_space.shape, self.spec.action_space.shape), 1)

    def init(self, key: Key) -> SACState:
        """New parameters; the targets are equal to them."""
        actor_key, *critic_keys = tf.unstack(rng.split(key, 3))
        actor = self.actor_net.init(actor_key)
        critics = ensemble.init(self.critic_net, critic_keys)
        log_temperature = tf.math.log(tf.cast(self.temperature, tf.float32)) if self.learn_temperature else ()
        return SACState(
            actor=actor,
            critics=critics,
            target_critics=critics,
            log_temperature=log_temperature,
            actor_optimizer=self.optimizer.init(actor.trainable),
            critic_optimizer=self.optimizer.init([critic.trainable for critic in critics]),
            temperature_optimizer=self.optimizer.init(log_temperature),
        )

    def policy(self, state: SACState, obs: tf.Tensor) -> tf.Tensor:
        """The policy's median actions float32[B, A] for observations [B, ...]."""
        return _distribution(self.actor_net.apply(state.actor, obs)).mode()

    def act(self, state: SACState, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, SACState]:
        """(actions float32[N, A] sampled from the policy, the state)."""
        return _distribution(self.actor_net.apply(state.actor, timestep.obs)).sample(key)[0], state

    def update(
        self, state: SACState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[SACState, dict[str, tf.Tensor], tf.Tensor]:
        """One step of critics, policy and temperature, then of the target critics. Also |TD error| float32[B]."""
        target_key, actor_key = tf.unstack(rng.split(key, 2))
        temperature = tf.exp(state.log_temperature) if self.learn_temperature else tf.cast(self.temperature, tf.float32)
        target = self._target(state, batch, temperature, target_key)

        def q_tm1(critic: networks.Params) -> tuple[tf.Tensor, list[tf.Tensor]]:
            q, frozen = self.critic_net.apply_training(critic, batch.obs, batch.action)
            return q[:, 0], frozen

        critics = ensemble.fit(
            q_tm1, state.critics, target, batch.weight, self.optimizer, state.critic_optimizer, progress
        )
        state = state._replace(critics=critics.params, critic_optimizer=critics.optimizer)
        state, actor_loss, entropy = self._policy_step(state, batch, temperature, actor_key, progress)
        state = self._temperature_step(state, entropy, progress)
        state = state._replace(target_critics=ops.polyak(state.target_critics, state.critics, self.tau))
        metrics = {
            "loss/critic": critics.loss,
            "loss/actor": actor_loss,
            "value/q": critics.q_mean,
            "policy/entropy": entropy,
            "policy/temperature": temperature,
        }
        return state, metrics, critics.abs_td_error

    def _target(self, state: SACState, batch: Batch, temperature: tf.Tensor, key: Key) -> tf.Tensor:
        """r + gamma V(s'), float32[B]: the target critics at a new sample of the online policy (3, 5)."""
        action, log_prob = _distribution(self.actor_net.apply(state.actor, batch.next_obs)).sample(key)
        q_t = ensemble.minimum(self.critic_net, state.target_critics, batch.next_obs, action)[:, 0]
        v_t = ops.soft_value(q_t, log_prob, temperature)
        return ops.td_target(batch.reward, ops.discount(self.gamma, batch.terminated, batch.steps), v_t)

    def _policy_step(
        self, state: SACState, batch: Batch, temperature: tf.Tensor, key: Key, progress: Progress
    ) -> tuple[SACState, tf.Tensor, tf.Tensor]:
        """(the state after the policy's step down (9), its loss, its entropy): the latter two float32 scalars."""

        def loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            output, frozen = self.actor_net.apply_training(state.actor._replace(trainable=trainable), batch.obs)
            action, log_prob = _distribution(output).sample(key)
            q = ensemble.minimum(self.critic_net, state.critics, batch.obs, action)[:, 0]
            value = ops.soft_value(q, log_prob, temperature)
            return -tf.reduce_mean(value), (-tf.reduce_mean(log_prob), frozen)

        (value, (entropy, frozen)), grads = ops.value_and_grad(loss, state.actor.trainable)
        weights, optimizer = self.optimizer.update(grads, state.actor_optimizer, state.actor.trainable, progress)
        state = state._replace(actor=networks.Params(weights, frozen), actor_optimizer=optimizer)
        return state, value, entropy

    def _temperature_step(self, state: SACState, entropy: tf.Tensor, progress: Progress) -> SACState:
        """The state after the temperature's step (18), if it is learned."""
        if not self.learn_temperature:
            return state
        aim = -float(self.spec.action_size) if self.target_entropy is None else self.target_entropy
        slope = ops.temperature_gradient(state.log_temperature, entropy, aim)
        log_temperature, optimizer = self.optimizer.update(
            slope, state.temperature_optimizer, state.log_temperature, progress
        )
        return state._replace(log_temperature=log_temperature, temperature_optimizer=optimizer)


def _distribution(output: tf.Tensor) -> SquashedGaussian:
    """The policy with the actor's output float32[B, 2 A]."""
    mean, log_std = tf.split(output, 2, axis=-1)
    return SquashedGaussian(mean, tf.clip_by_value(log_std, LEAST_LOG_STD, MOST_LOG_STD))
