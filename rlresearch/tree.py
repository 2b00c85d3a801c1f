"""Nested structures of tensors: stack, concatenate, index, name their leaves. Built on `tf.nest`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from rlresearch.types import Tree


def stack(trees: Sequence[Tree]) -> Tree:
    """One tree with leaves [len(trees), ...], from trees with leaves [...]."""
    return tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *trees)


def concat(trees: Sequence[Tree]) -> Tree:
    """One tree with leaves [M1 + M2 + ..., ...], from trees with leaves [M1, ...], [M2, ...] and so on."""
    if len(trees) == 1:
        return trees[0]
    return tf.nest.map_structure(lambda *leaves: tf.concat(leaves, axis=0), *trees)


def repeat(tree: Tree, times: int) -> Tree:
    """The tree with leaves [times, ...], all rows equal, from leaves [...]."""
    return tf.nest.map_structure(lambda leaf: tf.repeat(leaf[None], times, axis=0), tree)


def member(tree: Tree, index: int) -> Tree:
    """Row `index` of every leaf: leaves [...] from leaves [M, ...]."""
    return tf.nest.map_structure(lambda leaf: leaf[index], tree)


def named_leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, tf.Tensor]]:
    """(dotted path, leaf of any shape) in `tf.nest` order: `algo.actor.trainable.0`. Checkpoints use these names."""
    children: Iterable[tuple[Any, Any]]
    if isinstance(tree, dict):
        children = sorted(tree.items())
    elif hasattr(tree, "_fields"):
        children = zip(tree._fields, tree, strict=True)
    elif isinstance(tree, list | tuple):
        children = enumerate(tree)
    else:
        yield prefix, tree
        return
    for name, child in children:
        yield from named_leaves(child, f"{prefix}.{name}" if prefix else str(name))
