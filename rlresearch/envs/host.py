"""Gymnasium environments, stepped from Python: seeded episode by episode, checked, rescaled.

Vector environments run with automatic reset off: what `step` returns is the end of an episode and
never the start of the next, which `HostEnv.step` begins itself, from a seed of its own. So the
final observation needs no detour through `info`, and no transition crosses episodes.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from rlresearch import rng
from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.episode_log import EpisodeLog, EpisodeLogs, stack_logs
from rlresearch.envs.processes import ProcessEnvs
from rlresearch.envs.replay import AT_MOST_S, Finding, ReplayCheck, replays
from rlresearch.envs.task import Task
from rlresearch.envs.vector import SyncEnvs, VectorEnv
from rlresearch.errors import RunError


class HostStep(NamedTuple):
    """One step of all copies as arrays, N first; `obs` is where the next step begins."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    obs: np.ndarray


class HostEnv:
    """`num_envs` Gymnasium environments; episode e of copy i is reset with a seed made from both.

    keys: uint32[N, 2], one key a copy, as `DeviceEnv` uses them. With `env.reseed=false` only a copy's first episode
    has a seed.
    """

    def __init__(self, task: Task, keys: np.ndarray) -> None:
        makers = [partial(_made, task, place) for place in range(task.num_envs)]
        alone = task.vectorization == "sync"
        self._envs: VectorEnv = SyncEnvs(makers) if alone else ProcessEnvs(task, makers, task.timeout_s)
        self._task, self._keys = task, keys
        self._episode = np.zeros(task.num_envs, np.int64)
        self._logs: list[EpisodeLog] = []
        self._check = ReplayCheck(task)

    def reset(self) -> np.ndarray:
        """First observations float32[N, ...]."""
        obs = self._envs.reset(self._seeds(), np.ones(self._task.num_envs, bool))
        self._logs = [EpisodeLog(each) for each in obs]
        return obs

    def step(self, action: np.ndarray) -> HostStep:
        """Applies actions [-1, 1] float32[N, A], or discrete ones from 0 int32[N]; copies whose episode ended begin the
        next one.
        """
        next_obs, reward, terminated, truncated = self._envs.step(action)
        for log, *step in zip(self._logs, action, next_obs, reward, strict=True):
            log.note(*step)
        done = terminated | truncated
        obs = next_obs
        if done.any():
            if done[0] and self._check.due(int(self._episode[0])):
                self._check.finished(self._logs[0], self._seeds()[0], int(self._episode[0]))
            self._episode += done
            obs = self._begun(done)
        return HostStep(reward, terminated, truncated, next_obs, obs)

    def _begun(self, which: np.ndarray) -> np.ndarray:
        """All observations, after the copies `which` bool[N] have begun an episode."""
        seeds = self._seeds() if self._task.reseed else [None] * len(which)
        obs = self._envs.reset(seeds, which)
        for i in np.flatnonzero(which):
            self._logs[i] = EpisodeLog(obs[i])
        return obs

    @property
    def finding(self) -> Finding | None:
        """Why these environments may not come back to where they are, as far as that has shown."""
        for log, episode in zip(self._logs, self._episode, strict=True):
            if log.too_long:
                self._check.too_long(int(episode))
        return self._check.finding

    @property
    def between_episodes(self) -> bool:
        """Whether every copy stands at the start of an episode."""
        return not any(log.length for log in self._logs)

    @property
    def in_later_episode(self) -> bool:
        """Whether the first copy is some steps into an episode that is not its first."""
        return bool(self._episode[0] > 0 and self._logs[0].length)

    @property
    def too_long(self) -> bool:
        """Whether the actions of a running episode are kept no longer."""
        return any(log.too_long for log in self._logs)

    def logs(self, obs: np.ndarray, action: np.ndarray) -> EpisodeLogs:
        """What leads back to here. obs: float32[N, ...], action: [N, A] or [N], the newest of all copies."""
        return stack_logs(self._logs, self._episode, obs, action)

    def replays(self) -> bool:
        """Whether the first copy's running episode, done over again in a new environment, is the same.

        True also where that cannot be tried: going back to it compares again.
        """
        same = replays(self._task, self._logs[0], self._seeds()[0], AT_MOST_S)
        if same is False:
            self._check.found(int(self._episode[0]))
        return same is not False

    def restore(self, logs: EpisodeLogs) -> None:
        """Goes back to where `logs` lead. Errors: RunError naming the environment, where they lead elsewhere."""
        self._episode = logs.episode.copy()
        self._logs = self._envs.replay(list(zip(self._seeds(), logs.split_actions(), strict=True)))
        for i, (log, digest) in enumerate(zip(self._logs, logs.digests, strict=True)):
            if (log.digest != digest).any():
                raise RunError(
                    f"environment '{self._task.id}' does not replay: the {log.length} actions of episode "
                    f"{logs.episode[i]} of copy {i} lead elsewhere than before, though it was reset with the same "
                    "seed. To go on with new episodes: checkpoint.episodes=fresh"
                )

    def begin_after(self, logs: EpisodeLogs) -> np.ndarray:
        """Begins an episode in every copy, in place of those that `logs` lead back to: first observations [N, ...].

        Each is numbered after the one that it takes the place of, and has a seed of its own.
        """
        too_long = ~logs.digests.any(axis=1)
        self._episode = logs.episode + ((logs.lengths > 0) | too_long)
        return self.reset()

    def close(self) -> None:
        """Closes the environments, in bounded time and without an error."""
        self._envs.close()

    def _seeds(self) -> list[int]:
        return episode_seeds(self._keys, self._episode)


def _made(task: Task, place: int) -> CheckedEnv:
    """The environment at a place among its copies."""
    return CheckedEnv(task.make(), task.id, place, task.num_envs)


def episode_seeds(keys: np.ndarray, episode: np.ndarray) -> list[int]:
    """N Gymnasium reset seeds in [0, 2**31), which every environment takes. keys: uint32[N, 2]; episode: int64[N]."""
    return (rng.folded_in(keys, episode)[:, 1] >> 1).tolist()
