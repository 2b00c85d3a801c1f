"""A runner's state as arrays by name, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.buffer_contract import AppendOnly, GrowingRows
from rlresearch.errors import ConfigError, RunError
from rlresearch.runners.metrics import RESET_EACH_ROW
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep
from rlresearch.storage.checkpoint import Checkpoint
from rlresearch.storage.tensor_files import CorruptCheckpointError, Ring
from rlresearch.tree import member, named_leaves
from rlresearch.types import Buffer, Tree

_SAMPLED = 256  # rows of a ring
_BEGINS_ANEW = re.compile(r"\.[^.]*(optimizer|noise)")


class Sample(NamedTuple):
    """Some rows of a ring, by which it is known again. numbers: int64[K]; rows: by column, [..., K, width]."""

    numbers: np.ndarray
    rows: dict[str, np.ndarray]


class Snapshot(NamedTuple):
    """What is saved of a runner. rings: rows that only grow, still in place: copy them before the runner advances.

    samples: of each ring some rows. changed: the rings in which a row that was sampled before is another one now.
    """

    arrays: dict[str, np.ndarray]
    rings: dict[str, Ring]
    samples: dict[str, Sample]
    changed: frozenset[str] = frozenset()

    @property
    def content(self) -> str:
        """128 bits of BLAKE2b of the arrays and the samples, as hexadecimal digits."""
        running = hashlib.blake2b(digest_size=16)
        for name, array in sorted(self.arrays.items()):
            _add(running, name, array)
        for name, sample in sorted(self.samples.items()):
            for column, rows in sorted(sample.rows.items()):
                _add(running, f"{name}.{column}", rows)
        return running.hexdigest()


def snapshot(runner: Runner, buffer: Buffer | None, before: Mapping[str, Sample] = {}) -> Snapshot:
    """A runner's state as arrays by name.

    buffer: says which rows of its state only grow; None: none do. before: the samples of the snapshot before this one.
    """
    state = runner.state()
    growing = _growing(state, buffer)
    columns = {f"{name}.columns" for name in growing}
    arrays = {name: leaf.numpy() for name, leaf in named_leaves(_pruned(state, columns), "state")}
    arrays |= {f"beside.{name}": part for name, part in runner.extra_state().items()}
    rings = {name: _ring(rows) for name, rows in growing.items()}
    samples = {name: _sample(growing[name], ring) for name, ring in rings.items()}
    changed = {name for name, ring in rings.items() if name in before and _differs(growing[name], ring, before[name])}
    return Snapshot(arrays, rings, samples, frozenset(changed))


def restore(runner: Runner, buffer: Buffer | None, loaded: Checkpoint) -> None:
    """Puts a checkpoint into a runner that was built alike. Errors: RunError where it was not."""
    arrays, where = loaded.arrays, f"checkpoint {loaded.path.name}"
    template = runner.state()
    growing = _growing(template, buffer)
    columns = {f"{name}.columns" for name in growing}
    for name, leaf in named_leaves(_pruned(template, columns), "state"):
        own = f"{leaf.dtype.name}{tuple(leaf.shape)}"
        theirs = f"{arrays[name].dtype.name}{arrays[name].shape}" if name in arrays else "nothing"
        if own != theirs:
            raise RunError(f"{where} holds {theirs} for '{name}', this program needs {own}: it is of another version")
    if growing.keys() != loaded.manifest.rings.keys():
        raise RunError(f"{where} has other replays than this program: {', '.join(loaded.manifest.rings) or 'none'}")
    extra_state = {name.removeprefix("beside."): each for name, each in arrays.items() if name.startswith("beside.")}
    try:
        filled = {f"{name}.columns": loaded.ring(name, _like(rows)) for name, rows in growing.items()}
        state = _filled(template, arrays, filled)
        runner.restore(loaded.about.iteration, state, extra_state)
    except (CorruptCheckpointError, KeyError) as error:
        raise RunError(f"{where} cannot be restored: {error}") from error
    if loaded.about.content:  # "" in checkpoints of version 0.1
        _check_content(snapshot(runner, buffer), loaded, where)


def _check_content(restored: Snapshot, loaded: Checkpoint, where: str) -> None:
    """RunError where what was restored is not what was saved."""
    if restored.content == loaded.about.content:
        return
    for name, array in restored.arrays.items():
        if name not in loaded.arrays or array.tobytes() != loaded.arrays[name].tobytes():
            raise RunError(f"{where} was restored, but '{name}' is not what was saved")
    raise RunError(
        f"{where} holds other rows than the replay held: the buffer's append_only names rows that change after they "
        "are added. Leave such rows out of it"
    )


def begin_from(runner: Runner, loaded: Checkpoint, index: int | None) -> None:
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
    learned = _mapped({"algo": state.algo, "normalizer": state.normalizer}, leaf, "state")
    runner.restore(0, state._replace(**learned), runner.extra_state())


class Learned(NamedTuple):
    """The part of a `TrainState` that the deterministic policy is made of."""

    algo: Tree
    normalizer: Tree


def learned(trainer: TrainingStep, loaded: Checkpoint, index: int | None) -> Learned:
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
    return _mapped(template, leaf, "state")


def state_digest(runner: Runner) -> str:
    """128 bits of BLAKE2b of what a runner's state holds, replay included, as hexadecimal digits.

    Only the sums behind the next row are left out: two runs with the same digest have learned the same from the same,
    whatever of it they wrote down.
    """
    return _digest(runner.iteration, runner.state())


def member_digests(runner: Runner, ended: Sequence[int | None] = ()) -> list[str]:
    """For each member of a population the digest that its state would have alone. ended: the iterations at which
    members ended before the others.
    """
    state = runner.state()
    whens = [runner.iteration if when is None else when for when in ended or [None] * len(runner.members)]
    return [_digest(when, member(state, place)) for place, when in enumerate(whens)]


def _digest(iteration: int, state: Tree) -> str:
    running = hashlib.blake2b(str(iteration).encode(), digest_size=16)
    for name, leaf in named_leaves(state, "state"):
        if name.removeprefix("state.").startswith(RESET_EACH_ROW):
            continue
        _add(running, name, leaf.numpy())
    return running.hexdigest()


def _growing(state: Tree, buffer: Buffer | None) -> dict[str, GrowingRows]:
    """The rows of a runner's state that only grow, by the dotted path of the tuple that holds them."""
    if not isinstance(buffer, AppendOnly):
        return {}
    return {f"state.buffer.{path}".rstrip("."): rows for path, rows in buffer.append_only(state.buffer).items()}


