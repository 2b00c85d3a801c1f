"""Rows as one array for each dtype: a buffer writes and reads that in place of an array for each field. B: rows."""

from __future__ import annotations

import math

import tensorflow as tf

from rlresearch.types import Transition, Tree


def pack(rows: Tree) -> dict[str, tf.Tensor]:
    """Rows [B, ...] as one array [B, width] for each dtype, the fields side by side in `tf.nest` order."""
    parts: dict[str, list[tf.Tensor]] = {}
    for leaf in tf.nest.flatten(rows):
        parts.setdefault(leaf.dtype.name, []).append(tf.reshape(leaf, (leaf.shape[0], -1)))
    return {dtype: tf.concat(each, axis=1) for dtype, each in parts.items()}


def ended(rows: Transition, which: tf.Tensor) -> Transition:
    """Rows [B] of which those `which` bool[B] end their episodes: truncated, where they are not terminated."""
    cut = tf.logical_and(which, tf.logical_not(rows.terminated))
    return rows._replace(truncated=tf.logical_or(rows.truncated, cut))


def unpack(packed: dict[str, tf.Tensor], row: Tree) -> Tree:
    """The inverse of `pack`: rows [B, ...] in the structure of `row`, which has no leading axis."""
    used = dict.fromkeys(packed, 0)
    leaves = []
    for leaf in tf.nest.flatten(row):
        dtype, width = leaf.dtype.name, math.prod(leaf.shape)
        part = packed[dtype][:, used[dtype] : used[dtype] + width]
        leaves.append(tf.reshape(part, (part.shape[0], *leaf.shape)))
        used[dtype] += width
    return tf.nest.pack_sequence_as(row, leaves)
