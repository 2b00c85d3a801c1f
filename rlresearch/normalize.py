"""Running normalization of observations and rewards; the statistics are part of the run's state.

A normalizer is a frozen dataclass. The algorithm sees normalized observations and rewards; the buffer stores raw ones.
Statistics change only after a round of learning (`commit`), so that acting and learning in one rollout use the same
ones. Evaluation does not change them. They cover every observation acted on and every step's discounted return.
Shapes: N environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import tensorflow as tf

from rlresearch.ranges import PositiveFloat
from rlresearch.types import EnvSpec, StepResult, TimeStep, Tree


class Moments(NamedTuple):
    """count: a scalar. mean, m2: [...], the mean and the sum of squared distances from it. All float64, as they grow.

    In float32, which runs before version 0.2 have, the count stays at 2**24 while m2 grows on.
    """

    count: tf.Tensor
    mean: tf.Tensor
    m2: tf.Tensor


class RunningState(NamedTuple):
    """observations, returns: the statistics in use. pending_...: statistics since the last `commit`.

    Each is `Moments`, or () where it is not normalized. run_return: float64[N], the discounted sum of the rewards
    of each environment's episode so far. Field names and types are the checkpoint format.
    """

    observations: Tree
    pending_observations: Tree
    returns: Tree
    pending_returns: Tree
    run_return: tf.Tensor


class Normalizer(Protocol):
    """What the group `normalize` offers to the training step."""

    def init(self, spec: EnvSpec) -> Tree:
        """The state before the first step."""

    def accumulate(self, state: Tree, timestep: TimeStep, result: StepResult, gamma: Any) -> Tree:
        """The state with observations [N, ...] and rewards [N] added to the pending statistics, not in use yet."""

    def commit(self, state: Tree) -> Tree:
        """The state that uses the pending statistics too, of the same shapes."""

    def observations(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        """Normalized observations float32[..., *shape]."""

    def rewards(self, state: Tree, reward: tf.Tensor) -> tf.Tensor:
        """Normalized rewards float32[...]."""


@dataclass(frozen=True)
class Identity:
    """Observations and rewards stay as they are."""

    def init(self, spec: EnvSpec) -> Tree:
        """No state."""
        return ()

    def accumulate(self, state: Tree, timestep: TimeStep, result: StepResult, gamma: Any) -> Tree:
        """The state unchanged, whatever the step [N, ...]."""
        return state

    def commit(self, state: Tree) -> Tree:
        """The state unchanged."""
        return state

    def observations(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        """The observations float32[..., *shape] themselves."""
        return obs

    def rewards(self, state: Tree, reward: tf.Tensor) -> tf.Tensor:
        """The rewards float32[...] themselves."""
        return reward


@dataclass(frozen=True)
class Running:
    """(observation - mean) / deviation, and reward / deviation of the discounted return.

    As Gymnasium's NormalizeObservation and NormalizeReward. obs, reward: whether to normalize each of the two. clip:
    the largest absolute value of either. Without statistics of two rows nothing changes. Rewards are not shifted, so
    they keep their sign. precision: of the statistics; `float32` is for runs that an earlier version stored.
    """

    obs: bool = True
    reward: bool = True
    clip: PositiveFloat = 10.0
    precision: Literal["float64", "float32"] = "float64"

    def init(self, spec: EnvSpec) -> RunningState:
        """The state without statistics, for N = `spec.num_envs` environments."""
        observations = no_moments(spec.observation_space.shape, self.precision) if self.obs else ()
        returns = no_moments((), self.precision) if self.reward else ()
        return RunningState(observations, observations, returns, returns, tf.zeros(spec.num_envs, self.precision))

    def accumulate(self, state: RunningState, timestep: TimeStep, result: StepResult, gamma: Any) -> RunningState:
        """The state with observations [N, ...] and returns [N] pending too. gamma: number or float32 scalar."""
        if self.obs:
            pending = merge(state.pending_observations, moments_of(timestep.obs, self.precision))
            state = state._replace(pending_observations=pending)
        if self.reward:
            gamma = tf.cast(tf.cast(gamma, tf.float32), self.precision)  # as a member's own tensor
            run_return = gamma * state.run_return + tf.cast(result.reward, self.precision)
            pending = merge(state.pending_returns, moments_of(run_return, self.precision))
            ended = tf.logical_or(result.terminated, result.truncated)
            run_return = tf.where(ended, tf.zeros_like(run_return), run_return)
            state = state._replace(pending_returns=pending, run_return=run_return)
        return state

    def commit(self, state: RunningState) -> RunningState:
        """The state with the pending statistics in use, and none pending."""
        if self.obs:
            current = merge(state.observations, state.pending_observations)
            nothing = tf.nest.map_structure(tf.zeros_like, state.pending_observations)
            state = state._replace(observations=current, pending_observations=nothing)
        if self.reward:
            current = merge(state.returns, state.pending_returns)
            nothing = tf.nest.map_structure(tf.zeros_like, state.pending_returns)
            state = state._replace(returns=current, pending_returns=nothing)
        return state

    def observations(self, state: RunningState, obs: tf.Tensor) -> tf.Tensor:
        """Normalized observations float32[..., *shape]."""
        if not self.obs:
            return obs
        # The mean as two float32, the second being what the first leaves: an observation is as near to the mean as
        # it is in float64, and the batches stay in float32.
        mean = state.observations.mean
        high = tf.cast(mean, tf.float32)
        low = tf.cast(mean - tf.cast(high, mean.dtype), tf.float32)
        return self._scaled(obs, (obs - high) - low, state.observations)

    def rewards(self, state: RunningState, reward: tf.Tensor) -> tf.Tensor:
        """Normalized rewards float32[...]."""
        if not self.reward:
            return reward
        return self._scaled(reward, reward, state.returns)

    def _scaled(self, raw: tf.Tensor, shifted: tf.Tensor, moments: Moments) -> tf.Tensor:
        scaled = tf.clip_by_value(shifted / tf.cast(deviation(moments), tf.float32), -self.clip, self.clip)
        return tf.where(moments.count < 2.0, raw, scaled)


def no_moments(shape: tuple[int, ...], dtype: str = "float64") -> Moments:
    """The moments [shape] of no rows."""
    return Moments(tf.zeros((), dtype), tf.zeros(shape, dtype), tf.zeros(shape, dtype))


def moments_of(rows: tf.Tensor, dtype: str = "float64") -> Moments:
    """The moments [...] of rows [N, ...], over the leading axis."""
    wide = tf.cast(rows, dtype)
    shifted = wide - wide[0]  # so that rows which are all equal have exactly their mean, and no deviation
    mean = tf.reduce_mean(shifted, axis=0)
    return Moments(tf.constant(rows.shape[0], dtype), wide[0] + mean, tf.reduce_sum(tf.square(shifted - mean), axis=0))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments [...] of the rows of both (Chan, Golub & LeVeque 1979)."""
    count = a.count + b.count
    safe = tf.maximum(count, 1.0)
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / safe)
    return Moments(count, mean, a.m2 + b.m2 + tf.square(shift) * (a.count * b.count / safe))


def deviation(moments: Moments) -> tf.Tensor:
    """The standard deviation [...]; 1e-8 is added to the variance, so it is never 0."""
    return tf.sqrt(moments.m2 / tf.maximum(moments.count, 1.0) + 1e-8)


AsIs = Identity  # its name until version 0.2
