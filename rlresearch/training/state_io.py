"""A runner's state as arrays by name, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch import tree as trees
from rlresearch.buffers import Rows
from rlresearch.errors import ConfigError, RunError
from rlresearch.runners.step import OF_THE_ROW, Trainer
from rlresearch.storage.checkpoint import Loaded
from rlresearch.storage.tensor_files import Damaged, Ring
from rlresearch.types import Tree

_BEGINS_ANEW = re.compile(r"\.[^.]*(optimizer|noise)")


def snapshot(runner: Any) -> tuple[dict[str, np.ndarray], dict[str, Ring]]:
    """A runner's arrays by name, and its replays, whose rows are still in place: copy them before it goes on."""
    state = runner.state()
    arrays = {name: leaf.numpy() for name, leaf in trees.named_leaves(_without_columns(state), "state")}
    beside = {f"beside.{name}": part for name, part in runner.beside().items()}
    return arrays | beside, {name: _ring(rows) for name, rows in _rings(state, "state")}


def restore(runner: Any, loaded: Loaded) -> None:
    """Puts a checkpoint into a runner that was built alike. Errors: RunError where it was not."""
    arrays, where = loaded.arrays, f"checkpoint {loaded.path.name}"
    template = runner.state()
    for name, leaf in trees.named_leaves(_without_columns(template), "state"):
        own = f"{leaf.dtype.name}{tuple(leaf.shape)}"
        theirs = f"{arrays[name].dtype.name}{arrays[name].shape}" if name in arrays else "nothing"
        if own != theirs:
            raise RunError(f"{where} holds {theirs} for '{name}', this program needs {own}: it is of another version")
    rings = dict(_rings(template, "state"))
    if rings.keys() != loaded.manifest.rings.keys():
        raise RunError(f"{where} has other replays than this program: {', '.join(loaded.manifest.rings) or 'none'}")
    beside = {name.removeprefix("beside."): each for name, each in arrays.items() if name.startswith("beside.")}
    try:
        columns = {name: loaded.ring(name, _like(rows)) for name, rows in rings.items()}
        state = _refilled(template, "state", arrays, columns)
        runner.restore(loaded.about.iteration, state, beside)
    except (Damaged, KeyError) as error:
        raise RunError(f"{where} cannot be restored: {error}") from error


def begin_from(runner: Any, loaded: Loaded, index: int | None) -> None:
    """Gives a new run the parameters and normalisation of a checkpoint; moments and noise begin anew.

    index: of the member whose they are, where the checkpoint is a population's. ConfigError where they do not fit.
    """

    def leaf(own: tf.Tensor, name: str) -> tf.Tensor:
        if not name.startswith(("state.algo", "state.normalizer")) or _BEGINS_ANEW.search(name):
            return own
        theirs = loaded.arrays.get(name)
        if theirs is not None and index is not None:
            theirs = theirs[index]
        if theirs is None or theirs.shape not in (tuple(own.shape), tuple(own.shape)[1:]):
            has = "nothing" if theirs is None else f"shape {theirs.shape}"
            raise ConfigError(f"init_from: it has {has} for {name.removeprefix('state.')}, this run {own.shape}.")
        return tf.constant(np.broadcast_to(theirs, own.shape), own.dtype)

    state = runner.state()
    learned = _mapped({"algo": state.algo, "normalizer": state.normalizer}, lambda rows, _: rows, leaf, "state")
    runner.restore(0, state._replace(**learned), runner.beside())


class Learned(NamedTuple):
    """The part of a `RunState` that the deterministic policy is made of."""

    algo: Tree
    normalizer: Tree


def learned(trainer: Trainer, loaded: Loaded, index: int | None) -> Learned:
    """What a checkpoint knows of how to act. index: of the member, where it is a population's.

    Errors: RunError where it is another program's.
    """

    def leaf(own: tf.Tensor, name: str) -> tf.Tensor:
        theirs = loaded.arrays.get(name)
        theirs = theirs if theirs is None or index is None else theirs[index]
        if theirs is None or (theirs.shape, theirs.dtype) != (tuple(own.shape), own.dtype.as_numpy_dtype):
            raise RunError(f"checkpoint {loaded.path.name} has no '{name}' like this program's: of another version?")
        return tf.constant(theirs)

    template = Learned(trainer.algo.init(rng.key(0)), trainer.normalizer.init(trainer.algo.spec))
    return _mapped(template, lambda rows, _: rows, leaf, "state")


