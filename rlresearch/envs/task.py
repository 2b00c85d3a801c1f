"""A task: a Gymnasium id, how many copies, and, where there is one, its compiled twin."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Protocol

import annotated_types as at
import gymnasium as gym
import numpy as np

from rlresearch.envs.closing import closing_fault
from rlresearch.errors import ConfigError, allowed_hint, did_you_mean, format_value
from rlresearch.types import EnvSpec, Key, Tree


class CompiledEnv(Protocol):
    """One compiled environment: pure functions of one state, no batch axis, no time limit.

    A frozen dataclass whose fields are the Gymnasium original's constructor arguments of the same
    names, so that one setting changes both. Actions are in the environment's own units.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def reset(self, key: Key) -> Tree:
        """A first state."""

    def step(self, state: Tree, action: Any, key: Key) -> tuple[Tree, Any, Any]:
        """(next state, reward float32 scalar, terminated bool scalar)."""

    def observe(self, state: Tree) -> Any:
        """The observation of a state, in the original's space: float32[...], or int32 where that is discrete."""


@dataclass(frozen=True)
class Task:
    """What to learn in.

    id: a Gymnasium id, `module:Name-v0` to import a module first. num_envs: copies stepped
    together. max_episode_steps: the time limit in steps, None for the registered one. kwargs: the
    environment's constructor arguments. vectorization: on the host, step the copies in this process
    or one process each. physics: the compiled twin. What algorithms see of an observation: discrete ones
    are one-hot; flatten: any shape as one vector; time_aware: the share of the time limit that is used up
    appended to the vector (Pardo et al. 2018); frame_stack: the newest so many, oldest first, at an
    episode's start the first repeated. timeout_s: how long the making, a reset or a step on the host may take in
    seconds, None for however long; it tells nothing about what is learned. reseed: whether each episode on the host
    begins from a seed of its own, or only the first of each copy.
    """

    id: str
    num_envs: Annotated[int, at.Gt(0)] = 1
    max_episode_steps: Annotated[int, at.Gt(0)] | None = None
    kwargs: Mapping[str, Any] | None = None
    vectorization: Literal["sync", "async"] = "sync"
    physics: CompiledEnv | None = None
    flatten: bool = False
    time_aware: bool = False
    frame_stack: Annotated[int, at.Gt(0)] = 1
    timeout_s: Annotated[float, at.Gt(0)] | None = None
    reseed: bool = True

    @cached_property
    def _registered(self) -> gym.envs.registration.EnvSpec:
        module, _, name = self.id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
        except Exception as error:  # noqa: BLE001 (whatever a module of the user's does when it is imported)
            raise ConfigError(f"env.id={format_value(self.id)}: cannot import {module!r}: {error}.") from None
        try:
            return gym.spec(name)
        except gym.error.Error:
            hint = did_you_mean(name, gym.registry) or "; list them with gymnasium.pprint_registry()"
            raise ConfigError(f"env.id={format_value(self.id)}: must be registered in Gymnasium{hint}") from None

    @cached_property
    def time_limit(self) -> int | None:
        """Steps after which an episode is truncated, None where it never is."""
        return self.max_episode_steps or self._registered.max_episode_steps

    def make(self, render_mode: str | None = None) -> gym.Env:
        """Gymnasium's own environment, with its time limit and its own actions, seen as this task says."""
        env = self.gymnasium_env(render_mode)
        if self.flatten or isinstance(env.observation_space, (gym.spaces.Discrete, gym.spaces.MultiDiscrete)):
            env = gym.wrappers.FlattenObservation(env)
        if self.time_aware:
            env = gym.wrappers.TimeAwareObservation(self._with_time(env), flatten=True, normalize_time=True)
        if self.frame_stack > 1:
            # The stack keeps what it is given, and an environment may go on writing into that.
            env = gym.wrappers.TransformObservation(env, copy.deepcopy, env.observation_space)
            env = gym.wrappers.FrameStackObservation(env, self.frame_stack, padding_type="reset")
        return env

    def _with_time(self, env: gym.Env) -> gym.Env:
        """`env`, to which time can be appended, or ConfigError."""
        wrong = None
        if self.time_limit is None:
            wrong = f"{self.id} has no time limit; set one with env.max_episode_steps=STEPS."
        elif not isinstance(env.observation_space, gym.spaces.Box) or len(env.observation_space.shape) != 1:
            wrong = f"needs a vector as observation, but {self.id} has {env.observation_space}; set env.flatten=true."
        if wrong:
            raise ConfigError(f"env.time_aware=true: {wrong}")
        return env

    def gymnasium_env(self, render_mode: str | None) -> gym.Env:
        """Gymnasium's environment with its time limit; observations and actions are its own. render_mode: Gymnasium's.

        Errors: ConfigError where it cannot be made.
        """
        arguments = dict(self.kwargs or {}) if self.physics is None else dataclasses.asdict(self.physics)
        registered = self._registered
        if render_mode is not None:
            arguments["render_mode"] = render_mode
        try:
            if self.kwargs:
                self._check_arguments(self.kwargs)
            return gym.make(
                registered, max_episode_steps=self.max_episode_steps, disable_env_checker=True, **arguments
            )  # `host.CheckedEnv` checks every step
        except ConfigError:
            raise
        except gym.error.DependencyNotInstalled as error:
            raise ConfigError(f"env.id={format_value(self.id)}: cannot be made: {error}") from error
        except Exception as error:
            wrong = f"env.id={format_value(self.id)}: cannot be made"
            raise ConfigError(f"{wrong} with env.kwargs={format_value(arguments)}: {error}") from error

    def _check_arguments(self, kwargs: Mapping[str, Any]) -> None:
        """ConfigError where `kwargs` has a name that the environment does not take."""
        name, value = next(iter(kwargs.items()))
        if self.physics is not None:
            instead = f"env.physics.{name}"
            raise ConfigError(
                f"env.kwargs.{name}={format_value(value)}: this environment is compiled; set {instead} instead."
            )
        entry = self._registered.entry_point
        creator: Any = gym.envs.registration.load_env_creator(entry) if isinstance(entry, str) else entry
        taken = inspect.signature(creator).parameters
        if all(each.kind is not each.VAR_KEYWORD for each in taken.values()):
            for name, value in kwargs.items():
                if name not in taken:
                    wrong = f"env.kwargs.{name}={format_value(value)}: {self.id} has no such argument"
                    raise ConfigError(f"{wrong}{allowed_hint(name, taken)}")

    @cached_property
    def original_observation_space(self) -> gym.Space:
        """What the environment itself gives, before this task has it seen otherwise."""
        env = self.gymnasium_env(None)
        closing_fault(env)
        return env.observation_space

    @cached_property
    def spaces(self) -> tuple[gym.Space, gym.Space]:
        """The observation and action spaces as seen by this task, in the environment's own units."""
        env = self.make()
        spaces = env.observation_space, env.action_space
        closing_fault(env)
        return spaces

    @property
    def _one_hot(self) -> bool:
        plain = not self.time_aware and self.frame_stack == 1
        return plain and isinstance(self.original_observation_space, gym.spaces.Discrete)

    @cached_property
    def spec(self) -> EnvSpec:
        """What an algorithm may know. ConfigError where the spaces are of a kind nobody here handles."""
        observation, action = self.spaces
        if not isinstance(observation, gym.spaces.Box):
            raise ConfigError(_refusal(self.id, "observations", observation))
        observed = gym.spaces.Box(-np.inf, np.inf, observation.shape, np.float32)
        if isinstance(action, gym.spaces.Discrete):
            return EnvSpec(self.id, observed, gym.spaces.Discrete(int(action.n)), self.num_envs, self._one_hot)
        bounded = True
        if not isinstance(action, gym.spaces.Box) or not math.prod(action.shape):
            raise ConfigError(_refusal(self.id, "actions", action))
        if action.dtype.kind == "f":
            low, high = action.low.astype(np.float64), action.high.astype(np.float64)
            ends = np.maximum(np.abs(low), np.abs(high)) < 0.99 * float(np.finfo(action.dtype).max)
            widest = float(np.finfo(np.result_type(action.dtype, np.float32)).max)
            bounded = bool((ends & (high / 2 - low / 2 < widest / 2)).all())
        if not bounded:
            raise ConfigError(
                f"env.id={format_value(self.id)}: has unbounded actions {action}; give its action space finite bounds, "
                f"which [-1, 1] is rescaled to: those of {action.dtype} itself stand for none."
            )
        flat = gym.spaces.Box(-1.0, 1.0, (math.prod(action.shape),), np.float32)
        return EnvSpec(self.id, observed, flat, self.num_envs)


def _refusal(name: str, role: str, space: gym.Space) -> str:
    """What is said of a space of a kind that nobody here handles, with the way out that there is."""
    what = f"env.id={format_value(name)}: has {type(space).__name__} {role}"
    if role == "actions":
        hint = "give it one of those with a gymnasium.ActionWrapper"
        if isinstance(space, gym.spaces.Box):
            what = f"env.id={format_value(name)}: has {space} as actions, which holds no number"
        if isinstance(space, gym.spaces.MultiDiscrete | gym.spaces.MultiBinary):
            hint = f"number its {_combinations(space)} combinations with a gymnasium.ActionWrapper"
        return f"{what}; allowed: Box or Discrete; {hint}."
    hint = "give it one of those with a gymnasium.ObservationWrapper"
    if space.is_np_flattenable:
        hint = "env.flatten=true makes it one vector"
    return f"{what}; allowed: Box, Discrete or MultiDiscrete; {hint}."


def _combinations(space: gym.spaces.MultiDiscrete | gym.spaces.MultiBinary) -> int:
    counts = space.nvec if isinstance(space, gym.spaces.MultiDiscrete) else np.full(space.shape, 2)
    return math.prod(int(count) for count in counts.flat)
