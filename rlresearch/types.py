"""The containers that every part speaks, in Gymnasium's words.

Shapes: N environments stepped together, B rows of a batch. Data are NamedTuples of tensors,
so each of them is a tree: it can be stacked, saved, compared and mapped over members.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

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
    return Transition(timestep.obs, action, outcome.reward, outcome.terminated, outcome.truncated, outcome.next_obs)


class Batch(NamedTuple):
    """What one gradient step learns from: rows drawn from a buffer.

    As a `Transition`, but: reward float32[B] may be the discounted sum of several steps' rewards; steps:
    float32[B], of how many; next_obs, terminated, truncated belong to the last of them. weight: float32[B],
    the importance of each row (1 where all are drawn alike). place: int32[B], where in the buffer it lies.

    A rollout has two leading axes, T steps and N environments, in the place of B, in the order they
    happened; its steps and weights are 1.
    """

    obs: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor
    steps: tf.Tensor
    weight: tf.Tensor
    place: tf.Tensor


class Progress(NamedTuple):
    """How far the run is; what schedules are functions of.

    step: int64 scalar, environment transitions so far (all environments together); the same for
    every member of a population. episode: float32 scalar, episodes finished so far.
    update: int64 scalar, gradient steps so far, `updates` a round; also the same for every member.
    """

    step: tf.Tensor
    episode: tf.Tensor
    update: tf.Tensor


class EnvSpec(NamedTuple):
    """What an algorithm may know of its environment.

    `action_space` is what the algorithm sees: a Box is always [-1, 1], only `envs` knows bounds; a
    Discrete counts from 0, its actions are int32. one_hot: observations are states counted one-hot.
    """

    id: str
    observation_space: gym.spaces.Box
    action_space: gym.spaces.Box | gym.spaces.Discrete
    num_envs: int
    one_hot: bool = False

    @property
    def num_actions(self) -> int:
        """How many discrete actions there are."""
        assert hasattr(self.action_space, "n")  # see `require_discrete_actions`
        return int(self.action_space.n)

    @property
    def action_size(self) -> int:
        """How many numbers a network gives for an action: one for each discrete one, or the vector's."""
        return self.num_actions if hasattr(self.action_space, "n") else self.action_space.shape[0]

    def require_discrete_actions(self, who: str) -> None:
        """ConfigError where actions are not a choice of one; `who` is the algorithm's name."""
        if not hasattr(self.action_space, "n"):
            shape = self.action_space.shape
            has = f"a vector of {shape[0]}" if len(shape) == 1 else str(self.action_space)
            raise ConfigError(f"{who} needs discrete actions, but env {self.id!r} has {has}.")

    def require_continuous_actions(self, who: str) -> None:
        """ConfigError where actions are not a vector of numbers; `who` is the algorithm's name."""
        if hasattr(self.action_space, "n"):
            count = self.action_space.n
            raise ConfigError(f"{who} needs continuous actions, but env {self.id!r} has {count} discrete ones.")
        if len(self.action_space.shape) != 1:
            raise ConfigError(f"{who} needs a vector of actions, but env {self.id!r} has {self.action_space}.")


class Algorithm(Protocol):
    """Four pure functions and the numbers that the one step needs to drive them.

    METRICS names what `update` returns, with a line of documentation for each. LEARNS_FROM: what a
    buffer must offer, `transitions` drawn at random or a `rollout` of all that happened since the last
    update. spec: the environment it was built for. gamma: discount per step.
    learning_starts: environment steps before learning starts. random_start: whether the actions of these
    steps are uniformly random; otherwise the exploring policy acts. update_every: loop iterations (each
    of `num_envs` environment steps) between two rounds of learning. updates: gradient steps in a round.
    batch_size: rows in a gradient step.
    """

    METRICS: dict[str, str]
    LEARNS_FROM: str
    spec: EnvSpec
    gamma: float
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

    def update(
        self, state: Tree, batch: Batch, key: Key, progress: Progress
    ) -> tuple[Tree, dict[str, tf.Tensor], tf.Tensor | None]:
        """One gradient step (from a rollout, all of its steps).

        Returns the new state, a scalar for each name in METRICS, and float32[B], how wrong each row was
        (its absolute TD error), which a prioritized replay draws by; None where rows are not drawn.
        """


class GrowingRows(NamedTuple):
    """Rows of a buffer that change by nothing but adding: a new row takes the next place, or that of the oldest.

    columns: by name, arrays [..., capacity, width]; added: int64 [...], rows ever added. The row with number i lies in
    place i % capacity. Leading axes are those of members.
    """

    columns: Mapping[str, tf.Tensor]
    added: tf.Tensor


@runtime_checkable
class AppendOnly(Protocol):
    """A buffer that says which of its rows checkpoints may save as they are added. Others are saved whole each time."""

    def append_only(self, state: Tree) -> Mapping[str, GrowingRows]:
        """The rows that only grow, by the dotted path in `state` of the tuple that has them under `columns`."""
        ...


class BufferBytes(NamedTuple):
    """What a buffer holds in memory, in bytes. growing: of rows that only grow; rewritten: of what changes anywhere."""

    growing: int = 0
    rewritten: int = 0


@runtime_checkable
class Sized(Protocol):
    """A buffer that says how many bytes it needs before it is made."""

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """For rows of so many bytes each. What is small beside a machine's memory need not be counted."""
        ...


class Buffer(Protocol):
    """Where transitions wait to be learned from.

    OFFERS: `transitions` or a `rollout`, see `Algorithm.LEARNS_FROM`. capacity: rows that it holds.
    """

    OFFERS: str
    capacity: int

    def init(self, row: Transition, num_envs: int) -> Tree:
        """An empty store for rows shaped like `row` (no leading axis), which come `num_envs` at a time."""

    def add(self, state: Tree, rows: Transition) -> Tree:
        """The store with N more rows (leading axis N), the oldest overwritten when it is full."""

    def sample(self, state: Tree, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """A batch drawn from what is stored. gamma: what rewards of several steps are summed with."""

    def learned(self, state: Tree, batch: Batch, priority: tf.Tensor | None) -> Tree:
        """The store after `batch` was learned from; `priority` is what the algorithm's update returned."""
