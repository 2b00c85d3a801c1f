"""One Gymnasium environment as algorithms see it: checked at every step, and never trusted with what is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from rlresearch.envs.actions import units_of
from rlresearch.envs.closing import close
from rlresearch.envs.episode_log import EpisodeLog
from rlresearch.errors import RunError, describe_error
from rlresearch.runtime import heartbeat


class CheckedEnv(gym.Wrapper):
    """One environment as algorithms see it: actions in [-1, 1] or counted from 0, float32 observations, no surprises.

    What an environment gets wrong (an exception, a wrong shape, NaN or infinity) becomes one
    RunError that names it, so that it is never learned from. Observations are copies: the environment may go on writing
    into its own arrays. place: which of how many `copies` it is.
    """

    def __init__(self, env: gym.Env, name: str, place: int = 0, copies: int = 1) -> None:
        super().__init__(env)
        self._name, self.place = name, place
        self._copy = f"copy {place}, " if copies > 1 else ""
        self._units = units_of(env.action_space)
        self._discrete = isinstance(env.action_space, gym.spaces.Discrete)
        self.action_space = self._units.space
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
        except (Exception, SystemExit) as error:
            raise self._failed("raised in reset", error) from error
        finally:
            heartbeat.leave()
        return self._checked(obs), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """(observation float32[...], reward, terminated, truncated, info).

        action: float32[A] in [-1, 1], or an int from 0. Errors: RunError naming the environment, its step and action.
        """
        self._steps += 1
        if not (self._discrete or all(map(math.isfinite, action.tolist()))):
            raise self._not_finite(action)
        self._action = self._units.unscale_action(action)
        heartbeat.enter(self._seed, self._steps, self._action)
        try:
            obs, reward, terminated, truncated, info = self.env.step(self._action)
        except (Exception, SystemExit) as error:
            raise self._failed("raised", error) from error
        finally:
            heartbeat.leave()
        if (expected := _unlike_reward(reward)) is not None:
            raise self._failed(f"returned reward {reward!r}, expected {expected}")
        if not (isinstance(terminated, _FLAGS) and isinstance(truncated, _FLAGS)):
            told = f"terminated {terminated!r} and truncated {truncated!r}"
            raise self._failed(f"returned {told}, expected true or false")
        return self._checked(obs), float(reward), bool(terminated), bool(truncated), info

    def replay(self, seed: int, actions: np.ndarray, progress: Callable[[], None] = lambda: None) -> EpisodeLog:
        """Does an episode over again, up to where its actions [T, A] or [T] end. progress: called after each step."""
        log = EpisodeLog(self.reset(seed=seed)[0])
        for action in actions:
            obs, reward, *_ = self.step(action)
            log.note(action, obs, np.float32(reward))
            progress()
        return log

    def unscale_action(self, action: np.ndarray) -> np.ndarray | int:
        """The action [A], or int, as the environment takes it. action: float32[A] in [-1, 1], or an int from 0."""
        return self._units.unscale_action(action)

    def close(self) -> None:
        """Closes the environment. A warning says where it raises then or does not come back."""
        close(self.env, self._name)

    def _checked(self, given: Any) -> np.ndarray:
        try:
            if isinstance(given, np.ndarray) and given.dtype == np.float32:
                obs = given.copy()
            else:
                with np.errstate(over="ignore"):  # what is too large for float32 is told below
                    obs = np.array(given, np.float32)
        except Exception:  # noqa: BLE001 (whatever an object of the user's does when it is asked for numbers)
            raise self._failed(f"returned {type(given).__name__} as observation, expected numbers") from None
        if obs.shape != self._shape:
            raise self._failed(f"returned an observation of shape {obs.shape}, expected {self._shape}")
        if not (all(map(math.isfinite, obs.tolist())) if self._few else np.isfinite(obs).all()):
            own = np.asarray(given, np.float64)
            wanted = "numbers that float32 holds" if np.isfinite(own).all() else "finite numbers"
            told = np.array2string(own if np.isfinite(own).all() else obs, threshold=8)
            raise self._failed(f"returned the observation {told}, expected {wanted}")
        return obs

    def _failed(self, what: str, error: BaseException | None = None) -> RunError:
        cause = f": {describe_error(error)}" if error is not None else ""
        return RunError(f"environment '{self._name}' {what} at step {self._steps} of its episode{cause} {self._where}")

    def _not_finite(self, action: np.ndarray) -> RunError:
        """The error of who acts, not of the environment."""
        self._action = action
        why = "learning went astray; try a smaller optimizer.lr, or optimizer.max_grad_norm"
        return RunError(f"the policy's action is no finite number: {why}. '{self._name}' did not take it {self._where}")

    @property
    def _where(self) -> str:
        action = f", action {np.array2string(np.asarray(self._action), threshold=8)}" if self._steps else ""
        seed = f"episode seed {self._seed}" if self._seed >= 0 else "an episode without a seed of its own"
        return f"({self._copy}{seed}{action})"


_LARGEST = float(np.finfo(np.float32).max)
_FLAGS = (bool, np.bool_, int, np.integer)
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
