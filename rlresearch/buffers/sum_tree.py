"""A sum tree: numbers of which one is drawn in proportion to its size, and any can be changed.

Each node is the sum of FANOUT children, so a draw walks down and a change walks up a few levels, in place
of summing all numbers (Schaul et al. 2016, appendix B.2.1, whose tree is binary). The levels lie one after
the other in one array float64[nodes], the topmost, of FANOUT nodes, first, the leaves last: float32 sums of
a million numbers would leave a leaf some 16 values that fall on it. A changed node is summed anew from its
children, so no error builds up and the same leaf may be set twice in one call.
Shapes: B leaves set or found at once.
"""

from __future__ import annotations

import tensorflow as tf

FANOUT = 8  # 2 takes twice as long for its levels, 64 for its sums: scripts/benchmarks/replay_cost.py measures it


def empty(capacity: int) -> tf.Tensor:
    """float64[nodes], all 0, for `capacity` leaves."""
    return tf.zeros(sum(_sizes(capacity)), tf.float64)


def put(tree: tf.Tensor, leaves: tf.Tensor, sizes: tf.Tensor, capacity: int) -> tf.Tensor:
    """The tree with sizes float64[B], none negative, at `leaves` int32[B]."""
    levels = _levels(capacity)
    tree = tf.tensor_scatter_nd_update(tree, (levels[-1] + leaves)[:, None], sizes)
    for above, below in zip(levels[-2::-1], levels[:0:-1]):
        leaves = leaves // FANOUT
        sums = tf.reduce_sum(_children(tree, below, leaves), axis=1)
        tree = tf.tensor_scatter_nd_update(tree, (above + leaves)[:, None], sums)
    return tree


def total(tree: tf.Tensor) -> tf.Tensor:
    """The sum of all leaves, float64 scalar."""
    return tf.reduce_sum(tree[:FANOUT])


def sizes_of(tree: tf.Tensor, leaves: tf.Tensor, capacity: int) -> tf.Tensor:
    """The sizes float64[B] of leaves int32[B]."""
    return tf.gather(tree, _levels(capacity)[-1] + leaves)


def find(tree: tf.Tensor, heights: tf.Tensor, capacity: int) -> tf.Tensor:
    """The leaves int32[B] on which heights float64[B] in [0, total) fall, all leaves stacked in their order.

    A leaf of size 0 is never found, as long as there is another.
    """
    place = tf.zeros(heights.shape, tf.int32)
    for begin in _levels(capacity):
        children = _children(tree, begin, place)
        ends = tf.cumsum(children, axis=1)
        child = tf.reduce_sum(tf.cast(ends <= heights[:, None], tf.int32), axis=1)
        # Rounding may put a height beyond them all.
        child = tf.minimum(child, tf.reduce_max(tf.where(children > 0.0, tf.range(FANOUT), 0), axis=1))
        before = tf.sequence_mask(child, FANOUT, tf.float64)
        heights = heights - tf.reduce_sum(children * before, axis=1)
        place = place * FANOUT + child
    return place


def _children(tree: tf.Tensor, begin: int, parent: tf.Tensor) -> tf.Tensor:
    """The nodes float64[B, FANOUT] below each parent int32[B], on the level that begins at `begin`."""
    return tf.gather(tree, begin + parent[:, None] * FANOUT + tf.range(FANOUT))


def _sizes(capacity: int) -> list[int]:
    """How many nodes each level has, from the top: whole families of FANOUT."""
    sizes = [-(-capacity // FANOUT) * FANOUT]
    while sizes[0] > FANOUT:
        sizes.insert(0, -(-(sizes[0] // FANOUT) // FANOUT) * FANOUT)
    return sizes


def _levels(capacity: int) -> list[int]:
    """Where each level begins, from the top."""
    sizes = _sizes(capacity)
    return [sum(sizes[:i]) for i in range(len(sizes))]
