"""Gymnasium environments, stepped from Python: seeded episode by episode, checked, rescaled.

Vector environments run with automatic reset off: what `step` returns is the end of an episode and
never the start of the next, which `HostEnv.step` begins itself, from a seed of its own. So the
final observation needs no detour through `info`, and no transition crosses episodes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np

from rlresearch import rng
from rlresearch.envs.episode_log import EpisodeLog, EpisodeLogs, stack_logs
from rlresearch.envs.task import Task
from rlresearch.envs.worker import ignore_signals
from rlresearch.errors import RunError
from rlresearch.runtime import heartbeat


class HostStep(NamedTuple):
    """One step of all copies as arrays, N first; `obs` is where the next step begins."""

    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    next_obs: np.ndarray
    obs: np.ndarray


class CheckedEnv(gym.Wrapper):
    """One environment as algorithms see it: actions in [-1, 1] or counted from 0, float32 observations, no surprises.

    What an environment gets wrong (an exception, a wrong shape, NaN or infinity) becomes one
    RunError that names it, so that it is never learned from.
    """

    def __init__(self, env: gym.Env, name: str, place: int = 0) -> None:
        super().__init__(env)
        self._name, self.place = name, place
        self._discrete = isinstance(env.action_space, gym.spaces.Discrete)
        if isinstance(env.action_space, gym.spaces.Discrete):
            self._start = int(env.action_space.start)
            self.action_space = gym.spaces.Discrete(int(env.action_space.n))
        else:
            assert isinstance(env.action_space, gym.spaces.Box)  # `Task.spec` refuses all others
            low, high = env.action_space.low, env.action_space.high
            self._low, self._high, self._middle, self._half = low, high, (high + low) / 2, (high - low) / 2
            self.action_space = gym.spaces.Box(-1.0, 1.0, env.action_space.shape, np.float32)
        self._shape = env.observation_space.shape or ()  # None where a space has no shape of its own
        self._few = len(self._shape) == 1 and self._shape[0] <= _FEW
        self._steps, self._seed = 0, -1
        self._action: np.ndarray | int | tuple[()] = ()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, self._shape, np.float32)

    def reset(self, **kwargs) -> tuple[np.ndarray, dict]:
        """(observation float32[...], info). Errors: RunError naming the environment and its seed."""
        self._steps, self._action = 0, ()
        self._seed = -1 if kwargs.get("seed") is None else kwargs["seed"]
        heartbeat.enter(self._seed, 0, ())
        try:
            obs, info = self.env.reset(**kwargs)
        except Exception as error:
            raise self._failed("raised in reset", error) from error
        finally:
            heartbeat.leave()
        return self._checked(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """(observation float32[...], reward, terminated, truncated, info).

        action: float32[A] in [-1, 1], or an int from 0. Errors: RunError naming the environment, its step and action.
        """
        self._steps += 1
        self._action = self.unscale_action(action)
        heartbeat.enter(self._seed, self._steps, self._action)
        try:
            obs, reward, terminated, truncated, info = self.env.step(self._action)
        except Exception as error:
            raise self._failed("raised", error) from error
        finally:
            heartbeat.leave()
        if (expected := _unlike_reward(reward)) is not None:
            raise self._failed(f"returned reward {reward!r}, expected {expected}")
        if not (isinstance(terminated, _FLAGS) and isinstance(truncated, _FLAGS)):
            told = f"terminated {terminated!r} and truncated {truncated!r}"
            raise self._failed(f"returned {told}, expected true or false")
        return self._checked(obs), float(reward), bool(terminated), bool(truncated), info

    def replay(self, seed: int, actions: np.ndarray) -> EpisodeLog:
        """Does an episode over again, up to where its actions [T, A] or [T] end."""
        log = EpisodeLog(self.reset(seed=seed)[0])
        for action in actions:
            obs, reward, *_ = self.step(action)
            log.note(action, obs, np.float32(reward))
        return log

    def replay_at_index(self, parts: list[tuple[int, np.ndarray]]) -> EpisodeLog:
        """As `replay`. parts: (seed, actions [T, A] or [T]) of each copy; this environment takes its own."""
        return self.replay(*parts[self.place])

    def unscale_action(self, action: np.ndarray) -> np.ndarray | int:
        """The action [A], or int, as the environment takes it. action: float32[A] in [-1, 1], or an int from 0."""
        if self._discrete:
            return self._start + int(action)
        return np.minimum(np.maximum(self._middle + self._half * action, self._low), self._high)

    def _checked(self, obs: np.ndarray) -> np.ndarray:
        try:
            obs = np.asarray(obs, np.float32)
        except (TypeError, ValueError):
            raise self._failed(f"returned {type(obs).__name__} as observation, expected numbers") from None
        if obs.shape != self._shape:
            raise self._failed(f"returned an observation of shape {obs.shape}, expected {self._shape}")
        if not (all(map(math.isfinite, obs.tolist())) if self._few else np.isfinite(obs).all()):
            raise self._failed(f"returned the observation {np.array2string(obs, threshold=8)}, expected finite numbers")
        return obs

    def _failed(self, what: str, error: Exception | None = None) -> RunError:
        cause = f": {type(error).__name__}: {error}" if error is not None else ""
        action = f", action {np.array2string(np.asarray(self._action), threshold=8)}" if self._steps else ""
        where = f"at step {self._steps} of its episode{cause} (episode seed {self._seed}{action})"
        return RunError(f"environment '{self._name}' {what} {where}")


_FLAGS = (bool, np.bool_, int, np.integer)
_LARGEST = float(np.finfo(np.float32).max)
_FEW = 16  # numbers that Python looks at sooner than NumPy begins


def _unlike_reward(value: Any) -> str | None:
    """What was expected in place of a value that is no reward; None where it is one, also once it is a float32."""
    try:
        if -_LARGEST <= value <= _LARGEST and (isinstance(value, float) or np.ndim(value) == 0):
            return None
        if np.ndim(value) == 0 and -math.inf < value < math.inf:
            return f"a number that float32 holds, at most {_LARGEST:.1e} in size"
    except (TypeError, ValueError):  # text, None, a complex number, a vector
        pass
    return "one finite number"


class SyncEnvs:
    """Environments stepped one after the other: what is used here of Gymnasium's SyncVectorEnv, at half its cost."""

    def __init__(self, makers: Sequence[Callable[[], CheckedEnv]]) -> None:
        self._envs = [make() for make in makers]
        self._obs = np.zeros((len(makers), *(self._envs[0].observation_space.shape or ())), np.float32)

    def reset(self, seed: list[int], options: dict | None = None) -> tuple[np.ndarray, dict]:
        """(observations float32[N, ...], {}). seed: one an environment.

        options: `reset_mask`, bool[N], which of them are reset; None for all.
        """
        for index, env in enumerate(self._envs):
            if options is None or options["reset_mask"][index]:
                self._obs[index] = env.reset(seed=seed[index])[0]
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """(observations float32[N, ...], reward float32[N], terminated, truncated bool[N], {}). actions: [N, ...]."""
        steps = [env.step(action) for env, action in zip(self._envs, actions, strict=True)]
        for index, step in enumerate(steps):
            self._obs[index] = step[0]
        _, reward, terminated, truncated, _ = zip(*steps, strict=True)
        return self._obs.copy(), np.array(reward, np.float32), np.array(terminated), np.array(truncated), {}

    def call(self, name: str, *arguments: object) -> tuple:
        """What the method `name` of each environment returns."""
        return tuple(getattr(env, name)(*arguments) for env in self._envs)

    def close(self) -> None:
        """Closes the environments."""
        for env in self._envs:
            env.close()


