"""The training step of every run, as pure functions of `TrainState`.

    act      -> exploring actions for the current observations
    collect  -> stores the transitions
    learn    -> takes gradient steps; called once `learning_starts` transitions are stored

A runner steps the environment between `act` and `collect`: a compiled one (`device.py`), or Gymnasium's (`host.py`).
`population.py` maps the whole step over members. Shapes: N environments, B rows of a batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol

import tensorflow as tf

from rlresearch import rng
from rlresearch.normalize import Identity, Normalizer
from rlresearch.runners.metrics import (
    Episodes,
    Totals,
    add_metrics,
    count_episodes,
    means,
    no_episodes,
    no_totals,
    reset,
)
from rlresearch.types import Algorithm, Batch, Buffer, Key, Progress, StepResult, TimeStep, Tree, transition


class TrainState(NamedTuple):
    """The whole state of a run. A checkpoint is this state saved; a population is many of them stacked.

    key: uint32[2], constant; iteration t draws from fold_in(key, t). algo, buffer, normalizer, env: the states of
    the parts. timestep: the observations float32[N, ...] to act on next. Field names are the checkpoint format.
    """

    key: Key
    algo: Tree
    buffer: Tree
    normalizer: Tree
    env: Tree
    timestep: TimeStep
    episodes: Episodes
    totals: Totals


class PolicyState(Protocol):
    """The part of `TrainState` that the deterministic policy needs."""

    @property
    def algo(self) -> Tree:
        """The algorithm's state."""
        ...

    @property
    def normalizer(self) -> Tree:
        """The normalizer's state."""
        ...


