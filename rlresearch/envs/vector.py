"""The copies of an environment that are stepped together: one after the other here, or each in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.episode_log import EpisodeLog
from rlresearch.runtime import heartbeat

Maker = Callable[[], CheckedEnv]
# Observations float32[N, ...] (a copy), rewards float32[N], terminated bool[N], truncated bool[N].
Steps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class VectorEnv(Protocol):
    """N copies. Infos stay where they arise: nothing here asks for them. Errors: RunError that names the copy."""

    def reset(self, seeds: Sequence[int | None], which: np.ndarray) -> np.ndarray:
        """Begins episodes where `which` bool[N] says so; returns all observations float32[N, ...], a copy."""
        ...

    def step(self, actions: np.ndarray) -> Steps:
        """Steps all copies by actions [N, ...]."""
        ...

    def replay(self, parts: Sequence[tuple[int, np.ndarray]]) -> list[EpisodeLog]:
        """Does one episode of each copy over again. parts: (seed, actions [T, A] or [T]) of each."""
        ...

    def close(self) -> None:
        """Closes all copies, in bounded time and without an error; may be called again."""
        ...


class SyncEnvs:
    """Environments stepped one after the other: what is used here of Gymnasium's SyncVectorEnv, at half its cost."""

    def __init__(self, makers: Sequence[Maker]) -> None:
        self._envs: list[CheckedEnv] = []
        with contextlib.ExitStack() as made:
            made.callback(self.close)
            for make in makers:
                with heartbeat.waiting(step=heartbeat.MAKING):
                    self._envs.append(make())
            made.pop_all()  # all are there: nothing to close
        self._obs = np.zeros((len(makers), *(self._envs[0].observation_space.shape or ())), np.float32)

    def reset(self, seeds: Sequence[int | None], which: np.ndarray) -> np.ndarray:
        """Observations float32[N, ...] of all, once those of `which`, bool[N], are reset. seeds: of each, or None."""
        for index in np.flatnonzero(which).tolist():
            self._obs[index] = self._envs[index].reset(seed=seeds[index])[0]
        return self._obs.copy()

    def step(self, actions: np.ndarray) -> Steps:
        """(observations float32[N, ...], reward float32[N], terminated, truncated bool[N]). actions: [N, A] or [N]."""
        steps = [env.step(action) for env, action in zip(self._envs, actions, strict=True)]
        for index, step in enumerate(steps):
            self._obs[index] = step[0]
        _, reward, terminated, truncated, _ = zip(*steps, strict=True)
        return self._obs.copy(), np.array(reward, np.float32), np.array(terminated), np.array(truncated)

    def replay(self, parts: Sequence[tuple[int, np.ndarray]]) -> list[EpisodeLog]:
        """Does an episode over again in each environment. parts: (seed, actions [T, A] or [T]) of each."""
        return [env.replay(seed, actions) for env, (seed, actions) in zip(self._envs, parts, strict=True)]

    def close(self) -> None:
        """Closes the environments."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()
