"""A Gymnasium environment stepped from Python, one compiled call per step for everything else."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.buffer_contract import Endable
from rlresearch.envs.episode_log import EpisodeLogs
from rlresearch.envs.host import HostEnv, HostStep
from rlresearch.envs.replay import Finding
from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep, TrainState
from rlresearch.runners.store import Store
from rlresearch.runtime import heartbeat
from rlresearch.types import Buffer, StepResult, TimeStep
from rlresearch.xla import barrier


class HostRunner(Runner):
    """One run in Gymnasium's own environment.

    Between two environment steps there is one call: it stores the transition, learns when it is time
    and acts on the next observation. What a step led to is passed in one array, as each argument
    costs 20 us.
    """

    def __init__(self, trainer: TrainingStep, task: Task, seed: int) -> None:
        self.members, self.learning_start_iteration = (seed,), trainer.learning_start_iteration
        self.iteration = 0
        self._trainer, self._task = trainer, task
        learn_key, env_key = tf.unstack(rng.split(rng.key(seed), 2))
        self._obs_shape = trainer.algo.spec.observation_space.shape
        self._keys = rng.split(env_key, task.num_envs).numpy()
        self._env = HostEnv(task, self._keys)
        timestep = TimeStep(tf.constant(self._env.reset()), tf.ones(task.num_envs, tf.bool))
        state = trainer.init(learn_key, (), timestep)
        action, state = trainer.act(state, tf.constant(0, tf.int64), trainer.learning_start_iteration == 0)
        self._action = action.numpy()
        self._left: dict[str, np.ndarray] = {}  # what led back to episodes that are not gone on with
        self._replays = 0  # how often the environment was seen to replay; -1: it does not
        self._store = Store((tf.constant(0, tf.int64), action, state))
        self._transit = cache(self._compiled)
        self._reset_metrics = tf.function(self._begin_row, jit_compile=True, autograph=False)
        # Concrete: TensorFlow warns of functions traced again in every run.
        self._row = tf.function(lambda: trainer.metrics(self.state()), autograph=False).get_concrete_function()
        self._policy = tf.function(
            lambda obs: trainer.policy(self.state(), obs), autograph=False, reduce_retracing=True
        )

    def state(self) -> TrainState:
        """The state as it is now, without an axis of members."""
        return self._store.read()[2]

    def extra_state(self) -> dict[str, np.ndarray]:
        """What leads the environments back to where they are now, and the action that is next."""
        if self._left:
            return self._left
        logs = self._env.logs(self.state().timestep.obs.numpy(), self._action)
        return {"action": self._action, **{f"env.{name}": part for name, part in logs._asdict().items()}}

    def restore(self, iteration: int, state: TrainState, extra_state: Mapping[str, np.ndarray]) -> None:
        """Goes on from a saved state of the same shapes. RunError where an environment does not come back."""
        if self.fresh_episodes:
            self._left = dict(extra_state)
        else:
            self._env.restore(_logs(extra_state))
        self._action, self.iteration = extra_state["action"], iteration
        self._store.write((tf.constant(iteration, tf.int64), tf.constant(self._action), state))

    @contextlib.contextmanager
    def without_environments(self) -> Iterator[None]:
        """Within it the environments are closed; after it others are brought to where they were. RunError if not."""
        logs = _logs(self.extra_state())
        self._env.close()
        yield
        self._env = HostEnv(self._task, self._keys)
        self._env.restore(logs)

    def begin_episodes(self) -> bool:
        """Leaves the episodes of a restored state unfinished and begins others; returns whether any was left.

        Their last rows become truncated ones: a value continues, and no sum of rewards runs into another episode.
        """
        if not self._left:
            return False
        logs, state = _logs(self._left), self.state()
        obs = self._env.begin_after(logs)
        left = (obs != logs.obs).reshape(len(obs), -1).any(axis=1) | (logs.lengths > 0)
        state = _without_episodes(self._trainer.buffer, state, tf.constant(left), tf.constant(obs))
        learning = self.iteration >= self._trainer.learning_start_iteration
        action, state = self._trainer.act(state, tf.constant(self.iteration, tf.int64), learning)
        self._action, self._left = action.numpy(), {}
        self._store.write((tf.constant(self.iteration, tf.int64), action, state))
        self.replacements += 1
        return bool(left.any())

    @property
    def finding(self) -> Finding | None:
        """What has shown of the environments: see `envs/replay.py`."""
        return self._env.finding

    @property
    def resumable_soon(self) -> bool:
        """Whether the end of a running episode is worth waiting for: not where it is very long, or has no seed."""
        return self._task.reseed and not self._env.too_long

    @property
    def resumable_here(self) -> bool:
        """Whether `extra_state` leads back to here: where an environment does not replay, only between episodes.

        Tried with a new environment at first, and once more in an episode that is not the first.
        """
        if self.fresh_episodes:
            return True
        if not self._task.reseed or self._env.too_long:
            return False
        if self._replays < 2 and not self._env.between_episodes:
            if self._replays == 0 or (self._replays == 1 and self._env.in_later_episode):
                tried = 2 if self._env.in_later_episode else 1
                self._replays = tried if self._env.replays() else -1
        return self._replays > 0 or self._env.between_episodes

    def advance(self, iterations: int, reset_metrics: bool) -> None:
        """Runs that many iterations. reset_metrics: first, the sums behind `metrics`.

        Errors: RunError where an environment fails.
        """
        if reset_metrics:
            self._reset_metrics()
        for _ in range(iterations):
            heartbeat.total(self.iteration * self._action.shape[0])
            packed = tf.constant(_packed(self._env.step(self._action)))
            silent = self._trainer.learning_start_iteration
            transit = self._transit(self.iteration >= silent, self.iteration + 1 >= silent)
            self._action = transit(packed).numpy()
            self.iteration += 1

    def metrics(self) -> list[dict[str, float]]:
        """The metrics since they were reset, by name, in one dictionary."""
        return [{name: float(value) for name, value in self._row().items()}]

    def policy(self, obs: np.ndarray) -> np.ndarray:
        """Deterministic actions [1, n, ...] for observations [1, n, ...]."""
        return self._policy(obs[0]).numpy()[None]

    def close(self) -> None:
        """Closes the environments."""
        self._env.close()

    def _compiled(self, learning: bool, learning_next: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        """What follows a step of the environments, for one pair of flags.

        A concrete function: finding it anew by its arguments would cost 50 us a call.
        """
        width = 3 + 2 * math.prod(self._obs_shape)
        return tf.function(
            lambda packed: self._learn_and_act(packed, learning, learning_next), jit_compile=True, autograph=False
        ).get_concrete_function(tf.TensorSpec((self._action.shape[0], width)))

    def _learn_and_act(self, packed: tf.Tensor, learning: bool, learning_next: bool) -> tf.Tensor:
        iteration, action, state = self._store.read()
        # Behind the barrier, what is stored is copied together; in front of it, computed number by number.
        action, state = barrier(
            lambda: self._step(iteration, action, state, *self._unpacked(packed), learning, learning_next), iteration
        )
        self._store.write((iteration + 1, action, state))
        return action

    def _step(
        self,
        iteration: tf.Tensor,
        action: tf.Tensor,
        state: TrainState,
        outcome: StepResult,
        timestep: TimeStep,
        learning: bool,
        learning_next: bool,
    ) -> tuple[tf.Tensor, TrainState]:
        state = self._trainer.collect(state, action, outcome, timestep, ())
        state = self._trainer.learn(state, iteration) if learning else state
        return self._trainer.act(state, iteration + 1, learning_next)

    def _begin_row(self) -> None:
        iteration, action, state = self._store.read()
        self._store.write((iteration, action, self._trainer.reset_metrics(state)))

    def _unpacked(self, packed: tf.Tensor) -> tuple[StepResult, TimeStep]:
        width = math.prod(self._obs_shape)
        reward, terminated, truncated, next_obs, obs = tf.split(packed, [1, 1, 1, width, width], axis=1)
        terminated, truncated = terminated[:, 0] > 0, truncated[:, 0] > 0
        shaped = lambda flat: tf.reshape(flat, (-1, *self._obs_shape))  # noqa: E731
        outcome = StepResult(reward[:, 0], terminated, truncated, shaped(next_obs))
        return outcome, TimeStep(shaped(obs), tf.logical_or(terminated, truncated))


def _without_episodes(buffer: Buffer, state: TrainState, left: tf.Tensor, obs: tf.Tensor) -> TrainState:
    """The state after the environments `left` bool[N] have begun another episode; obs: [N, ...], what all show now."""
    if not isinstance(buffer, Endable):
        raise RunError(f"{type(buffer).__name__} has no end_episodes, which checkpoint.episodes=fresh needs")
    stay = 1.0 - tf.cast(left, tf.float32)
    running = state.episodes
    return state._replace(
        buffer=buffer.end_episodes(state.buffer, left),
        timestep=TimeStep(obs, tf.logical_or(state.timestep.first, left)),
        episodes=running._replace(run_return=running.run_return * stay, run_length=running.run_length * stay),
    )


def _logs(extra_state: Mapping[str, np.ndarray]) -> EpisodeLogs:
    return EpisodeLogs(**{name: extra_state[f"env.{name}"] for name in EpisodeLogs._fields})


def _packed(step: HostStep) -> np.ndarray:
    """float32[N, 3 + 2 * observation]: reward, both end flags, the last and the next observation."""
    rows = len(step.reward)
    columns = (step.reward, step.terminated, step.truncated)
    flat = [np.reshape(column, (rows, -1)) for column in (*columns, step.next_obs, step.obs)]
    return np.concatenate(flat, axis=1, dtype=np.float32)
