"""The containers that every part speaks, in Gymnasium's words.

Shapes: N environments stepped together, B rows of a batch. Data are NamedTuples of tensors,
so each of them is a tree: it can be stacked, saved, compared and mapped over members.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rlresearch.errors import ConfigError

if TYPE_CHECKING:
    import gymnasium as gym
    import tensorflow as tf

Tree = Any  # a nested structure of tensors
Key = Any  # a uint32[2] random key, see `rng`


class TimeStep(NamedTuple):
    """What the agent sees before it acts.

    obs: float32[N, ...]; first: bool[N], true where `obs` starts an episode.
    """

    obs: tf.Tensor
    first: tf.Tensor


class Outcome(NamedTuple):
    """What one action led to, before any reset.

    reward: float32[N]; terminated: bool[N], the task ended, nothing follows; truncated: bool[N],
    a time limit cut the episode, its value goes on; next_obs: float32[N, ...], the observation
    the action led to, also where the episode ended (Gymnasium's `final_obs`).
    """

    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor


class Transition(NamedTuple):
    """One step as it is learned from; made only by `transition`.

    A transition never crosses an episode's end: `next_obs` belongs to the same episode as `obs`.
    Bootstrapping is decided by `terminated` alone. `truncated` cuts traces (n-step, GAE).
    """

    obs: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor


def transition(timestep: TimeStep, action: tf.Tensor, outcome: Outcome) -> Transition:
    """Joins what was seen, what was done and what came of it: the only maker of transitions."""
    return Transition(
        timestep.obs, action, outcome.reward, outcome.terminated, outcome.truncated, outcome.next_obs
    )


class Progress(NamedTuple):
    """How far the run is; what schedules are functions of.

    step: int64 scalar, environment transitions so far (all environments together); the same for
    every member of a population. episode: float32 scalar, episodes finished so far.
    update: int64 scalar, rounds of learning so far; also the same for every member.
    """

    step: tf.Tensor
    episode: tf.Tensor
    update: tf.Tensor


class EnvSpec(NamedTuple):
    """What an algorithm may know of its environment.

    `action_space` is what the algorithm sees: a Box is always [-1, 1], only `envs` knows bounds.
    """

    id: str
    observation_space: gym.Space
    action_space: gym.Space
    num_envs: int

    def require_continuous_actions(self, who: str) -> None:
        """ConfigError where actions are not a vector of numbers; `who` is the algorithm's name."""
        count = getattr(self.action_space, "n", None)
        if count is not None:
            raise ConfigError(f"{who} needs continuous actions, but env {self.id!r} has {count} discrete ones.")
        if len(self.action_space.shape) != 1:
            raise ConfigError(f"{who} needs a vector of actions, but env {self.id!r} has {self.action_space}.")


class Algorithm(Protocol):
    """Four pure functions and the numbers that the one step needs to drive them.

    METRICS names what `update` returns, with a line of documentation for each. spec: the
    environment it was built for.
    learning_starts: transitions before those that are learned after. random_start: whether their
    actions are uniformly random rather than the exploring policy's. update_every: loop iterations (each
    of `num_envs` transitions) between rounds of learning. updates: gradient steps per round.
    batch_size: rows per gradient step.
    """

    METRICS: dict[str, str]
    spec: EnvSpec
    learning_starts: int
    random_start: bool
    update_every: int
    updates: int
    batch_size: int

    def check(self) -> None:
        """Raises ConfigError where the algorithm cannot learn in its environment."""

    def init(self, key: Key) -> Tree:
        """The algorithm's whole state: parameters, targets, moments, noise."""

    def act(self, state: Tree, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """An exploring action for each environment, and the state after it (noise moves)."""

    def policy(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        """The deterministic action for each observation, as it is evaluated."""

    def update(self, state: Tree, batch: Transition, key: Key, progress: Progress) -> tuple[Tree, dict[str, tf.Tensor]]:
        """One gradient step; returns the new state and a scalar for each name in METRICS."""


class Buffer(Protocol):
    """Where transitions wait to be learned from."""

    capacity: int

    def init(self, row: Tree) -> Tree:
        """An empty store for rows shaped like `row` (one transition, no leading axis)."""

    def add(self, state: Tree, rows: Tree) -> Tree:
        """The store with N more rows (leading axis N), the oldest overwritten when it is full."""

    def sample(self, state: Tree, key: Key, batch_size: int, progress: Progress) -> Tree:
        """A batch (leading axis B) drawn from what is stored."""
