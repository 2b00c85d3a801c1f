"""Where the members of a population are computed, once some of them have ended.

Each member has a place in a share. When members end, the others move into as few shares as hold them, and shares that
are left over are not computed any more. A member computes the same at every place of shares of one size; in another
size sums are added up in another order, so nobody moves there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch.runners.store import Store
from rlresearch.tree import member as member_of
from rlresearch.types import Tree


class MemberPlacement:
    """running: the shares, by index, in which somebody goes on. At first everybody does, each at a place of its own
    number.
    """

    def __init__(self, shares: Sequence[slice]) -> None:
        self._shares = [range(share.start, share.stop) for share in shares]
        self._member_at = list(range(self._shares[-1].stop))
        self._active = [True] * len(self._member_at)
        # By number, those that have ended and are computed on beside others, as they were then. Arrays: on a GPU they
        # would take the place of a program's.
        self._kept: dict[int, Tree] = {}
        self.running = list(range(len(shares)))

    def by_place(self, tree: Any) -> Any:
        """The rows of members in the order of places."""
        return self._gathered(tree, self._member_at)

    def by_member(self, tree: Any) -> Any:
        """The rows of places in the order of members."""
        return self._gathered(tree, np.argsort(self._member_at))

    def states(self, tree: Tree) -> Tree:
        """The states of places in the order of members; of those that have ended as they were then."""
        tree = self.by_member(tree)
        return _overwritten(tree, self._kept) if self._kept else tree

    def set_active(self, active: Sequence[bool], stores: Sequence[Store]) -> None:
        """From now on members that are not active stand still. stores: of the shares."""
        if list(active) == self._active:
            return
        self._active = list(active)
        running, moves = self._packed()
        rows: dict[int, Tree] = {}
        for hole, place in moves:
            ended = self._member_at[hole]
            rows[hole] = self._row(place, stores)
            rows[place] = self._kept.pop(ended) if ended in self._kept else self._row(hole, stores)
            self._member_at[hole], self._member_at[place] = self._member_at[place], ended
        for index in set(self.running) - set(running):
            for place in self._shares[index]:
                if (member := self._member_at[place]) in self._kept:
                    rows[place] = self._kept.pop(member)
        for share, store in zip(self._shares, stores, strict=True):
            own = {place - share.start: rows[place] for place in share if place in rows}
            if own:
                store.write(_overwritten(store.read(), own))
        self.running = running
        for place in (place for index in running for place in self._shares[index]):
            member = self._member_at[place]
            if not self._active[member] and member not in self._kept:
                self._kept[member] = tf.nest.map_structure(lambda leaf: leaf.numpy(), self._row(place, stores))

    def _packed(self) -> tuple[list[int], list[tuple[int, int]]]:
        """The shares that are needed, and who moves there: pairs of a place that has ended and one that goes on."""
        needed: list[int] = []
        moves: list[tuple[int, int]] = []
        for size in {len(share) for share in self._shares}:
            alike = [index for index in self.running if len(self._shares[index]) == size]
            active = {index: [place for place in self._shares[index] if self._is_active(place)] for index in alike}
            count = -(-sum(map(len, active.values())) // size)
            fullest = sorted(alike, key=lambda index: (-len(active[index]), index))
            holes = [p for index in fullest[:count] for p in self._shares[index] if not self._is_active(p)]
            moves += zip(holes, [place for index in fullest[count:] for place in active[index]])
            needed += fullest[:count]
        return sorted(needed), moves

    def _is_active(self, place: int) -> bool:
        return self._active[self._member_at[place]]

    def _row(self, place: int, stores: Sequence[Store]) -> Tree:
        index = next(index for index, share in enumerate(self._shares) if place in share)
        return member_of(stores[index].read(), place - self._shares[index].start)

    def _gathered(self, tree: Any, order: Sequence[int] | np.ndarray) -> Any:
        if list(order) == list(range(len(self._member_at))):
            return tree
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, order), tree)


def _overwritten(tree: Tree, rows: Mapping[int, Tree]) -> Tree:
    """The tree with other rows at some places."""
    count = tf.nest.flatten(tree)[0].shape[0]
    order = np.arange(count)
    order[list(rows)] = count + np.arange(len(rows))

    def overwritten(leaf: tf.Tensor, *own: Any) -> tf.Tensor:
        new = tf.stack([tf.convert_to_tensor(each, leaf.dtype) for each in own])
        return tf.gather(tf.concat([leaf, new], axis=0), order)

    return tf.nest.map_structure(overwritten, tree, *rows.values())
