"""Running normalisation of observations and rewards: statistics live in the run's state.

A normalizer is a frozen dataclass; the trainer shows the algorithm what it makes of observations and rewards,
and the buffer keeps what the environment gave. Statistics move only when a round of learning is over, so that
all of one rollout is acted on and learned from through the same ones; evaluation never moves them. They are of
every observation that was acted on, and of every step's discounted return so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from rlresearch.ranges import PositiveFloat
from rlresearch.types import EnvSpec, Outcome, TimeStep, Tree


class Moments(NamedTuple):
    """count: float32 scalar; mean, m2: float32[...], the mean and the sum of squared distances from it.

    From 2**24 rows on single ones no longer count, which by then would not move the others.
    """

    count: tf.Tensor
    mean: tf.Tensor
    m2: tf.Tensor


class RunningState(NamedTuple):
    """current: what is normalised by; pending: what was seen since that last moved. Each Moments or ().

    run_return: float32[N], the discounted sum of each environment's rewards so far.
    """

    observations: Tree
    pending_observations: Tree
    returns: Tree
    pending_returns: Tree
    run_return: tf.Tensor


class Normalizer(Protocol):
    """What the group `normalize` offers to the trainer."""

    def init(self, spec: EnvSpec) -> Tree:
        """The state before the first step."""

    def observe(self, state: Tree, timestep: TimeStep, outcome: Outcome, gamma: Any) -> Tree:
        """Takes note of what was acted on and what came of it; changes nothing that is shown yet."""

    def moved(self, state: Tree) -> Tree:
        """The state in which what was noted counts."""

    def observations(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        """Observations [..., *shape] as the algorithm sees them."""

    def rewards(self, state: Tree, reward: tf.Tensor) -> tf.Tensor:
        """Rewards as the algorithm sees them."""


@dataclass(frozen=True)
class AsIs:
    """Nothing is normalised."""

    def init(self, spec: EnvSpec) -> Tree:
        return ()

    def observe(self, state: Tree, timestep: TimeStep, outcome: Outcome, gamma: Any) -> Tree:
        return state

    def moved(self, state: Tree) -> Tree:
        return state

    def observations(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        return obs

    def rewards(self, state: Tree, reward: tf.Tensor) -> tf.Tensor:
        return reward


@dataclass(frozen=True)
class Running:
    """Observations less their mean, over their deviation; rewards over the deviation of the discounted return.

    As Gymnasium's NormalizeObservation and NormalizeReward. obs, reward: which of the two. clip: the largest
    size of either. While nothing counts yet nothing is changed. Rewards keep their sign: they are not shifted.
    """

    obs: bool = True
    reward: bool = True
    clip: PositiveFloat = 10.0

    def init(self, spec: EnvSpec) -> RunningState:
        seen = no_moments(spec.observation_space.shape) if self.obs else ()
        returns = no_moments(()) if self.reward else ()
        return RunningState(seen, seen, returns, returns, tf.zeros(spec.num_envs))

    def observe(self, state: RunningState, timestep: TimeStep, outcome: Outcome, gamma: Any) -> RunningState:
        if self.obs:
            pending = merged(state.pending_observations, moments_of(timestep.obs))
            state = state._replace(pending_observations=pending)
        if self.reward:
            run_return = gamma * state.run_return + outcome.reward
            pending = merged(state.pending_returns, moments_of(run_return))
            ended = tf.logical_or(outcome.terminated, outcome.truncated)
            run_return = tf.where(ended, tf.zeros_like(run_return), run_return)
            state = state._replace(pending_returns=pending, run_return=run_return)
        return state

    def moved(self, state: RunningState) -> RunningState:
        if self.obs:
            current = merged(state.observations, state.pending_observations)
            nothing = tf.nest.map_structure(tf.zeros_like, state.pending_observations)
            state = state._replace(observations=current, pending_observations=nothing)
        if self.reward:
            current = merged(state.returns, state.pending_returns)
            nothing = tf.nest.map_structure(tf.zeros_like, state.pending_returns)
            state = state._replace(returns=current, pending_returns=nothing)
        return state

    def observations(self, state: RunningState, obs: tf.Tensor) -> tf.Tensor:
        if not self.obs:
            return obs
        return self._scaled(obs, obs - state.observations.mean, state.observations)

    def rewards(self, state: RunningState, reward: tf.Tensor) -> tf.Tensor:
        if not self.reward:
            return reward
        return self._scaled(reward, reward, state.returns)

    def _scaled(self, raw: tf.Tensor, shifted: tf.Tensor, moments: Moments) -> tf.Tensor:
        scaled = tf.clip_by_value(shifted / deviation(moments), -self.clip, self.clip)
        return tf.where(moments.count < 2.0, raw, scaled)


def no_moments(shape: tuple[int, ...]) -> Moments:
    """Of nothing."""
    return Moments(tf.constant(0.0), tf.zeros(shape), tf.zeros(shape))


def moments_of(rows: tf.Tensor) -> Moments:
    """Of rows [N, ...], over their leading axis."""
    mean = tf.reduce_mean(rows, axis=0)
    return Moments(tf.constant(float(rows.shape[0])), mean, tf.reduce_sum(tf.square(rows - mean), axis=0))


def merged(a: Moments, b: Moments) -> Moments:
    """Of all that either was of (Chan, Golub & LeVeque 1979)."""
    count = a.count + b.count
    safe = tf.maximum(count, 1.0)
    shift = b.mean - a.mean
    mean = a.mean + shift * (b.count / safe)
    return Moments(count, mean, a.m2 + b.m2 + tf.square(shift) * (a.count * b.count / safe))


def deviation(moments: Moments) -> tf.Tensor:
    """The standard deviation float32[...], 1e-8 added to the variance so that none is 0."""
    return tf.sqrt(moments.m2 / tf.maximum(moments.count, 1.0) + 1e-8)
