"""When a run's state is saved, and how it gets from a runner into a checkpoint and back.

What takes part of the loop's time is the copying: small arrays, and of a replay the rows added since the last save. A
thread brings them to the disk while training goes on.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch import tree as trees
from rlresearch.buffers import Rows
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation
from rlresearch.runners.step import OF_THE_ROW, Trainer
from rlresearch.storage import run_directory
from rlresearch.storage.checkpoint import About, Loaded, Writer
from rlresearch.storage.provenance import versions
from rlresearch.storage.tensor_files import Damaged, Ring
from rlresearch.training.experiment import Plan
from rlresearch.training.finite_check import Soundness
from rlresearch.training.loop import Position, Stop
from rlresearch.types import Tree

_log = logging.getLogger("rlresearch")
_BEGINS_ANEW = re.compile(r"\.[^.]*(optimizer|noise)")


class Log(Protocol):
    """The files of a member's rows, as far as a checkpoint must know of them."""

    def sizes(self) -> dict[str, int]:
        """In bytes, by name."""

    def sync(self) -> None:
        """Brings them to the disk."""


class Saver:
    """Saves a runner's checkpoints in `run`; a `training.Keeper`.

    logs: one a member. check: raises Interrupted where the run was told to stop. times: seconds spent so far, by name.
    config: the digest of what must stay as it is. loaded: where the run goes on, in place of its beginning; finals:
    the evaluations made there.
    """

    def __init__(
        self,
        runner: Any,
        plan: Plan,
        run: Path,
        logs: Sequence[Log],
        check: Callable[[], None] = lambda: None,
        times: Callable[[], dict[str, float]] = dict,
        config: str = "",
        loaded: Loaded | None = None,
        finals: Sequence[Evaluation] = (),
    ) -> None:
        self._settings = settings = plan.checkpoint
        self._runner, self._num_envs, self._logs = runner, plan.task.num_envs, logs
        self._environment = plan.task.id
        self._times, self.check, self._config = times, check, config
        self._writer = Writer(run, settings.keep_last, settings.keep_best, settings.keep_every)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self.soundness = Soundness(runner)
        self._writing: Future | None = None
        self._saved: tuple[int, Position] | None = None
        self._replaced = 0
        self._overdue, self._since, self._warned = False, time.monotonic(), False
        self.begin, self.finals = Position(), list(finals)
        self.every_steps = settings.every_steps if settings.keep_last else None
        self._best, self._serial = self._writer.best_score(), self._writer.last_serial()
        if loaded is not None:
            self.begin = Position(**loaded.about.position)
            self._saved = loaded.about.iteration, self.begin
            self._writer.go_on_from(loaded)
            restore(runner, loaded)
        elif plan.settings.init_from is not None:  # what it began with need not be there when it goes on
            self._save(self.begin)

    def iterations(self) -> int | None:
        """One by one, while a checkpoint waits for an episode to end."""
        return 1 if self._overdue else None

    def between_calls(self, position: Position) -> bool:
        """Saves where the minutes are over."""
        every = self._settings.every_minutes
        if self._overdue or (every is not None and time.monotonic() - self._since >= every * 60.0):
            return self._plan(position)
        return False

    def at_stop(self, position: Position, stop: Stop, evaluations: Sequence[Evaluation]) -> None:
        """Saves where a planned step is reached, and where the policy has never been better."""
        means = [each.mean for each in evaluations if each is not UNSEEN]
        score = float(np.mean(means)) if means else None
        if score is not None and not np.isfinite(score):
            score = None
        better = score is not None and self._settings.keep_best and (self._best is None or score > self._best)
        if better:
            self._best = score
        planned = stop.save and self._plan(position, score)
        if better and not planned:
            self._save(position, score)

    def at_end(self, position: Position) -> None:
        """Saves the state that is to be the last, and waits for it to be on the disk."""
        if self._settings.keep_last:
            if not self._runner.exact:
                _log.warning("the last state is not exact: resume goes on from the checkpoint before it")
            self._finish_writing()
            self._save(position)
            self._finish_writing()

    def close(self) -> None:
        """Waits for what is being written; may be called again."""
        self._thread.shutdown(wait=True)
        self._writer.close()

    def _plan(self, position: Position, score: float | None = None) -> bool:
        """Saves a planned checkpoint, or has it wait where nobody could go on from it."""
        self._overdue = bool(self._settings.keep_last) and not self._runner.exact
        if self._overdue and not self._warned:
            self._warned = True
            why = "environment '%s' does not replay: checkpoints wait for its episodes to end"
            _log.warning(why, self._environment)
        if self._overdue or not self._settings.keep_last:
            return False
        self._serial += 1
        self._save(position, score, self._serial)
        return True

    def _save(self, position: Position, score: float | None = None, serial: int | None = None) -> None:
        place = self._runner.iteration, position
        if place == self._saved or not self._settings.keep_last:
            return
        step = self._runner.iteration * self._num_envs
        self._finish_writing()
        self.soundness.check(step)
        about = About(
            step=step,
            iteration=self._runner.iteration,
            members=list(self._runner.members),
            position=position._asdict(),
            logs=[log.sizes() for log in self._logs],
            times=self._times(),
            score=score,
            serial=serial,
            exact=self._runner.exact,
            config=self._config,
        )
        if (replaced := getattr(self._runner, "replaced", 0)) != self._replaced:
            self._writer.forget_rows()
            self._replaced = replaced
        arrays, rings = snapshot(self._runner)
        rows = self._writer.unwritten(rings)
        # without the tensors: as long as somebody holds them, XLA copies the replay in place of changing it
        rings = {name: ring._replace(rows=None) for name, ring in rings.items()}
        self._writing = self._thread.submit(self._write, arrays, rings, rows, about)
        self._saved, self._since = place, time.monotonic()

    def _write(self, arrays: Mapping, rings: Mapping, rows: Mapping, about: About) -> None:
        try:
            for log in self._logs:
                log.sync()
            self._writer.save(arrays, rings, rows, about, versions(), run_directory.timestamp())
        except OSError as error:
            raise RunError(f"the checkpoint at step {about.step} cannot be written: {error}") from error
        self._writer.rotate()

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except RunError as error:
            self._saved = None
            if self._settings.if_it_fails == "stop":
                raise
            _log.warning("%s. The run goes on; the last checkpoint is whole", error)


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