def _sample(rows: GrowingRows, ring: Ring) -> Sample:
    """RingState evenly spread over what a ring holds."""
    stored = ring.added - ring.oldest
    numbers = np.unique(ring.oldest + stored * np.arange(_SAMPLED if stored else 0, dtype=np.int64) // _SAMPLED)
    return Sample(numbers, _rows_at(rows, ring, numbers))


def _differs(rows: GrowingRows, ring: Ring, before: Sample) -> bool:
    """Whether a row that was sampled before, and is still there, is not what it was."""
    there = before.numbers >= ring.oldest
    now = _rows_at(rows, ring, before.numbers[there])
    return any(now[name].tobytes() != column[..., there, :].tobytes() for name, column in before.rows.items())


def _rows_at(rows: GrowingRows, ring: Ring, numbers: np.ndarray) -> dict[str, np.ndarray]:
    places = numbers % ring.capacity
    return {name: tf.gather(column, places, axis=-2).numpy() for name, column in rows.columns.items()}


def _add(running: Any, name: str, array: np.ndarray) -> None:
    running.update(f"{name} {array.dtype.name} {array.shape}".encode())
    running.update(np.ascontiguousarray(array).data if array.size else b"")


def _pruned(tree: Tree, gone: Collection[str]) -> Tree:
    """The tree with nothing at some dotted paths."""
    return _mapped(tree, lambda leaf, _: leaf, "state", dict.fromkeys(gone, ()))


def _filled(template: Tree, arrays: Mapping[str, np.ndarray], subtrees: Mapping[str, Any]) -> Tree:
    """`template` with other values in all leaves, and whole subtrees at some dotted paths."""
    tensors = {path: {name: tf.constant(part) for name, part in parts.items()} for path, parts in subtrees.items()}
    return _mapped(template, lambda leaf, name: tf.constant(arrays[name]), "state", tensors)


def _mapped(tree: Tree, leaf: Callable[[tf.Tensor, str], Any], path: str, given: Mapping[str, Any] = {}) -> Tree:
    """`leaf(value, path)` in place of every leaf; `given`: what stands at some paths instead."""
    if path in given:
        return given[path]
    if not isinstance(tree, dict | list | tuple):
        return leaf(tree, path)
    children = {name: _mapped(child, leaf, f"{path}.{name}", given) for name, child in _children(tree)}
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


def _ring(rows: GrowingRows) -> Ring:
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


def _like(rows: GrowingRows) -> dict[str, np.ndarray]:
    """Arrays of the shapes and types of a ring's columns, which take no memory."""
    empty = {dtype: np.zeros((), column.dtype.as_numpy_dtype) for dtype, column in rows.columns.items()}
    return {dtype: np.broadcast_to(each, rows.columns[dtype].shape) for dtype, each in empty.items()}
