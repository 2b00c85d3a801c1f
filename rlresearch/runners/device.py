"""Environment and learning in one XLA program."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.envs.device import DeviceEnv
from rlresearch.envs.task import Task
from rlresearch.runners.loop import CompiledLoop
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep, TrainState
from rlresearch.types import Key
from rlresearch.xla import barrier


def device_init(trainer: TrainingStep, env: DeviceEnv, key: Key) -> TrainState:
    """The state before the first step of the run that `key` stands for."""
    learn_key, env_key = tf.unstack(rng.split(key, 2))
    return trainer.init(learn_key, *env.init(env_key))


def device_collect(
    trainer: TrainingStep, env: DeviceEnv, learning: bool, state: TrainState, iteration: tf.Tensor
) -> TrainState:
    """The one step but for learning, with the compiled environment inside. iteration: int64 scalar."""
    action, state = trainer.act(state, iteration, learning)
    env_state, outcome, timestep = barrier(lambda: env.step(state.env, action), iteration)
    return trainer.collect(state, action, outcome, timestep, env_state)


class DeviceRunner(Runner):
    """One run, entirely on the device; returns to Python between calls of `advance`."""

    def __init__(self, trainer: TrainingStep, task: Task, seed: int) -> None:
        self.members, self.iteration, self.learning_start_iteration = (seed,), 0, trainer.learning_start_iteration
        env = DeviceEnv(task)
        state = device_init(trainer, env, rng.key(seed))
        self._loop = CompiledLoop(
            state,
            partial(device_collect, trainer, env),
            trainer.learn_now,
            trainer.learning_start_iteration,
            trainer.algo.update_every,
            trainer.reset_metrics,
        )
        # Concrete: TensorFlow warns of functions traced again in every run.
        self._row = tf.function(lambda: trainer.metrics(self.state()), autograph=False).get_concrete_function()
        self._policy = tf.function(
            lambda obs: trainer.policy(self.state(), obs), autograph=False, reduce_retracing=True
        )

    def state(self) -> TrainState:
        """The state as it is now, without an axis of members."""
        return self._loop.store.read()

    def restore(self, iteration: int, state: TrainState, extra_state: Mapping[str, np.ndarray]) -> None:
        """Goes on from a saved state of the same shapes."""
        self._loop.restore(iteration, state)
        self.iteration = iteration

    def advance(self, iterations: int, reset_metrics: bool) -> None:
        """Runs that many iterations in one compiled call. reset_metrics: first, the sums behind `metrics`."""
        self._loop.advance(iterations, reset_metrics)
        self.iteration += iterations

    def metrics(self) -> list[dict[str, float]]:
        """The metrics since they were reset, by name, in one dictionary."""
        return [{name: float(value) for name, value in self._row().items()}]

    def policy(self, obs: np.ndarray) -> np.ndarray:
        """Deterministic actions [1, n, ...] for observations [1, n, ...]."""
        return self._policy(obs[0]).numpy()[None]
