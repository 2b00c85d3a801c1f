"""An optimization barrier: XLA does not merge computations across it."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.types import Tree


def barrier(compute: Callable[[], Tree], count: tf.Tensor) -> Tree:
    """`compute()`, computed once, from operands that are computed once.

    XLA merges a small computation into each of its readers and repeats it there: the random numbers of a replay
    index for every number that is gathered, all of Pendulum for every array that stores a part of it. It also
    reads replay rows through the write of the newest row, and copies the whole replay to do so. XLA merges nothing
    into a conditional, so this is one. Its condition always holds, but XLA cannot know: count is an integer scalar,
    at least 0, such as a loop's counter. Members of a population must share `count`, or the condition is mapped.
    """
    results: list[Tree] = []

    def real() -> Tree:
        results.append(compute())
        return results[0]

    def never() -> Tree:
        return tf.nest.map_structure(lambda leaf: tf.zeros(leaf.shape, leaf.dtype), results[0])

    return tf.cond(count >= 0, real, never)