@dataclass(frozen=True)
class TrainingStep:
    """The training step for an algorithm, a buffer and a normalizer.

    An iteration is one step of all N environments. iteration: int64 scalar, from 0.
    """

    algo: Algorithm
    buffer: Buffer
    normalizer: Normalizer = field(default_factory=Identity)

    def init(self, key: Key, env: Tree, timestep: TimeStep) -> TrainState:
        """The state before the first step. env: the state of the runner's environment; timestep: [N, ...]."""
        algo_key, run_key = tf.unstack(rng.split(key, 2))
        return TrainState(
            key=run_key,
            algo=self.algo.init(algo_key),
            buffer=self.buffer.init(self.example_row(), self.algo.spec.num_envs),
            normalizer=self.normalizer.init(self.algo.spec),
            env=env,
            timestep=timestep,
            episodes=no_episodes(self.algo.spec.num_envs),
            totals=no_totals(self.algo.METRICS),
        )

    def act(self, state: TrainState, iteration: tf.Tensor, learning: bool) -> tuple[tf.Tensor, TrainState]:
        """(actions float32[N, A] or int32[N] for `state.timestep`, the state after them).

        They are uniform before learning starts if the algorithm has `random_start`, else exploring.
        """
        key = rng.fold_in(self._key(state, iteration), 0)
        if self.algo.random_start and not learning:
            return self._random_action(key), state
        timestep = state.timestep._replace(obs=self.normalizer.observations(state.normalizer, state.timestep.obs))
        action, algo = self.algo.act(state.algo, timestep, key, self.progress(state, iteration))
        return action, state._replace(algo=algo)

    def collect(
        self, state: TrainState, action: tf.Tensor, result: StepResult, timestep: TimeStep, env: Tree
    ) -> TrainState:
        """Stores the N transitions and counts episodes. timestep: [N, ...], env: both as they are after the step."""
        rows = transition(state.timestep, action, result)
        normalizer = self.normalizer.accumulate(state.normalizer, state.timestep, result, self.algo.gamma)
        return state._replace(
            buffer=self.buffer.add(state.buffer, rows),
            normalizer=normalizer,
            env=env,
            timestep=timestep,
            episodes=count_episodes(state.episodes, result),
        )

    def learn(self, state: TrainState, iteration: tf.Tensor) -> TrainState:
        """The state after a round of learning, if one is due after this iteration (int64 scalar).

        Not to be called before `learning_start_iteration`.
        """
        if self.algo.update_every == 1:
            return self.learn_now(state, iteration)
        due = tf.equal((iteration + 1) % self.algo.update_every, 0)
        return tf.cond(due, lambda: self.learn_now(state, iteration), lambda: state)

    def learn_now(self, state: TrainState, iteration: tf.Tensor) -> TrainState:
        """The state after the round of learning that follows the transitions of this iteration (int64 scalar)."""
        return self._updates(state, iteration + 1, rng.fold_in(self._key(state, iteration), 1))

    def policy(self, state: PolicyState, obs: tf.Tensor) -> tf.Tensor:
        """The deterministic actions float32[n, A] or int32[n] for observations [n, ...]; evaluation takes them."""
        return self.algo.policy(state.algo, self.normalizer.observations(state.normalizer, obs))

    @property
    def learning_start_iteration(self) -> int:
        """The first iteration that may learn: by then `learning_starts` transitions are stored."""
        return -(-self.algo.learning_starts // self.algo.spec.num_envs)

    def reset_metrics(self, state: TrainState) -> TrainState:
        """The state with all sums behind the metrics set to 0; unfinished episodes stay."""
        episodes, totals = reset(state.episodes, state.totals)
        return state._replace(episodes=episodes, totals=totals)

    def metrics(self, state: TrainState) -> dict[str, tf.Tensor]:
        """The metrics since `reset_metrics`: float32 scalars by name, NaN where nothing happened."""
        return means(state.episodes, state.totals)

    def _updates(self, state: TrainState, iteration: tf.Tensor, key: Key) -> TrainState:
        """All gradient steps of a round; `iteration` includes the newest transitions."""

        def step(i: tf.Tensor, state: TrainState) -> tuple[tf.Tensor, TrainState]:
            return i + 1, self._update(state, iteration, rng.fold_in(key, i), i)

        if self.algo.updates == 1:
            state = self._update(state, iteration, key, 0)
        else:
            state = tf.while_loop(lambda i, _: i < self.algo.updates, step, (tf.constant(0), state))[1]
        return state._replace(normalizer=self.normalizer.commit(state.normalizer))

    def _update(self, state: TrainState, iteration: tf.Tensor, key: Key, i: tf.Tensor | int) -> TrainState:
        """The state after gradient step i of the round, on a new batch."""
        sample_key, update_key = tf.unstack(rng.split(key, 2))
        progress = self.progress(state, iteration)
        before = progress.update - self.algo.updates  # `iteration` includes this round
        progress = progress._replace(update=before + tf.cast(i, tf.int64))
        batch = self._sampled(state, sample_key, progress)
        algo, metrics, priority = self.algo.update(state.algo, batch, update_key, progress)
        buffer = self.buffer.update_priorities(state.buffer, batch, priority)
        return state._replace(algo=algo, buffer=buffer, totals=add_metrics(state.totals, metrics))

    def _sampled(self, state: TrainState, key: Key, progress: Progress) -> Batch:
        """A batch with normalized observations and rewards; the buffer stores raw ones."""
        sample: Callable[..., Batch] = self.buffer.sample
        rewards = partial(self.normalizer.rewards, state.normalizer)
        arguments = state.buffer, key, self.algo.batch_size, self.algo.gamma, progress
        if "rewards" in inspect.signature(sample).parameters:
            batch = sample(*arguments, rewards=rewards)  # each reward by itself, before several are summed
        else:
            batch = sample(*arguments)
            batch = batch._replace(reward=rewards(batch.reward))
        return batch._replace(
            obs=self.normalizer.observations(state.normalizer, batch.obs),
            next_obs=self.normalizer.observations(state.normalizer, batch.next_obs),
        )

    def progress(self, state: TrainState, iteration: tf.Tensor) -> Progress:
        """What schedules see at this iteration, int64 scalar."""
        updates = tf.maximum(self.updates_by(iteration), 0)
        return Progress(iteration * self.algo.spec.num_envs, state.episodes.finished, updates)

    def updates_by(self, iteration: tf.Tensor) -> tf.Tensor:
        """Gradient steps in so many iterations, int64 scalars or Python's; below 0 before learning starts."""
        every = self.algo.update_every
        return (iteration // every - self.learning_start_iteration // every) * self.algo.updates

    def _key(self, state: TrainState, iteration: tf.Tensor) -> Key:
        return rng.fold_in(state.key, iteration)

    def example_row(self) -> Tree:
        """A transition without leading axis, from which the buffer takes shapes and types."""
        spec = self.algo.spec
        obs = tf.zeros(spec.observation_space.shape)
        action = self._random_action(rng.key(0))[0]
        flag = tf.constant(False)
        return transition(TimeStep(obs, flag), action, StepResult(tf.constant(0.0), flag, flag, obs))

    def _random_action(self, key: Key) -> tf.Tensor:
        spec = self.algo.spec
        if hasattr(spec.action_space, "n"):
            return tf.cast(rng.randint(key, (spec.num_envs,), spec.num_actions), tf.int32)
        return rng.uniform(key, (spec.num_envs, *spec.action_space.shape), -1.0, 1.0)
