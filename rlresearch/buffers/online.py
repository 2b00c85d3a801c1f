"""No replay: the newest transition of each environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from rlresearch.buffer_contract import BufferBytes
from rlresearch.buffers.packing import ended
from rlresearch.types import Batch, Key, Progress, Transition


@dataclass(frozen=True)
class OnlineBuffer:
    """No replay. Each environment's newest transition is learned from once, in the order of the environments.

    A batch has N rows, one an environment, whatever batch size is asked for.
    """

    OFFERS: ClassVar[str] = "transitions"
    capacity: ClassVar[int] = 2**31  # no bound: it holds as many rows as there are environments

    def init(self, row: Transition, num_envs: int) -> Transition:
        """Rows of zeros [N, ...], shaped like `row` (no leading axis), for N = `num_envs` environments."""
        return tf.nest.map_structure(lambda leaf: tf.zeros((num_envs, *leaf.shape), leaf.dtype), row)

    def add(self, state: Transition, rows: Transition) -> Transition:
        """The rows [N, ...] in place of the former ones."""
        return rows

    def sample(self, state: Transition, key: Key, batch_size: int, gamma: Any, progress: Progress) -> Batch:
        """The newest rows as a batch [N, ...]; the weights are 1."""
        ones = tf.ones(state.reward.shape)
        return Batch(**state._asdict(), steps=ones, weight=ones, indices=tf.range(state.reward.shape[0]))

    def end_episodes(self, state: Transition, which: tf.Tensor) -> Transition:
        """The rows, of which those of the environments `which` bool[N] are truncated ones."""
        return ended(state, which)

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """None that counts: it is no replay."""
        return BufferBytes()

    def update_priorities(self, state: Transition, batch: Batch, priority: tf.Tensor | None) -> Transition:
        """The rows unchanged; `priority` float32[B] has no effect."""
        return state
