"""What a buffer may say about its storage: how many bytes it needs, and which of its rows only grow.

Checkpoints save only the new rows of a buffer that is `AppendOnly`. They save any other buffer whole each time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from rlresearch.types import Tree

if TYPE_CHECKING:
    import tensorflow as tf


class GrowingRows(NamedTuple):
    """Rows that change only by adding: a new row takes the next index, or that of the oldest row.

    columns: arrays [..., capacity, width] by name. added: int64 [...], rows ever added. Row number i has the index
    i % capacity. Leading axes are those of members.
    """

    columns: Mapping[str, tf.Tensor]
    added: tf.Tensor


@runtime_checkable
class AppendOnly(Protocol):
    """A buffer that tells which of its rows only grow."""

    def append_only(self, state: Tree) -> Mapping[str, GrowingRows]:
        """The rows that only grow, by the dotted path in `state` of the tuple that has them under `columns`."""
        ...


@runtime_checkable
class Endable(Protocol):
    """A buffer that can be told, after rows were added, that their episodes ended there."""

    def end_episodes(self, state: Tree, which: tf.Tensor) -> Tree:
        """The state in which the newest rows of the environments `which` bool[N] are truncated ones."""
        ...


class BufferBytes(NamedTuple):
    """The memory of a buffer, in bytes. growing: of rows that only grow. rewritten: of what changes anywhere."""

    growing: int = 0
    rewritten: int = 0


@runtime_checkable
class Sized(Protocol):
    """A buffer that tells how many bytes it needs before it is made."""

    def nbytes(self, row_bytes: int) -> BufferBytes:
        """The bytes for rows of `row_bytes` bytes each, without what is small beside a machine's memory."""
        ...
