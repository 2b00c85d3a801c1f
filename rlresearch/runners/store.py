"""A run's state between two calls of a compiled function.

Tensors passed to a compiled function are copied at every call, variables are updated in place; but
each variable costs some 8 us a call. So large leaves (replay) have a variable each, and the small ones
share three, laid end to end: one for float32, one for float64, one for everything else, which int64 holds exactly.
This is the only place where state is packed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import tensorflow as tf

from rlresearch.types import Tree

LARGE = 2**16  # bytes from which a variable of its own costs less than copying the leaf twice a call


class Store:
    """Holds one tree. `read` and `write` are for use inside a `tf.function`, or eagerly. variables: in which it is."""

    def __init__(self, tree: Tree) -> None:
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(tree)]
        self._structure = tf.nest.map_structure(lambda _: 0, tree)
        self._kinds = [(tuple(leaf.shape), leaf.dtype) for leaf in leaves]
        self._groups = _groups(leaves)
        self.variables = [tf.Variable(_laid_out(leaves, group)) for group in self._groups]

    def bind(self, variables: Sequence[tf.Variable]) -> Store:
        """The store of a tree alike, in variables of its own."""
        other = copy.copy(self)
        other.variables = list(variables)
        return other

    def read(self) -> Tree:
        """The tree, with the shapes and types it was made with."""
        leaves: list[tf.Tensor | None] = [None] * len(self._kinds)
        for group, variable in zip(self._groups, self.variables, strict=True):
            if len(group) == 1:
                parts = [variable.read_value()]
            else:
                parts = tf.split(variable.read_value(), [math.prod(self._kinds[i][0]) for i in group])
            for index, part in zip(group, parts, strict=True):
                shape, dtype = self._kinds[index]
                leaves[index] = tf.reshape(tf.cast(part, dtype), shape)
        return tf.nest.pack_sequence_as(self._structure, leaves)

    def write(self, tree: Tree) -> None:
        """Replaces the tree by one of the same shapes."""
        leaves = tf.nest.flatten(tree)
        for group, variable in zip(self._groups, self.variables, strict=True):
            variable.assign(_laid_out(leaves, group))


def _groups(leaves: list[tf.Tensor]) -> list[list[int]]:
    """Indices of leaves that share a variable."""
    alone: list[list[int]] = []
    shared: dict[tf.DType, list[int]] = {tf.float32: [], tf.float64: [], tf.int64: []}
    for index, leaf in enumerate(leaves):
        large = math.prod(leaf.shape) * leaf.dtype.size >= LARGE
        kind = tf.int64 if leaf.dtype in (tf.uint32, tf.int32, tf.bool) else leaf.dtype
        if large or kind not in shared:
            alone.append([index])
        else:
            shared[kind].append(index)
    return alone + [group for group in shared.values() if group]


def _laid_out(leaves: list[tf.Tensor], group: list[int]) -> tf.Tensor:
    if len(group) == 1:
        return leaves[group[0]]
    flat = [tf.reshape(leaves[index], (-1,)) for index in group]
    return tf.concat(flat if flat[0].dtype.is_floating else [tf.cast(each, tf.int64) for each in flat], axis=0)
