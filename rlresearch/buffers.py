"""Where transitions wait to be learned from; `types.Buffer` says what a buffer offers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import annotated_types as at
import tensorflow as tf

from rlresearch import ops, rng, sum_tree
from rlresearch.schedules import Constant, Schedule
from rlresearch.types import Batch, Key, Progress, Transition, Tree
from rlresearch.xla import fence


class Rows(NamedTuple):
    """A ring of rows in the order they came, `num_envs` at a time.

    columns: by dtype, one array [capacity, width] with a row's numbers side by side; added: int64
    scalar, rows ever added; stride: int64 scalar, `num_envs`, from a row to the same environment's next;
    row: one row of zeros, which says what the columns hold.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    stride: tf.Tensor
    row: Tree


@dataclass(frozen=True)
class Uniform:
    """A ring of the newest `capacity` transitions, drawn uniformly with replacement (Lin 1992).

    n_step: rewards that a drawn row adds up, fewer where its episode, or what is stored of it, ends
    before (Sutton & Barto, section 7.1).
    """

    capacity: Annotated[int, at.Gt(0)] = 100_000
    n_step: Annotated[int, at.Gt(0)] = 1

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> Rows:
        return empty_rows(self.capacity, row, num_envs)

    def add(self, state: Rows, rows: Transition) -> Rows:
        return add_rows(state, rows, self.capacity)

    def sample(self, state: Rows, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        places = rng.randint(key, (batch_size,), tf.minimum(state.added, self.capacity))
        return drawn(state, places, self.capacity, self.n_step, gamma, progress)

    def learned(self, state: Rows, batch: Batch, priority: tf.Tensor | None) -> Rows:
        return state


@dataclass(frozen=True)
class Latest:
    """No replay: each environment's newest transition, learned from once, in the order of the environments.

    The batch has a row an environment, whatever batch size is asked for.
    """

    OFFERS: ClassVar[str] = "transitions"
    capacity: ClassVar[int] = 2**31  # as many as there are environments

    def init(self, row: Transition, num_envs: int) -> Transition:
        return tf.nest.map_structure(lambda leaf: tf.zeros((num_envs, *leaf.shape), leaf.dtype), row)

    def add(self, state: Transition, rows: Transition) -> Transition:
        return rows

    def sample(self, state: Transition, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        ones = tf.ones(state.reward.shape)
        return Batch(*state, steps=ones, weight=ones, place=tf.range(state.reward.shape[0]))

    def learned(self, state: Transition, batch: Batch, priority: tf.Tensor | None) -> Transition:
        return state


class Steps(NamedTuple):
    """A rollout as it grows. columns: by dtype, one array [T, N * width] with all of a step's numbers side by
    side; added: int64 scalar, steps ever added; row: one row of zeros, which says what the columns hold.
    """

    columns: dict[str, tf.Tensor]
    added: tf.Tensor
    row: Tree


@dataclass(frozen=True)
class Rollout:
    """All that happened since the last update, in order, to be learned from once.

    batch_size: the algorithm's, T steps of N environments; `plan` passes it on.
    """

    batch_size: Annotated[int, at.Gt(0)]

    OFFERS: ClassVar[str] = "rollouts"

    @property
    def capacity(self) -> int:
        """Exactly one rollout."""
        return self.batch_size

    def init(self, row: Transition, num_envs: int) -> Steps:
        laid = lay_out(tf.nest.map_structure(lambda leaf: leaf[None], row))
        shape = lambda part: (self.batch_size // num_envs, num_envs * part.shape[1])  # noqa: E731
        empty = {dtype: tf.zeros(shape(part), part.dtype) for dtype, part in laid.items()}
        return Steps(empty, tf.constant(0, tf.int64), row)

    def add(self, state: Steps, rows: Transition) -> Steps:
        laid = lay_out(rows)
        length = next(iter(state.columns.values())).shape[0]
        place = tf.reshape(tf.cast(state.added % length, tf.int32), (1, 1))
        columns = {
            dtype: tf.tensor_scatter_nd_update(column, place, tf.reshape(laid[dtype], (1, -1)))
            for dtype, column in state.columns.items()
        }
        return state._replace(columns=columns, added=state.added + 1)

    def sample(self, state: Steps, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """[T, N, ...], the oldest step first. Asked for when whole rollouts were added, it starts in place 0."""
        by_row = {dtype: tf.reshape(column, (batch_size, -1)) for dtype, column in state.columns.items()}
        rows = take_apart(by_row, state.row)
        length = next(iter(state.columns.values())).shape[0]
        shape = (length, batch_size // length)
        rows = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (*shape, *leaf.shape[1:])), rows)
        place = tf.reshape(tf.range(batch_size), shape)
        return Batch(*rows, steps=tf.ones(shape), weight=tf.ones(shape), place=place)

    def learned(self, state: Steps, batch: Batch, priority: tf.Tensor | None) -> Steps:
        return state


class PrioritizedRows(NamedTuple):
    """tree: a `sum_tree` of every row's priority to the power of alpha, 0 where nothing is stored yet;
    largest: float64 scalar, the largest such number that any row was ever given.
    """

    rows: Rows
    tree: tf.Tensor
    largest: tf.Tensor


@dataclass(frozen=True)
class Prioritized:
    """As `Uniform`, but rows are drawn in proportion to (how wrong they were + eps) to the power of alpha.

    Schaul et al. 2016, https://arxiv.org/abs/1511.05952, the proportional variant of Algorithm 1, one draw
    from each of `batch_size` equal parts of the sum (their section 3.3). A new row gets the largest priority that
    any had so far. beta: exponent of the importance weights (1 / (stored rows * probability)) ** beta, multiplied by
    `schedule`, at most 1; weights are divided by the largest of their batch (Algorithm 1 leaves open of what).
    """

    capacity: Annotated[int, at.Gt(0)] = 100_000
    n_step: Annotated[int, at.Gt(0)] = 1
    alpha: Annotated[float, at.Interval(ge=0, le=1)] = 0.6
    beta: Annotated[float, at.Interval(ge=0, le=1)] = 1.0
    eps: Annotated[float, at.Gt(0)] = 1e-6
    schedule: Schedule = field(default_factory=Constant)

    OFFERS: ClassVar[str] = "transitions"

    def init(self, row: Transition, num_envs: int) -> PrioritizedRows:
        rows = empty_rows(self.capacity, row, num_envs)
        return PrioritizedRows(rows, sum_tree.empty(self.capacity), tf.ones((), tf.float64))

    def add(self, state: PrioritizedRows, rows: Transition) -> PrioritizedRows:
        places = next_places(state.rows, rows.reward.shape[0], self.capacity)
        new = tf.repeat(state.largest[None], rows.reward.shape[0], axis=0)
        tree = sum_tree.put(state.tree, places, new, self.capacity)
        return state._replace(rows=add_rows(state.rows, rows, self.capacity), tree=tree)

    def sample(self, state: PrioritizedRows, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        stored = tf.minimum(state.rows.added, self.capacity)
        total = sum_tree.total(state.tree)
        fine, coarse = tf.unstack(tf.cast(rng.uniform(key, (2, batch_size)), tf.float64))
        within = coarse + fine * 2.0**-24  # 48 random bits: 24 cannot tell a million rows apart
        heights = (tf.range(batch_size, dtype=tf.float64) + within) / batch_size * total
        places = sum_tree.find(state.tree, heights, self.capacity)
        probability = sum_tree.sizes_of(state.tree, places, self.capacity) / total
        exponent = tf.minimum(self.beta * self.schedule(progress), 1.0)
        weight = tf.pow(tf.cast(stored, tf.float64) * probability, -tf.cast(exponent, tf.float64))
        weight = tf.cast(weight / tf.reduce_max(weight), tf.float32)
        return drawn(state.rows, places, self.capacity, self.n_step, gamma, progress)._replace(weight=weight)

    def learned(self, state: PrioritizedRows, batch: Batch, priority: tf.Tensor | None) -> PrioritizedRows:
        if priority is None:
            raise TypeError("a prioritized replay draws by what the algorithm's update returns, which is None.")
        size = tf.pow(tf.cast(tf.abs(priority), tf.float64) + self.eps, tf.cast(self.alpha, tf.float64))
        tree = sum_tree.put(state.tree, batch.place, size, self.capacity)
        return state._replace(tree=tree, largest=tf.maximum(state.largest, tf.reduce_max(size)))


def empty_rows(capacity: int, row: Transition, num_envs: int) -> Rows:
    """A ring of `capacity` rows shaped like `row`, with nothing in it."""
    laid = lay_out(tf.nest.map_structure(lambda leaf: leaf[None], row))
    empty = {dtype: tf.zeros((capacity, part.shape[1]), part.dtype) for dtype, part in laid.items()}
    return Rows(empty, tf.constant(0, tf.int64), tf.constant(num_envs, tf.int64), row)


def add_rows(state: Rows, rows: Transition, capacity: int) -> Rows:
    """The ring with N more rows, the oldest overwritten."""
    laid = lay_out(rows)
    count = next(iter(laid.values())).shape[0]
    places = next_places(state, count, capacity)[:, None]
    columns = {
        dtype: tf.tensor_scatter_nd_update(column, places, laid[dtype]) for dtype, column in state.columns.items()
    }
    return state._replace(columns=columns, added=state.added + count)


def next_places(state: Rows, count: int, capacity: int) -> tf.Tensor:
    """Where the next `count` rows go, int32[count] (the map's scatter takes no int64)."""
    return tf.cast((state.added + tf.range(count, dtype=tf.int64)) % capacity, tf.int32)


def drawn(state: Rows, places: tf.Tensor, capacity: int, n_step: int, gamma: Any, progress: Progress) -> Batch:
    """The batch that begins at `places` [B], each row of up to `n_step` steps."""
    first = tf.cast(places, tf.int32)
    if n_step == 1:
        batch = take_apart(_gathered(state, places, progress), state.row)
        ones = tf.ones(places.shape)
        return Batch(*batch, steps=ones, weight=ones, place=first)
    # Rows are numbered by when they came: k steps later is k * stride rows later, while that has come.
    place = tf.cast(places, tf.int64)
    number = place + (state.added - 1 - place) // capacity * capacity  # the newest that lies in this place
    numbers = number[:, None] + state.stride * tf.range(n_step, dtype=tf.int64)
    stored = numbers < state.added
    window_places = tf.cast(tf.reshape(numbers % capacity, (-1,)), tf.int32)
    rows = take_apart(_gathered(state, window_places, progress), state.row)
    window = tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (places.shape[0], n_step, *leaf.shape[1:])), rows)
    reward, steps = ops.n_step_return(window.reward, window.terminated, window.truncated, stored, gamma)
    last = tf.cast(steps, tf.int32) - 1
    at_last = lambda leaf: tf.gather(leaf, last, axis=1, batch_dims=1)  # noqa: E731
    return Batch(
        obs=window.obs[:, 0],
        action=window.action[:, 0],
        reward=reward,
        terminated=at_last(window.terminated),
        truncated=at_last(window.truncated),
        next_obs=at_last(window.next_obs),
        steps=steps,
        weight=tf.ones(places.shape),
        place=first,
    )


def _gathered(state: Rows, places: tf.Tensor, progress: Progress) -> dict[str, tf.Tensor]:
    gather = lambda column: tf.gather(column, places)  # noqa: E731
    return fence(lambda: {dtype: gather(column) for dtype, column in state.columns.items()}, progress.step)


def lay_out(rows: Tree) -> dict[str, tf.Tensor]:
    """Rows [B, ...] as one array [B, width] for each dtype: one write and one read instead of one a field."""
    parts: dict[str, list[tf.Tensor]] = {}
    for leaf in tf.nest.flatten(rows):
        parts.setdefault(leaf.dtype.name, []).append(tf.reshape(leaf, (leaf.shape[0], -1)))
    return {dtype: tf.concat(each, axis=1) for dtype, each in parts.items()}


def take_apart(laid: dict[str, tf.Tensor], row: Tree) -> Tree:
    """The inverse of `lay_out`: rows [B, ...] in the structure of `row`, which has no leading axis."""
    used = dict.fromkeys(laid, 0)
    leaves = []
    for leaf in tf.nest.flatten(row):
        dtype, width = leaf.dtype.name, math.prod(leaf.shape)
        part = laid[dtype][:, used[dtype] : used[dtype] + width]
        leaves.append(tf.reshape(part, (part.shape[0], *leaf.shape)))
        used[dtype] += width
    return tf.nest.pack_sequence_as(row, leaves)
