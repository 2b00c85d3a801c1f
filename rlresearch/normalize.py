"""Running normalization of observations and rewards; the statistics are part of the run's state.

A normalizer is a frozen dataclass. The algorithm sees normalized observations and rewards; the buffer stores raw ones.
Statistics change only after a round of learning (`commit`), so that acting and learning in one rollout use the same
ones. Evaluation does not change them. They cover every observation acted on and every step's discounted return.
Shapes: N environments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from rlresearch.ranges import PositiveFloat
from rlresearch.types import EnvSpec, StepResult, TimeStep, Tree


class Moments(NamedTuple):
    """count: float32 scalar. mean, m2: float32[...], the mean and the sum of squared distances from it.

    A float32 count stays at 2**24: one more row would change the mean by less than its rounding error.
    """

    count: tf.Tensor
    mean: tf.Tensor
    m2: tf.Tensor


class RunningState(NamedTuple):
    """observations, returns: the statistics in use. pending_...: statistics since the last `commit`.

    Each is `Moments`, or () where it is not normalized. run_return: float32[N], the discounted sum of the rewards
    of each environment's episode so far. Field names are the checkpoint format.
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
    they keep their sign.
    """

    obs: bool = True
    reward: bool = True
    clip: PositiveFloat = 10.0

    def init(self, spec: EnvSpec) -> RunningState:
        """The state without statistics, for N = `spec.num_envs` environments."""
        observations = no_moments(spec.observation_space.shape) if self.obs else ()
        returns = no_moments(()) if self.reward else ()
        return RunningState(observations, observations, returns, returns, tf.zeros(spec.num_envs))

    def accumulate(self, state: RunningState, timestep: TimeStep, result: StepResult, gamma: Any) -> RunningState:
        """The state with observations [N, ...] and returns [N] pending too. gamma: number or float32 scalar."""
        if self.obs:
            pending = merge(state.pending_observations, moments_of(timestep.obs))
            state = state._replace(pending_observations=pending)
        if self.reward:
            run_return = gamma * state.run_return + result.reward
            pending = merge(state.pending_returns, moments_of(run_return))
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
        return self._scaled(obs, obs - state.observations.mean, state.observations)

    def rewards(self, state: RunningState, reward: tf.Tensor) -> tf.Tensor:
        """Normalized rewards float32[...]."""
        if not self.reward:
            return reward
        return self._scaled(reward, reward, state.returns)

    def _scaled(self, raw: tf.Tensor, shifted: tf.Tensor, moments: Moments) -> tf.Tensor:
        scaled = tf.clip_by_value(shifted / deviation(moments), -self.clip, self.clip)
        return tf.where(moments.count < 2.0, raw, scaled)


def no_moments(shape: tuple[int, ...]) -> Moments:
    """The moments float32[shape] of no rows."""
    return Moments(tf.constant(0.0), tf.zeros(shape), tf.zeros(shape))


def moments_of(rows: tf.Tensor) -> Moments:
    """The moments float32[...] of rows [N, ...], over the leading axis."""
    mean = tf.reduce_mean(rows, axis=0)
    return Moments(tf.constant(float(rows.shape[0])), mean, tf.reduce_sum(tf.square(rows - mean), axis=0))


def merge(a: Moments, b: Moments) -> Moments:
    """The moments float32[...] of the rows of both (Chan, Golub & LeVeque 1979)."""
    count = a.count + b.count
    safe = tf.maximum(count, 1.0)
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / safe)
    return Moments(count, mean, a.m2 + b.m2 + tf.square(shift) * (a.count * b.count / safe))


def deviation(moments: Moments) -> tf.Tensor:
    """The standard deviation float32[...]; 1e-8 is added to the variance, so it is never 0."""
    return tf.sqrt(moments.m2 / tf.maximum(moments.count, 1.0) + 1e-8)


AsIs = Identity  # its name until version 0.2
