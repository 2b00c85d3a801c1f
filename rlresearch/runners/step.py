"""The one training step, as pure functions of `RunState`.

    act      -> an exploring action for what is seen
    collect  -> stores what came of it
    learn    -> takes gradient steps; not called before there is enough to learn from

The device runner puts the compiled environment between the first two, the host runner a Gymnasium
environment, the population runner maps all over members. Nothing here knows which.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import tensorflow as tf

from rlresearch import rng
from rlresearch.normalize import AsIs, Normalizer
from rlresearch.types import Algorithm, Batch, Buffer, Key, Outcome, Progress, TimeStep, Tree, transition

EPISODE_METRICS = {
    "train/return": "undiscounted, mean of the exploring policy's episodes since the last row, in units of return",
    "train/length": "mean length of those episodes, in steps",
    "train/episodes": "how many episodes have finished since the run began, in episodes",
}


# Of RunState, by dotted path: what begins anew with every row, and so depends on where rows are written.
OF_THE_ROW = ("totals", "episodes.ended", "episodes.return_sum", "episodes.length_sum")


class Episodes(NamedTuple):
    """Running episodes (float32[N]) and what ended ones add up to since the last row (scalars).

    `finished` counts every ended episode of the run; float32 holds it exactly up to 2**24.
    """

    run_return: tf.Tensor
    run_length: tf.Tensor
    finished: tf.Tensor
    ended: tf.Tensor
    return_sum: tf.Tensor
    length_sum: tf.Tensor


class Totals(NamedTuple):
    """Sums of the algorithm's metrics, and how many gradient steps they add up."""

    sums: dict[str, tf.Tensor]
    count: tf.Tensor


