"""A sum tree: samples a leaf with a probability in proportion to its size, and changes sizes.

Each node is the sum of FANOUT children. A search walks down the levels and a change walks up; neither sums all leaves
(Schaul et al. 2016, appendix B.2.1, whose tree is binary). One array float64[nodes] holds the levels one after the
other: first the top level of FANOUT nodes, last the leaves. Float32 sums would not do: in the sum of a million leaves
some 16 float32 numbers fall on one leaf. A changed node is summed again from its children, so rounding errors do not
grow, and one call may set a leaf twice. Shapes: B leaves changed or searched at once.
"""

from __future__ import annotations

import tensorflow as tf

FANOUT = 8  # 2 takes twice as long for its levels, 64 for its sums: scripts/benchmarks/replay_cost.py measures it


def empty(capacity: int) -> tf.Tensor:
    """The tree float64[nodes] of `capacity` leaves of size 0."""
    return tf.zeros(sum(_sizes(capacity)), tf.float64)


def update(tree: tf.Tensor, leaves: tf.Tensor, sizes: tf.Tensor, capacity: int) -> tf.Tensor:
    """The tree with sizes float64[B], at least 0, at `leaves` int32[B]."""
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


def get(tree: tf.Tensor, leaves: tf.Tensor, capacity: int) -> tf.Tensor:
    """The sizes float64[B] of leaves int32[B]."""
    return tf.gather(tree, _levels(capacity)[-1] + leaves)


def search(tree: tf.Tensor, heights: tf.Tensor, capacity: int) -> tf.Tensor:
    """The leaves int32[B] that cover heights float64[B] in [0, total), with all leaves stacked in order.

    A leaf of size 0 is never returned while another has a size.
    """
    node = tf.zeros(heights.shape, tf.int32)
    for begin in _levels(capacity):
        children = _children(tree, begin, node)
        ends = tf.cumsum(children, axis=1)
        child = tf.reduce_sum(tf.cast(ends <= heights[:, None], tf.int32), axis=1)
        # By rounding a height may lie beyond all children: take the last that has a size.
        child = tf.minimum(child, tf.reduce_max(tf.where(children > 0.0, tf.range(FANOUT), 0), axis=1))
        before = tf.sequence_mask(child, FANOUT, tf.float64)
        heights = heights - tf.reduce_sum(children * before, axis=1)
        node = node * FANOUT + child
    return node


def _children(tree: tf.Tensor, begin: int, parent: tf.Tensor) -> tf.Tensor:
    """The children float64[B, FANOUT] of each parent int32[B], on the level that starts at node `begin`."""
    return tf.gather(tree, begin + parent[:, None] * FANOUT + tf.range(FANOUT))


def _sizes(capacity: int) -> list[int]:
    """The number of nodes of each level, from the top: multiples of FANOUT."""
    sizes = [-(-capacity // FANOUT) * FANOUT]
    while sizes[0] > FANOUT:
        sizes.insert(0, -(-(sizes[0] // FANOUT) // FANOUT) * FANOUT)
    return sizes


def _levels(capacity: int) -> list[int]:
    """The first node of each level, from the top."""
    sizes = _sizes(capacity)
    return [sum(sizes[:i]) for i in range(len(sizes))]
