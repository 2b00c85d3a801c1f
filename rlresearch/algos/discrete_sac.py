"""Soft actor-critic for discrete actions.

Christodoulou 2019, "Soft actor-critic for discrete action settings", https://arxiv.org/abs/1910.07207,
Algorithm 1; equations by their numbers there.
Shapes: N environments, B batch rows, A actions.

The policy is a categorical distribution over A logits, a critic gives the values of all A actions, and so each
expectation over actions is a sum, not a draw:

    soft value        V(s) = sum_a pi(a | s) (Q(s, a) - temperature log pi(a | s))          (10)
    critics           Q(s, a) of the action taken towards r + gamma V(s'), V from the target critics
    temperature       falls where the entropy is above its target, and rises below          (11)
    policy            minimises sum_a pi(a | s) (temperature log pi(a | s) - Q(s, a))       (12)

Both values are the smaller of two critics', action by action.

Differences from the paper:
1. A time limit does not end a value: only `terminated` does (`ops.discount`).
2. The temperature's loss is linear in its logarithm, which is learned, where (11) is linear in the temperature
   itself: its slope does not fade with the temperature.
3. `learning_starts` transitions come first, of uniform actions with `random_start`; learning starts after them.
4. The critics' losses are squared errors without the half, reported as a mean over both.
5. The target entropy is `entropy_ratio` times log A, the entropy of a uniform choice; the paper's ratio is 0.98. With
   two actions such a policy takes the likelier one in 58 % of cases. If no policy of this entropy keeps an episode
   going, the temperature rises without end: CartPole needs 0.5 to 0.6.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import tensorflow as tf

from rlresearch import networks, ops, optim, rng
from rlresearch.distributions import Categorical
from rlresearch.errors import ConfigError, format_value
from rlresearch.networks import ensemble
from rlresearch.ranges import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFraction, PositiveInt
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep, Tree


class DiscreteSACState(NamedTuple):
    """The state of discrete SAC. critics are pairs, log_temperature float32 scalar, or () where it is fixed."""

    actor: networks.Params
    critics: list[networks.Params]
    target_critics: list[networks.Params]
    log_temperature: Tree
    actor_optimizer: Tree
    critic_optimizer: Tree
    temperature_optimizer: Tree


@dataclass(frozen=True)
class DiscreteSAC:
    """gamma: discount per step. tau: share of the online critics taken into the targets. temperature:
    what a nat of entropy is worth, in units of reward; with `learn_temperature` only at first, then it
    keeps the entropy at `entropy_ratio` of the largest possible, log A. The other fields are described
    in `types.Algorithm`.
    """

    spec: EnvSpec
    actor: networks.NetworkBuilder
    critic: networks.NetworkBuilder
    optimizer: optim.Optimizer

    gamma: Fraction = 0.99
    tau: PositiveFraction = 0.005
    temperature: NonNegativeFloat = 1.0
    learn_temperature: bool = True
    entropy_ratio: Fraction = 0.98
    batch_size: PositiveInt = 64
    learning_starts: NonNegativeInt = 1_000
    random_start: bool = True
    update_every: PositiveInt = 1
    updates: PositiveInt = 1

    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/critic": "mean squared soft TD error over the batch and both critics, in squared units of return",
        "loss/actor": "minus the policy's mean soft value by the smaller critic, in units of return",
        "value/q": "both critics' mean soft value of the batch's stored actions, in units of return",
        "policy/entropy": "mean entropy of the policy over the batch, in nats",
        "policy/temperature": "what a nat of entropy is worth, in units of reward",
    }

    def check(self) -> None:
        """Raises ConfigError on actions, a temperature or an actor's output that do not fit."""
        self.spec.require_discrete_actions("DiscreteSAC")
        if self.learn_temperature and self.temperature == 0:
            raise ConfigError("algo.temperature=0.0: must be above 0, or fixed with algo.learn_temperature=false.")
        activation = getattr(self.actor, "output_activation", "linear")
        if activation != "linear":
            wrong = f"network.actor.output_activation={format_value(activation)}: must be linear for DiscreteSAC"
            raise ConfigError(f"{wrong}, which reads logits; network=stochastic_actor_critic fits.")

    @property
    def actor_net(self) -> networks.Network:
        """From observations [B, ...] to logits float32[B, A]."""
        return networks.bind(self.actor, (self.spec.observation_space.shape,), self.spec.num_actions)

    @property
    def critic_net(self) -> networks.Network:
        """From observations [B, ...] to values float32[B, A]."""
        return networks.bind(self.critic, (self.spec.observation_space.shape,), self.spec.num_actions)

    def init(self, key: Key) -> DiscreteSACState:
        """New parameters; the targets are equal to them."""
        actor_key, *critic_keys = tf.unstack(rng.split(key, 3))
        actor = self.actor_net.init(actor_key)
        critics = ensemble.init(self.critic_net, critic_keys)
        log_temperature = tf.math.log(tf.cast(self.temperature, tf.float32)) if self.learn_temperature else ()
        return DiscreteSACState(
            actor=actor,
            critics=critics,
            target_critics=critics,
            log_temperature=log_temperature,
            actor_optimizer=self.optimizer.init(actor.trainable),
            critic_optimizer=self.optimizer.init([critic.trainable for critic in critics]),
            temperature_optimizer=self.optimizer.init(log_temperature),
        )

    def policy(self, state: DiscreteSACState, obs: tf.Tensor) -> tf.Tensor:
        """The most probable actions int32[B] for observations [B, ...]."""
        return Categorical(self.actor_net.apply(state.actor, obs)).mode()

    def act(
        self, state: DiscreteSACState, timestep: TimeStep, key: Key, progress: Progress
    ) -> tuple[tf.Tensor, DiscreteSACState]:
        """(actions int32[N] sampled from the policy, the state)."""
        return Categorical(self.actor_net.apply(state.actor, timestep.obs)).sample(key), state

    def update(
        self, state: DiscreteSACState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[DiscreteSACState, dict[str, tf.Tensor], tf.Tensor]:
        """One step of critics, policy and temperature, then of the target critics. Also |TD error| float32[B]."""
        temperature = tf.exp(state.log_temperature) if self.learn_temperature else tf.cast(self.temperature, tf.float32)
        target = self._target(state, batch, temperature)

        def q_tm1(critic: networks.Params) -> tuple[tf.Tensor, list[tf.Tensor]]:
            q, frozen = self.critic_net.apply_training(critic, batch.obs)
            return ops.index_by_action(q, batch.action), frozen

        critics = ensemble.fit(
            q_tm1, state.critics, target, batch.weight, self.optimizer, state.critic_optimizer, progress
        )
        state = state._replace(critics=critics.params, critic_optimizer=critics.optimizer)
        state, actor_loss, entropy = self._policy_step(state, batch, temperature, progress)
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

    def _target(self, state: DiscreteSACState, batch: Batch, temperature: tf.Tensor) -> tf.Tensor:
        """r + gamma V(s'), float32[B]: the target critics under the online policy (10)."""
        log_probs = Categorical(self.actor_net.apply(state.actor, batch.next_obs)).log_probs()
        q_t = ensemble.minimum(self.critic_net, state.target_critics, batch.next_obs)
        v_t = ops.expected_soft_value(q_t, log_probs, temperature)
        return ops.td_target(batch.reward, ops.discount(self.gamma, batch.terminated, batch.steps), v_t)

    def _policy_step(
        self, state: DiscreteSACState, batch: Batch, temperature: tf.Tensor, progress: Progress
    ) -> tuple[DiscreteSACState, tf.Tensor, tf.Tensor]:
        """(the state after the policy's step down (12), its loss, its entropy): the latter two float32 scalars."""
        q = ensemble.minimum(self.critic_net, state.critics, batch.obs)

        def loss(trainable: list[tf.Tensor]) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
            logits, frozen = self.actor_net.apply_training(state.actor._replace(trainable=trainable), batch.obs)
            pi = Categorical(logits)
            value = ops.expected_soft_value(q, pi.log_probs(), temperature)
            return -tf.reduce_mean(value), (tf.reduce_mean(pi.entropy()), frozen)

        (value, (entropy, frozen)), grads = ops.value_and_grad(loss, state.actor.trainable)
        weights, optimizer = self.optimizer.update(grads, state.actor_optimizer, state.actor.trainable, progress)
        state = state._replace(actor=networks.Params(weights, frozen), actor_optimizer=optimizer)
        return state, value, entropy

    def _temperature_step(self, state: DiscreteSACState, entropy: tf.Tensor, progress: Progress) -> DiscreteSACState:
        """The state after the temperature's step (11), if it is learned."""
        if not self.learn_temperature:
            return state
        aim = self.entropy_ratio * math.log(self.spec.num_actions)
        slope = ops.temperature_gradient(state.log_temperature, entropy, aim)
        log_temperature, optimizer = self.optimizer.update(
            slope, state.temperature_optimizer, state.log_temperature, progress
        )
        return state._replace(log_temperature=log_temperature, temperature_optimizer=optimizer)