class RunState(NamedTuple):
    """Everything a run remembers. Saving it is checkpointing, stacking it is a sweep.

    key never changes: the draws of iteration t come from fold_in(key, t).
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
    """The part of a `RunState` that the deterministic policy is made of."""

    @property
    def algo(self) -> Tree: ...

    @property
    def normalizer(self) -> Tree: ...


@dataclass(frozen=True)
class Trainer:
    """The step for one algorithm and one buffer. `iteration` counts rounds of `num_envs` transitions."""

    algo: Algorithm
    buffer: Buffer
    normalizer: Normalizer = field(default_factory=AsIs)

    def init(self, key: Key, env: Tree, timestep: TimeStep) -> RunState:
        """The state before the first step; `env` is whatever the runner's environment remembers."""
        algo_key, run_key = tf.unstack(rng.split(key, 2))
        return RunState(
            key=run_key,
            algo=self.algo.init(algo_key),
            buffer=self.buffer.init(self.example_row(), self.algo.spec.num_envs),
            normalizer=self.normalizer.init(self.algo.spec),
            env=env,
            timestep=timestep,
            episodes=self._no_episodes(),
            totals=self._no_totals(),
        )

    def act(self, state: RunState, iteration: tf.Tensor, learning: bool) -> tuple[tf.Tensor, RunState]:
        """Exploring actions [N, ...] for `state.timestep`; uniform ones while not `learning`, if so wanted."""
        key = rng.fold_in(self._key(state, iteration), 0)
        if self.algo.random_start and not learning:
            return self._random_action(key), state
        seen = state.timestep._replace(obs=self.normalizer.observations(state.normalizer, state.timestep.obs))
        action, algo = self.algo.act(state.algo, seen, key, self.progress(state, iteration))
        return action, state._replace(algo=algo)

    def collect(self, state: RunState, action: tf.Tensor, outcome: Outcome, timestep: TimeStep, env: Tree) -> RunState:
        """Stores the transition and counts episodes. `timestep`, `env`: what comes next."""
        rows = transition(state.timestep, action, outcome)
        normalizer = self.normalizer.observe(state.normalizer, state.timestep, outcome, self.algo.gamma)
        return state._replace(
            buffer=self.buffer.add(state.buffer, rows),
            normalizer=normalizer,
            env=env,
            timestep=timestep,
            episodes=_count_episodes(state.episodes, outcome),
        )

    def learn(self, state: RunState, iteration: tf.Tensor) -> RunState:
        """A round of learning, if one follows this iteration; not before `silent_iterations` are over."""
        if self.algo.update_every == 1:
            return self.learn_now(state, iteration)
        due = tf.equal((iteration + 1) % self.algo.update_every, 0)
        return tf.cond(due, lambda: self.learn_now(state, iteration), lambda: state)

    def learn_now(self, state: RunState, iteration: tf.Tensor) -> RunState:
        """The round of learning that follows this iteration's transitions."""
        return self._updates(state, iteration + 1, rng.fold_in(self._key(state, iteration), 1))

    def policy(self, state: PolicyState, obs: tf.Tensor) -> tf.Tensor:
        """The deterministic actions [n, ...] for observations [n, ...], as they are evaluated."""
        return self.algo.policy(state.algo, self.normalizer.observations(state.normalizer, obs))

    @property
    def silent_iterations(self) -> int:
        """How many iterations come before the first that may learn: those of `learning_starts` transitions."""
        return -(-self.algo.learning_starts // self.algo.spec.num_envs)

    def fresh_row(self, state: RunState) -> RunState:
        """The state with the sums behind a metrics row begun again; running episodes go on."""
        zero = tf.zeros_like(state.episodes.ended)
        episodes = state.episodes._replace(ended=zero, return_sum=zero, length_sum=zero)
        return state._replace(episodes=episodes, totals=tf.nest.map_structure(tf.zeros_like, state.totals))

    def row(self, state: RunState) -> dict[str, tf.Tensor]:
        """The metrics since `fresh_row`, float32 scalars by name; NaN where nothing happened."""
        episodes, totals = state.episodes, state.totals
        return {
            "train/return": episodes.return_sum / episodes.ended,
            "train/length": episodes.length_sum / episodes.ended,
            "train/episodes": episodes.finished,
            **{name: total / totals.count for name, total in totals.sums.items()},
        }

    def _updates(self, state: RunState, iteration: tf.Tensor, key: Key) -> RunState:
        if self.algo.updates == 1:
            state = self._update(state, iteration, key, 0)
        else:
            body = lambda i, state: (i + 1, self._update(state, iteration, rng.fold_in(key, i), i))  # noqa: E731
            state = tf.while_loop(lambda i, _: i < self.algo.updates, body, (tf.constant(0), state))[1]
        return state._replace(normalizer=self.normalizer.moved(state.normalizer))

    def _update(self, state: RunState, iteration: tf.Tensor, key: Key, i: tf.Tensor | int) -> RunState:
        """Gradient step i of this iteration's round."""
        sample_key, update_key = tf.unstack(rng.split(key, 2))
        progress = self.progress(state, iteration)
        before = progress.update - self.algo.updates  # `iteration` already counts this round
        progress = progress._replace(update=before + tf.cast(i, tf.int64))
        batch = self.buffer.sample(state.buffer, sample_key, self.algo.batch_size, self.algo.gamma, progress)
        batch = self._shown(state, batch)
        algo, metrics, priority = self.algo.update(state.algo, batch, update_key, progress)
        buffer = self.buffer.learned(state.buffer, batch, priority)
        sums = {name: total + metrics[name] for name, total in state.totals.sums.items()}
        return state._replace(algo=algo, buffer=buffer, totals=Totals(sums, state.totals.count + 1.0))

    def _shown(self, state: RunState, batch: Batch) -> Batch:
        """The batch as the algorithm sees it."""
        own, part = state.normalizer, self.normalizer
        obs, next_obs = part.observations(own, batch.obs), part.observations(own, batch.next_obs)
        return batch._replace(obs=obs, next_obs=next_obs, reward=part.rewards(own, batch.reward))

    def progress(self, state: RunState, iteration: tf.Tensor) -> Progress:
        every = self.algo.update_every
        rounds = tf.maximum(iteration // every - self.silent_iterations // every, 0)
        return Progress(iteration * self.algo.spec.num_envs, state.episodes.finished, rounds * self.algo.updates)

    def _key(self, state: RunState, iteration: tf.Tensor) -> Key:
        return rng.fold_in(state.key, iteration)

    def example_row(self) -> Tree:
        spec = self.algo.spec
        obs = tf.zeros(spec.observation_space.shape)
        action = self._random_action(rng.key(0))[0]
        flag = tf.constant(False)
        return transition(TimeStep(obs, flag), action, Outcome(tf.constant(0.0), flag, flag, obs))

    def _random_action(self, key: Key) -> tf.Tensor:
        spec = self.algo.spec
        if hasattr(spec.action_space, "n"):
            return tf.cast(rng.randint(key, (spec.num_envs,), spec.num_actions), tf.int32)
        return rng.uniform(key, (spec.num_envs, *spec.action_space.shape), -1.0, 1.0)

    def _no_episodes(self) -> Episodes:
        running, zero = tf.zeros(self.algo.spec.num_envs), tf.constant(0.0)
        return Episodes(running, running, zero, zero, zero, zero)

    def _no_totals(self) -> Totals:
        return Totals({name: tf.constant(0.0) for name in self.algo.METRICS}, tf.constant(0.0))


def _count_episodes(episodes: Episodes, outcome: Outcome) -> Episodes:
    done = tf.cast(tf.logical_or(outcome.terminated, outcome.truncated), tf.float32)
    run_return = episodes.run_return + outcome.reward
    run_length = episodes.run_length + 1.0
    ended = tf.reduce_sum(done)
    return Episodes(
        run_return=run_return * (1.0 - done),
        run_length=run_length * (1.0 - done),
        finished=episodes.finished + ended,
        ended=episodes.ended + ended,
        return_sum=episodes.return_sum + tf.reduce_sum(done * run_return),
        length_sum=episodes.length_sum + tf.reduce_sum(done * run_length),
    )