def state_digest(runner: Any) -> str:
    """128 bits of BLAKE2b of what a runner's state holds, replay included, as hexadecimal digits.

    Only the sums behind the next row are left out: two runs with the same digest have learned the same from the same,
    whatever of it they wrote down.
    """
    return _digest(runner.iteration, runner.state())


def member_digests(runner: Any, ended: Sequence[int | None] = ()) -> list[str]:
    """For each member of a population the digest that its state would have alone. ended: the iterations at which
    members ended before the others.
    """
    state = runner.state()
    whens = [runner.iteration if when is None else when for when in ended or [None] * len(runner.members)]
    return [_digest(when, trees.member(state, place)) for place, when in enumerate(whens)]


def _digest(iteration: int, state: Tree) -> str:
    running = hashlib.blake2b(str(iteration).encode(), digest_size=16)
    for name, leaf in trees.named_leaves(state, "state"):
        if name.removeprefix("state.").startswith(OF_THE_ROW):
            continue
        array = leaf.numpy()
        running.update(f"{name} {array.dtype.name} {array.shape}".encode())
        running.update(np.ascontiguousarray(array).data if array.size else b"")
    return running.hexdigest()


def _rings(tree: Tree, prefix: str) -> Iterator[tuple[str, Rows]]:
    """Every ring of rows in a tree, by its dotted path."""
    if isinstance(tree, Rows):
        yield prefix, tree
    else:
        for name, child in _children(tree):
            yield from _rings(child, f"{prefix}.{name}")


def _without_columns(tree: Tree) -> Tree:
    return _mapped(tree, lambda rows, _: rows._replace(columns=()), lambda leaf, _: leaf, "")


def _refilled(template: Tree, prefix: str, arrays: Mapping, columns: Mapping) -> Tree:
    """`template` with other values in all leaves."""

    def ring(rows: Rows, name: str) -> Rows:
        own = {part: tf.constant(arrays[f"{name}.{part}"]) for part in ("added", "stride")}
        filled = {dtype: tf.constant(column) for dtype, column in columns[name].items()}
        return Rows(filled, **own, row=_refilled(rows.row, f"{name}.row", arrays, columns))

    return _mapped(template, ring, lambda leaf, name: tf.constant(arrays[name]), prefix)


def _mapped(tree: Tree, ring: Callable, leaf: Callable, prefix: str) -> Tree:
    if isinstance(tree, Rows):
        return ring(tree, prefix)
    if not isinstance(tree, dict | list | tuple):
        return leaf(tree, prefix)
    children = {name: _mapped(child, ring, leaf, f"{prefix}.{name}") for name, child in _children(tree)}
    if isinstance(tree, dict):
        return children
    values = list(children.values())
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def _children(tree: Tree) -> list[tuple[Any, Tree]]:
    if isinstance(tree, dict):
        return sorted(tree.items())
    if hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    return list(enumerate(tree)) if isinstance(tree, list | tuple) else []


def _ring(rows: Rows) -> Ring:
    """The ring of one run, or of a population, whose members add rows together."""
    capacity = next(iter(rows.columns.values())).shape[-2]

    def between(begin: int, end: int) -> dict[str, np.ndarray]:
        first, last = begin % capacity, (end - 1) % capacity + 1
        parts = [(first, last)] if first < last else [(first, capacity), (0, last)]
        return {
            dtype: np.concatenate([column[..., a:b, :].numpy() for a, b in parts], axis=-2)
            for dtype, column in rows.columns.items()
        }

    return Ring(capacity, int(np.max(rows.added.numpy())), between)


def _like(rows: Rows) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types of a ring's columns, which take no memory."""
    empty = {dtype: np.zeros((), column.dtype.as_numpy_dtype) for dtype, column in rows.columns.items()}
    return {dtype: np.broadcast_to(each, rows.columns[dtype].shape) for dtype, each in empty.items()}
