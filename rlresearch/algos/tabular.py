"""Tabular temporal-difference control: Q-learning, SARSA, expected SARSA, double Q-learning.

Sutton & Barto 2018, http://incompleteideas.net/book/the-book-2nd.html: SARSA (6.7), Q-learning (6.8, Watkins
1989), expected SARSA (6.9, van Seijen et al. 2009), double Q-learning (6.10, van Hasselt 2010).
Shapes: N environments, S states, A actions. A state is a one-hot observation, so a value is a row times a table.

Each environment's newest transition changes the table once (`buffer=latest`). If several environments visit one cell
in the same step, their changes add up.

Differences from the book:
1. `by=gradient` finds the same change as the gradient of half the squared error, by automatic differentiation.
2. A time limit does not end a value: only `terminated` does (`ops.discount`).
3. Double Q-learning chooses the table that learns for each transition, as (6.10) does for each step. It acts by the
   mean of both tables.
4. SARSA chooses the next action while it learns and takes it in the next step. It chooses an episode's first action
   when it acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import tensorflow as tf

from rlresearch import noise, ops, rng, schedules
from rlresearch.errors import ConfigError
from rlresearch.ranges import Fraction, NonNegativeInt, PositiveFraction
from rlresearch.types import Batch, EnvSpec, Key, Progress, TimeStep


class TabularState(NamedTuple):
    """tables: float32[1 or 2, S, A]. next_action: int32[N], the action that SARSA learned from and takes next.
    drawn: bool[N], whether there is one.
    """

    tables: tf.Tensor
    next_action: tf.Tensor
    drawn: tf.Tensor


@dataclass(frozen=True)
class Tabular:
    """rule: which of the four. alpha: step size, multiplied by `schedule`. initial: every value at the start.
    gamma: discount per step. by: `table`, the change computed directly, or `gradient`. The others: `types.Algorithm`.
    """

    spec: EnvSpec
    noise: noise.Exploration

    rule: Literal["q_learning", "sarsa", "expected_sarsa", "double_q_learning"] = "q_learning"
    by: Literal["table", "gradient"] = "table"
    alpha: PositiveFraction = 0.1
    schedule: schedules.Schedule = field(default_factory=schedules.Constant)
    initial: float = 0.0
    gamma: Fraction = 0.99
    learning_starts: NonNegativeInt = 0
    random_start: bool = False

    update_every: ClassVar[int] = 1
    updates: ClassVar[int] = 1
    LEARNS_FROM: ClassVar[str] = "transitions"
    METRICS: ClassVar[dict[str, str]] = {
        "loss/q": "half the mean squared TD error, in squared units of return",
        "value/q": "mean value of the actions taken, in units of return",
        "value/target": "mean target, in units of return",
    }

    def check(self) -> None:
        """Raises ConfigError unless actions and observations are discrete."""
        self.spec.require_discrete_actions("Tabular")
        if not self.spec.one_hot:
            raise ConfigError(f"Tabular needs discrete observations, but env {self.spec.id!r} has others.")

    @property
    def batch_size(self) -> int:
        """N, the newest transition of each environment."""
        return self.spec.num_envs

    def init(self, key: Key) -> TabularState:
        """Tables filled with `initial`."""
        count = 2 if self.rule == "double_q_learning" else 1
        tables = tf.fill((count, self.spec.observation_space.shape[0], self.spec.num_actions), float(self.initial))
        none = tf.zeros(self.spec.num_envs, tf.int32)
        return TabularState(tables, none, tf.zeros(self.spec.num_envs, tf.bool))

    def policy(self, state: TabularState, obs: tf.Tensor) -> tf.Tensor:
        """The best actions int32[B] for observations [B, ...]."""
        return tf.argmax(self._values(state, obs), axis=1, output_type=tf.int32)

    def act(
        self, state: TabularState, timestep: TimeStep, key: Key, progress: Progress
    ) -> tuple[tf.Tensor, TabularState]:
        """(exploring actions int32[N], the state). SARSA takes the actions it has learned from."""
        action = self.noise.choose(self._values(state, timestep.obs), key, progress)
        if self.rule != "sarsa":
            return action, state
        kept = tf.logical_and(state.drawn, tf.logical_not(timestep.first))
        return tf.where(kept, state.next_action, action), state

    def update(
        self, state: TabularState, batch: Batch, key: Key, progress: Progress
    ) -> tuple[TabularState, dict[str, tf.Tensor], tf.Tensor]:
        """One step of the tables towards the targets of N transitions. Also |TD error| float32[N]."""
        action_key, table_key = tf.unstack(rng.split(key, 2))
        rows = batch.reward.shape[0]
        next_action = self.noise.choose(self._values(state, batch.next_obs), action_key, progress)
        # The table that learns, int32[N]; with one table always the first.
        learner = rng.randint(table_key, (rows,), state.tables.shape[0])
        target = self._target(state, batch, next_action, learner, progress)
        alpha = self.alpha * self.schedule(progress)
        step = self._direct_change if self.by == "table" else self._gradient_change
        change, q_tm1 = step(state, batch, learner, target)
        td_error = target - q_tm1
        state = state._replace(tables=state.tables + alpha * change)
        if self.rule == "sarsa":
            state = state._replace(next_action=next_action, drawn=tf.ones_like(state.drawn))
        metrics = {
            "loss/q": 0.5 * tf.reduce_mean(tf.square(td_error)),
            "value/q": tf.reduce_mean(q_tm1),
            "value/target": tf.reduce_mean(target),
        }
        return state, metrics, tf.abs(td_error)

    def _values(self, state: TabularState, obs: tf.Tensor) -> tf.Tensor:
        return tf.matmul(obs, tf.reduce_mean(state.tables, axis=0))

    def _target(
        self, state: TabularState, batch: Batch, next_action: tf.Tensor, learner: tf.Tensor, progress: Progress
    ) -> tf.Tensor:
        """The targets float32[N] of (6.7) to (6.10)."""
        values = tf.einsum("bs,ksa->kba", batch.next_obs, state.tables)
        if self.rule == "q_learning":
            v_t = tf.reduce_max(values[0], axis=1)
        elif self.rule == "sarsa":
            v_t = ops.index_by_action(values[0], next_action)
        elif self.rule == "expected_sarsa":
            v_t = tf.reduce_sum(self.noise.probabilities(values[0], progress) * values[0], axis=1)
        else:
            own, other = (tf.where((learner == k)[:, None], values[0], values[1]) for k in (0, 1))
            v_t = ops.index_by_action(other, tf.argmax(own, axis=1, output_type=tf.int32))
        return ops.td_target(batch.reward, ops.discount(self.gamma, batch.terminated, batch.steps), v_t)

    def _cells(self, state: TabularState, batch: Batch, learner: tf.Tensor) -> tf.Tensor:
        """1 at the cell of each transition, else 0: float32[N, tables, S, A]."""
        table = tf.one_hot(learner, state.tables.shape[0])
        return tf.einsum("bk,bs,ba->bksa", table, batch.obs, tf.one_hot(batch.action, self.spec.num_actions))

    def _direct_change(
        self, state: TabularState, batch: Batch, learner: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """(the TD errors float32[tables, S, A], summed in their cells, the values float32[N] before)."""
        cells = self._cells(state, batch, learner)
        q_tm1 = tf.einsum("bksa,ksa->b", cells, state.tables)
        return tf.einsum("b,bksa->ksa", target - q_tm1, cells), q_tm1

    def _gradient_change(
        self, state: TabularState, batch: Batch, learner: tf.Tensor, target: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """As `_direct_change`, by automatic differentiation: minus the gradient of half the summed squared errors."""

        def loss(tables: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            values = tf.einsum("bs,ksa->bka", batch.obs, tables)
            q = tf.reduce_sum(values * tf.one_hot(learner, tables.shape[0])[:, :, None], axis=1)
            q_tm1 = ops.index_by_action(q, batch.action)
            return 0.5 * tf.reduce_sum(tf.square(target - q_tm1)), q_tm1

        (_, q_tm1), slope = ops.value_and_grad(loss, state.tables)
        return -slope, q_tm1
