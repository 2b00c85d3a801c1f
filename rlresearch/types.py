"""The containers and interfaces that all parts share, in Gymnasium's words.

Shapes: N environments stepped together, B rows of a batch. The containers are NamedTuples of tensors, and so trees:
one can stack, save, compare and map them over members. Their field names are part of the checkpoint format.
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

    obs: float32[N, ...]. first: bool[N], true where `obs` starts an episode.
    """

    obs: tf.Tensor
    first: tf.Tensor


class StepResult(NamedTuple):
    """What one environment step returned, before any reset.

    reward: float32[N]. terminated: bool[N], the task ended and no reward follows. truncated: bool[N], a time limit
    ended the episode; its value continues. next_obs: float32[N, ...], the observation after the step, also where
    the episode ended (Gymnasium's `final_obs`).
    """

    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor


Outcome = StepResult  # its name until version 0.2


class Transition(NamedTuple):
    """One environment step for learning, N rows or one; made only by `transition`.

    `obs` and `next_obs` belong to the same episode. `terminated` alone decides whether a target bootstraps.
    `truncated` ends sums over several steps (n-step returns, GAE). Shapes: see `TimeStep` and `StepResult`.
    """

    obs: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor


def transition(timestep: TimeStep, action: tf.Tensor, result: StepResult) -> Transition:
    """The transition [N, ...] of an observation, the action float32[N, A] or int32[N] taken there, and its result."""
    return Transition(timestep.obs, action, result.reward, result.terminated, result.truncated, result.next_obs)


class Batch(NamedTuple):
    """Rows sampled from a buffer for one gradient step.

    Fields as in `Transition`, but: reward float32[B] is the discounted sum of the rewards of `steps` float32[B]
    steps. next_obs, terminated and truncated belong to the last of these steps. weight: float32[B], the importance
    of each row, 1 under uniform sampling. indices: int32[B], the position of each row in the buffer.

    A rollout has leading axes [T, N], T steps of N environments, in place of [B]; its steps and weights are 1.
    """

    obs: tf.Tensor
    action: tf.Tensor
    reward: tf.Tensor
    terminated: tf.Tensor
    truncated: tf.Tensor
    next_obs: tf.Tensor
    steps: tf.Tensor
    weight: tf.Tensor
    indices: tf.Tensor


class Progress(NamedTuple):
    """How far the run is: the argument of schedules.

    step: int64 scalar, environment transitions so far, of all environments together. episode: float32 scalar,
    episodes finished so far. update: int64 scalar, gradient steps so far. The members of a population share `step`
    and `update`.
    """

    step: tf.Tensor
    episode: tf.Tensor
    update: tf.Tensor


class EnvSpec(NamedTuple):
    """What an algorithm knows about its environment.

    action_space: the algorithm's view. A Box has bounds [-1, 1]; `envs` rescales. A Discrete starts at 0; its
    actions are int32. num_envs: N. one_hot: an observation is the one-hot code of a state's number.
    """

    id: str
    observation_space: gym.spaces.Box
    action_space: gym.spaces.Box | gym.spaces.Discrete
    num_envs: int
    one_hot: bool = False

    @property
    def num_actions(self) -> int:
        """The number of discrete actions."""
        assert hasattr(self.action_space, "n")  # see `require_discrete_actions`
        return int(self.action_space.n)

    @property
    def action_size(self) -> int:
        """A, the number of a network's outputs for an action: of discrete actions, or of action dimensions."""
        return self.num_actions if hasattr(self.action_space, "n") else self.action_space.shape[0]

    def require_discrete_actions(self, who: str) -> None:
        """Raises ConfigError unless actions are discrete. who: the algorithm's name."""
        if not hasattr(self.action_space, "n"):
            shape = self.action_space.shape
            has = f"a vector of {shape[0]}" if len(shape) == 1 else str(self.action_space)
            raise ConfigError(f"{who} needs discrete actions, but env {self.id!r} has {has}.")

    def require_continuous_actions(self, who: str) -> None:
        """Raises ConfigError unless an action is a vector of numbers. who: the algorithm's name."""
        if hasattr(self.action_space, "n"):
            count = self.action_space.n
            raise ConfigError(f"{who} needs continuous actions, but env {self.id!r} has {count} discrete ones.")
        if len(self.action_space.shape) != 1:
            raise ConfigError(f"{who} needs a vector of actions, but env {self.id!r} has {self.action_space}.")


class Algorithm(Protocol):
    """Four pure functions, and the numbers with which the training step (`runners/step.py`) calls them.

    METRICS: the metrics that `update` returns, with a line of documentation for each. LEARNS_FROM: what the buffer
    must offer, `transitions` sampled at random or `rollouts` of all steps since the last update. spec: the
    environment. gamma: discount per step. learning_starts: transitions before learning starts. random_start: the
    actions of those are uniform, not the exploring policy's. update_every: iterations (each of `num_envs`
    transitions) between rounds of learning. updates: gradient steps per round. batch_size: B, rows per gradient step.

    An algorithm may have OUTPUTS: of networks by name, the output activations that it can use.
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
        """Raises ConfigError if the algorithm cannot learn in its environment."""

    def init(self, key: Key) -> Tree:
        """The initial state: parameters, target parameters, optimizer and noise state."""

    def act(self, state: Tree, timestep: TimeStep, key: Key, progress: Progress) -> tuple[tf.Tensor, Tree]:
        """(exploring actions [N, A] or int32[N] for `timestep.obs` [N, ...], the state with the noise after them)."""

    def policy(self, state: Tree, obs: tf.Tensor) -> tf.Tensor:
        """The deterministic actions [n, A] or int32[n] for observations [n, ...]; evaluation takes them."""

    def update(
        self, state: Tree, batch: Batch, key: Key, progress: Progress
    ) -> tuple[Tree, dict[str, tf.Tensor], tf.Tensor | None]:
        """One gradient step on a batch, or all gradient steps on a rollout.

        Returns the new state, a float32 scalar for each name in METRICS, and the priority float32[B] of each row
        (its absolute TD error) for prioritized replay; None where the buffer offers rollouts.
        """


class Buffer(Protocol):
    """A store of transitions as pure functions of its state.

    OFFERS: `transitions` or `rollouts`, see `Algorithm.LEARNS_FROM`. capacity: the number of rows that it holds.
    """

    OFFERS: str
    capacity: int

    def init(self, row: Transition, num_envs: int) -> Tree:
        """The empty store, for rows shaped like `row` (no leading axis), added N = `num_envs` at a time."""

    def add(self, state: Tree, rows: Transition) -> Tree:
        """The store with the rows [N, ...] added; a full store overwrites its oldest rows."""

    def sample(self, state: Tree, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """A batch [B, ...] of B = `batch_size` stored rows. gamma: the discount in sums of several rewards.

        It may have one more parameter, `rewards`, a function that maps each reward, such as to its normalized value,
        before any are summed. Without it the sums are mapped.
        """

    def update_priorities(self, state: Tree, batch: Batch, priority: tf.Tensor | None) -> Tree:
        """The store after a gradient step on `batch`. priority: float32[B] from the algorithm's update, or None."""
