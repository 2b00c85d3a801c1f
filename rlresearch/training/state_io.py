"""Converts the state of a runner to arrays by name, and back."""

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

_SAMPLED = 256  # rows of a ring in a sample
_BEGINS_ANEW = re.compile(r"\.[^.]*(optimizer|noise)")


class Sample(NamedTuple):
    """Some rows of a ring, to detect changes later. numbers: int64[K]. rows: by column, each [..., K, width]."""

    numbers: np.ndarray
    rows: dict[str, np.ndarray]


class Snapshot(NamedTuple):
    """The saved state of a runner. rings: append-only rows, not copied yet; copy them before the runner advances.

    samples: some rows of each ring. changed: the rings in which a row of the last sample has changed.
    """

    arrays: dict[str, np.ndarray]
    rings: dict[str, Ring]
    samples: dict[str, Sample]
    changed: frozenset[str] = frozenset()

    @property
    def content(self) -> str:
        """The BLAKE2b digest of the arrays and the samples, 128 bits as 32 hexadecimal digits."""
        running = hashlib.blake2b(digest_size=16)
        for name, array in sorted(self.arrays.items()):
            _add(running, name, array)
        for name, sample in sorted(self.samples.items()):
            for column, rows in sorted(sample.rows.items()):
                _add(running, f"{name}.{column}", rows)
        return running.hexdigest()


def snapshot(runner: Runner, buffer: Buffer | None, before: Mapping[str, Sample] = {}) -> Snapshot:
    """Returns the state of a runner as arrays by name.

    buffer: names the append-only rows of its state; None for no such rows. before: the samples of the last snapshot.
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
    """Loads a checkpoint into a runner of the same build. Errors: RunError where names, shapes or dtypes differ."""
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
    """Compares digests. Errors: RunError where the restored state differs from the saved one."""
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
    """Gives a new run the parameters and normalisation of a checkpoint, but new optimizer moments and noise.

    index: the member, where the checkpoint is of a population. Errors: ConfigError where the shapes do not fit.
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
    """The part of a `TrainState` that the deterministic policy needs."""

    algo: Tree
    normalizer: Tree


def learned(trainer: TrainingStep, loaded: Checkpoint, index: int | None) -> Learned:
    """Returns the part of a checkpoint that the policy needs. index: the member, where it is of a population.

    Errors: RunError where an array is missing, or its shape or dtype differs.
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
    """Returns the BLAKE2b digest of a runner's state with its replay, 128 bits as 32 hexadecimal digits.

    Only the sums for the next metrics row are left out, so the digest does not depend on how often rows are written.
    """
    return _digest(runner.iteration, runner.state())


def member_digests(runner: Runner, ended: Sequence[int | None] = ()) -> list[str]:
    """Returns for each member of a population the digest that its state would have in a run alone.

    ended: the iteration at which each member ended early, or None.
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
    """Returns the append-only rows of a runner's state, by the dotted path of the tuple that holds them."""
    if not isinstance(buffer, AppendOnly):
        return {}
    return {f"state.buffer.{path}".rstrip("."): rows for path, rows in buffer.append_only(state.buffer).items()}


def _sample(rows: GrowingRows, ring: Ring) -> Sample:
    """Returns rows that are evenly spread over the stored rows of a ring."""
    stored = ring.added - ring.oldest
    numbers = np.unique(ring.oldest + stored * np.arange(_SAMPLED if stored else 0, dtype=np.int64) // _SAMPLED)
    return Sample(numbers, _rows_at(rows, ring, numbers))


def _differs(rows: GrowingRows, ring: Ring, before: Sample) -> bool:
    """Returns whether a row of the earlier sample that is still in the ring has changed."""
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
    """Returns the tree with an empty tuple at each path in `gone`."""
    return _mapped(tree, lambda leaf, _: leaf, "state", dict.fromkeys(gone, ()))


def _filled(template: Tree, arrays: Mapping[str, np.ndarray], subtrees: Mapping[str, Any]) -> Tree:
    """Returns `template` with new values in all leaves, and with the given subtrees at some dotted paths."""
    tensors = {path: {name: tf.constant(part) for name, part in parts.items()} for path, parts in subtrees.items()}
    return _mapped(template, lambda leaf, name: tf.constant(arrays[name]), "state", tensors)


def _mapped(tree: Tree, leaf: Callable[[tf.Tensor, str], Any], path: str, given: Mapping[str, Any] = {}) -> Tree:
    """Replaces every leaf by `leaf(value, path)`. given: values for some paths, which replace whole subtrees."""
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
    """Returns the ring of one run, or of a population, whose members add rows at the same time."""
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
    """Returns arrays with the shapes and dtypes of a ring's columns; they take no memory."""
    empty = {dtype: np.zeros((), column.dtype.as_numpy_dtype) for dtype, column in rows.columns.items()}
    return {dtype: np.broadcast_to(each, rows.columns[dtype].shape) for dtype, each in empty.items()}
