"""A run's state between two calls of a compiled function.

Tensors passed to a compiled function are copied at every call, variables are updated in place; but
each variable costs some 8 us a call. So large leaves (replay) have a variable each, and all the small
ones of a type share one, laid end to end. This is the only place where state is packed.
"""

from __future__ import annotations

import math

import tensorflow as tf

from rlresearch.types import Tree

LARGE = 2**20  # bytes from which a leaf gets a variable of its own


class Store:
    """Holds one tree. `read` and `write` are for use inside a `tf.function`, or eagerly."""

    def __init__(self, tree: Tree) -> None:
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(tree)]
        self._structure = tf.nest.map_structure(lambda _: 0, tree)
        self._shapes = [tuple(leaf.shape) for leaf in leaves]
        self._groups = _groups(leaves)
        self._variables = [
            tf.Variable(leaves[group[0]] if len(group) == 1 else _laid_out(leaves, group)) for group in self._groups
        ]

    def read(self) -> Tree:
        leaves: list = [None] * len(self._shapes)
        for group, variable in zip(self._groups, self._variables, strict=True):
            if len(group) == 1:
                leaves[group[0]] = variable.read_value()
                continue
            parts = tf.split(variable.read_value(), [math.prod(self._shapes[i]) for i in group])
            for index, part in zip(group, parts, strict=True):
                leaves[index] = tf.reshape(part, self._shapes[index])
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def write(self, tree: Tree) -> None:
        leaves = tf.nest.flatten(tree)
        for group, variable in zip(self._groups, self._variables, strict=True):
            variable.assign(leaves[group[0]] if len(group) == 1 else _laid_out(leaves, group))


def _groups(leaves: list[tf.Tensor]) -> list[list[int]]:
    """Indices of leaves that share a variable."""
    alone, shared = [], {}
    for index, leaf in enumerate(leaves):
        if math.prod(leaf.shape) * leaf.dtype.size >= LARGE:
            alone.append([index])
        else:
            shared.setdefault(leaf.dtype.name, []).append(index)
    return alone + list(shared.values())


def _laid_out(leaves: list[tf.Tensor], group: list[int]) -> tf.Tensor:
    return tf.concat([tf.reshape(leaves[index], (-1,)) for index in group], axis=0)