class HostEnv:
    """`num_envs` Gymnasium environments; episode e of copy i is reset with a seed made from both.

    keys: uint32[N, 2], one key a copy, as `DeviceEnv` uses them.
    """

    def __init__(self, task: Task, keys: np.ndarray) -> None:
        self._envs: gym.vector.AsyncVectorEnv | SyncEnvs
        makers = [partial(_made, task, place, os.getpid()) for place in range(task.num_envs)]
        if task.vectorization == "async":
            self._envs = gym.vector.AsyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
        else:
            self._envs = SyncEnvs(makers)
        self._task, self._keys = task, keys
        self._episode = np.zeros(task.num_envs, np.int64)
        self._logs: list[EpisodeLog] = []
        self._lost = False

    def reset(self) -> np.ndarray:
        """First observations float32[N, ...]."""
        obs = self._envs.reset(seed=[*self._seeds()])[0]
        self._logs = [EpisodeLog(each) for each in obs]
        return obs

    def step(self, action: np.ndarray) -> HostStep:
        """Applies actions [-1, 1] float32[N, A], or discrete ones from 0 int32[N]; copies whose episode ended begin the
        next one.
        """
        next_obs, reward, terminated, truncated, _ = self._stepped(action)
        reward = reward.astype(np.float32)
        for log, *step in zip(self._logs, action, next_obs, reward, strict=True):
            log.note(*step)
        done = terminated | truncated
        obs = next_obs
        if done.any():
            self._episode += done
            obs, _ = self._envs.reset(seed=[*self._seeds()], options={"reset_mask": done})
            for i in np.flatnonzero(done):
                self._logs[i] = EpisodeLog(obs[i])
        return HostStep(reward, terminated, truncated, next_obs, obs)

    def _stepped(self, action: np.ndarray) -> tuple:
        if isinstance(self._envs, SyncEnvs):  # whose units tell of themselves
            return self._envs.step(action)
        try:
            with heartbeat.waiting(action=action):
                return self._envs.step(action)
        except (EOFError, ConnectionError) as error:
            self._lost = True
            what = "a process that steps one of its copies is gone; was it killed, for want of memory?"
            actions = np.array2string(action, threshold=8)
            raise RunError(f"environment '{self._task.id}': {what} (actions {actions})") from error

    @property
    def between_episodes(self) -> bool:
        """Whether every copy stands at the start of an episode."""
        return not any(log.actions for log in self._logs)

    @property
    def in_later_episode(self) -> bool:
        """Whether the first copy is some steps into an episode that is not its first."""
        return bool(self._episode[0] > 0 and self._logs[0].actions)

    def logs(self, obs: np.ndarray, action: np.ndarray) -> EpisodeLogs:
        """What leads back to here. obs: float32[N, ...], action: [N, A] or [N], the newest of all copies."""
        return stack_logs(self._logs, self._episode, obs, action)

    def replays(self) -> bool:
        """Whether the first copy's running episode, done over again in a new environment, is the same."""
        log, env = self._logs[0], None
        try:
            env = _made(self._task, 0, os.getpid())
            again = env.replay(self._seeds()[0], np.asarray(log.actions))
        except Exception:  # noqa: BLE001 (whatever an environment does of which there can be only one)
            return False
        finally:
            if env is not None:
                env.close()
        return bool((again.digest == log.digest).all())

    def restore(self, logs: EpisodeLogs) -> None:
        """Goes back to where `logs` lead. Errors: RunError naming the environment, where they lead elsewhere."""
        self._episode = logs.episode.copy()
        parts = list(zip(self._seeds(), logs.split_actions(), strict=True))
        self._logs = list(self._envs.call("replay_at_index", parts))
        for i, (log, digest) in enumerate(zip(self._logs, logs.digests, strict=True)):
            if (log.digest != digest).any():
                raise RunError(
                    f"environment '{self._task.id}' does not replay: the {len(log.actions)} actions of episode "
                    f"{logs.episode[i]} of copy {i} lead elsewhere than before, though it was reset with the same seed"
                )

    def close(self) -> None:
        """Closes the environments; where a process of theirs is gone, ends the others."""
        if not self._lost or isinstance(self._envs, SyncEnvs):
            self._envs.close()
            return
        for process in self._envs.processes:
            process.kill()
            process.join()
        self._envs.closed = True

    def _seeds(self) -> list[int]:
        return episode_seeds(self._keys, self._episode)


def _made(task: Task, place: int, parent: int) -> CheckedEnv:
    """The environment at a place among its copies, in the process `parent` or one below it."""
    if os.getpid() != parent:
        ignore_signals()
    return CheckedEnv(task.make(), task.id, place)


def episode_seeds(keys: np.ndarray, episode: np.ndarray) -> list[int]:
    """N Gymnasium reset seeds in [0, 2**31), which every environment takes. keys: uint32[N, 2]; episode: int64[N]."""
    return (rng.folded_in(keys, episode)[:, 1] >> 1).tolist()
