"""Two bandits with memory, as Gymnasium environments and on the device; and an adapter for such objects.

What an arm pays depends on the arm pulled before. Both show that arm, the first one (0) at an episode's start.

`rlresearch/ChainBandit-v0`: the arms' rewards are normal around [0.9, 1.2, 0.7, 1.0] with unit variance, times the
number, counted from 1, of the arm pulled before; 6 pulls. How many are left matters, so `conf/env/chain_bandit.yaml`
shows the time, too.

`rlresearch/MatrixBandit-v0`: arm a after arm s pays a normal reward around MATRIX[s][a] with unit variance; 12 pulls.
The best mean return is 48, by the cycle 0, 3, 1, 2, 0.

`env.id=rlresearch.envs.bandits:rlresearch/ChainBandit-v0` imports this module, which registers both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import gymnasium as gym
import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.types import Key

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvCreator

CHAIN, CHAIN_PULLS = (0.9, 1.2, 0.7, 1.0), 6
MATRIX, MATRIX_PULLS = ((1.0, 3.0, 2.0, 4.0), (0.0, 1.0, 4.0, 3.0), (5.0, 0.0, 0.0, 0.0), (1.0, 3.0, 1.0, 3.0)), 12


class World(Protocol):
    """One episode of a world, which `Adapter` turns into an environment.

    state: the observation, at the start and after each `act`.
    """

    state: Any

    def act(self, action: Any) -> tuple[float, Any]:
        """Performs an action; returns (reward, state)."""

    def terminal(self) -> bool:
        """Whether the episode is over."""


class Adapter(gym.Env):
    """Any object with `state`, `act(action) -> reward, state` and `terminal()` as a Gymnasium environment.

    make: makes a new object for each episode. Its argument is the environment's random generator, which `reset` seeds;
    an object without randomness ignores it. observation_space, action_space: of `state` and of `action`. For example,
    in `mine.py`:

        spaces = {"observation_space": Discrete(7), "action_space": Discrete(2)}
        kwargs = {"make": lambda random: Corridor(), **spaces}
        gymnasium.register("Corridor-v0", "rlresearch.envs.bandits:Adapter", kwargs=kwargs, max_episode_steps=50)

        python -m rlresearch algo=dqn env=gym env.id=mine:Corridor-v0

    An end that `terminal` reports is an end of the task, without any later value; for a time limit use
    `max_episode_steps`.
    """

    def __init__(
        self, make: Callable[[np.random.Generator], World], observation_space: gym.Space, action_space: gym.Space
    ) -> None:
        self.make = make
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        """(first observation, {}) of a new object. seed: of the random generator that `make` gets."""
        super().reset(seed=seed)
        self.world = self.make(self.np_random)
        return self._seen(self.world.state), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """(observation, reward, what `terminal` says, False, {}). action: int, or what `act` takes."""
        discrete = isinstance(self.action_space, gym.spaces.Discrete)
        reward, state = self.world.act(int(action) if discrete else action)
        return self._seen(state), float(reward), bool(self.world.terminal()), False, {}

    def _seen(self, state: Any) -> Any:
        space = self.observation_space
        return int(state) if isinstance(space, gym.spaces.Discrete) else np.asarray(state, space.dtype)


class PlainBandit:
    """A bandit with memory in plain Python. state: the arm pulled last."""

    def __init__(self, reward: Callable[[int, int, float], float], pulls: int, random: np.random.Generator) -> None:
        self.state, self.left = 0, pulls
        self.reward, self.random = reward, random

    def act(self, arm: int) -> tuple[float, int]:
        """Pulls an arm; returns (reward, the arm)."""
        reward = self.reward(self.state, arm, self.random.standard_normal())
        self.state, self.left = arm, self.left - 1
        return reward, self.state

    def terminal(self) -> bool:
        """Whether no pull is left."""
        return self.left == 0


def plain_chain(random: np.random.Generator) -> PlainBandit:
    """An episode of the chain bandit."""
    return PlainBandit(lambda last, arm, noise: (last + 1) * (CHAIN[arm] + noise), CHAIN_PULLS, random)


def plain_matrix(random: np.random.Generator) -> PlainBandit:
    """An episode of the matrix bandit."""
    return PlainBandit(lambda last, arm, noise: MATRIX[last][arm] + noise, MATRIX_PULLS, random)


class BanditState(NamedTuple):
    """int32 scalars: the arm pulled last, and pulls so far."""

    last: tf.Tensor
    pulls: tf.Tensor


@dataclass(frozen=True)
class ChainBandit:
    """The chain bandit, compiled."""

    def reset(self, key: Key) -> BanditState:
        """Arm 0 and no pulls so far: int32 scalars."""
        return BanditState(tf.constant(0), tf.constant(0))

    def step(self, state: BanditState, action: tf.Tensor, key: Key) -> tuple[BanditState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar) of pulling the arm `action`, int32 scalar."""
        reward = tf.cast(state.last + 1, tf.float32) * (tf.gather(CHAIN, action) + rng.normal(key, ()))
        pulls = state.pulls + 1
        return BanditState(action, pulls), reward, pulls >= CHAIN_PULLS

    def observe(self, state: BanditState) -> tf.Tensor:
        """The arm pulled last, int32 scalar."""
        return state.last


@dataclass(frozen=True)
class MatrixBandit:
    """The matrix bandit, compiled."""

    def reset(self, key: Key) -> BanditState:
        """Arm 0 and no pulls so far: int32 scalars."""
        return BanditState(tf.constant(0), tf.constant(0))

    def step(self, state: BanditState, action: tf.Tensor, key: Key) -> tuple[BanditState, tf.Tensor, tf.Tensor]:
        """(next state, reward float32 scalar, terminated bool scalar) of pulling the arm `action`, int32 scalar."""
        reward = tf.gather(np.ravel(MATRIX).astype(np.float32), state.last * 4 + action) + rng.normal(key, ())
        pulls = state.pulls + 1
        return BanditState(action, pulls), reward, pulls >= MATRIX_PULLS

    def observe(self, state: BanditState) -> tf.Tensor:
        """The arm pulled last, int32 scalar."""
        return state.last


_CREATOR = cast("EnvCreator", Adapter)
_ARMS = {"observation_space": gym.spaces.Discrete(4), "action_space": gym.spaces.Discrete(4)}
for _name, _make, _pulls in (("Chain", plain_chain, CHAIN_PULLS), ("Matrix", plain_matrix, MATRIX_PULLS)):
    # The limit is where the task ends by itself: it cuts nothing, it tells `env.time_aware` how long an episode is.
    gym.register(
        f"rlresearch/{_name}Bandit-v0",
        _CREATOR,
        kwargs={"make": _make, **_ARMS},
        max_episode_steps=_pulls,
    )
