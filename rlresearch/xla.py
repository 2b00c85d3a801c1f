"""A line that XLA does not compute across."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from rlresearch.types import Tree


def fence(compute: Callable[[], Tree], count: tf.Tensor) -> Tree:
    """What `compute()` returns, computed once, from operands that are computed once.

    XLA merges small computations into whatever reads them, and repeats them for each reader: the random
    numbers behind a replay index for every number that is gathered, the whole of Pendulum for every array
    that stores a part of it. Worse, it reads replay rows through the write of the newest one and copies
    the whole replay to do so. It merges nothing into a conditional, so this is one, whose condition always
    holds: `count` is an integer scalar, never negative, which XLA cannot know of a loop's counter. Not
    mapped over members, or the condition would be.
    """
    made: list[Tree] = []

    def real() -> Tree:
        made.append(compute())
        return made[0]

    def never() -> Tree:
        return tf.nest.map_structure(lambda leaf: tf.zeros(leaf.shape, leaf.dtype), made[0])

    return tf.cond(count >= 0, real, never)
