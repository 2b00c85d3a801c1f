"""After a fused program has finished: every member gets the checkpoints that it would have alone.

While it trains there is one checkpoint for all of its members, in the first one's directory. Here each is taken apart,
so that a member can be gone on with, evaluated and exported by itself, and its directory has the files of any run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from rlresearch.storage import atomic, checkpoint, tensor_files
from rlresearch.storage.checkpoint import Checkpoint, Writer
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.storage.tensor_files import CorruptCheckpointError, Ring, RowFile
from rlresearch.training.resume import POPULATION, lasting_digest, read_config

_HELD, _MOST_HELD = 1 << 28, 4  # bytes of a checkpoint, and how many of them
_REPLACEMENT = f"{atomic.TEMPORARY}parted"


def split(runs: Sequence[Path]) -> None:
    """Gives each member of a population checkpoints of its own. Errors: OSError, CorruptCheckpointError, RunError."""
    home = runs[0]
    every = [_loaded(home, name) for name in reversed(checkpoint.names(home))]
    for place, run in reversed(list(enumerate(runs))):  # the first, which has the population's, last
        own = home / _REPLACEMENT if run == home else run
        own.mkdir(exist_ok=True)
        _write(own, run, place, every)
    parted = home / _REPLACEMENT / "checkpoints"
    if parted.is_dir():
        atomic.discard(home / "checkpoints")
        parted.rename(home / "checkpoints")
    atomic.discard(home / _REPLACEMENT)
    _held.cache_clear()
    (home / POPULATION).unlink()
    for run in runs:
        RunDirectory(run).record(population=None)


def _loaded(home: Path, name: str) -> tuple[Checkpoint, bool]:
    """A checkpoint, and whether its replay is there: what is kept for its policy alone has none."""
    try:
        return checkpoint.load(home, name), True
    except CorruptCheckpointError:
        return checkpoint.load(home, name, replay=False), False


def _write(into: Path, run: Path, place: int, every: Sequence[tuple[Checkpoint, bool]]) -> None:
    """One member's part of each checkpoint, the oldest first."""
    config = read_config(run / "config.yaml")
    every = _of_its_life(every, run)
    scores = {row["step"]: float(np.mean(row["returns"])) for row in read_rows(run / "evaluations.jsonl")}
    writer = Writer(into, **_kept(config["checkpoint"]))
    try:
        for loaded, replay in every:
            arrays = {name: np.array(array[place]) for name, array in loaded.arrays.items()}
            added = {name: int(arrays[f"{name}.added"]) for name in loaded.manifest.rings}
            replay = replay and not _overtaken(loaded, added)
            rings = {name: _ring(loaded, name, place, own, replay) for name, own in added.items()}
            rows = writer.unwritten(rings) if replay else {name: (ring.added, {}) for name, ring in rings.items()}
            about = loaded.about.model_copy(
                update={
                    "members": [loaded.about.members[place]],
                    "logs": [loaded.about.logs[place]],
                    "score": None if loaded.about.score is None else _finite(scores.get(loaded.about.step)),
                    "config": lasting_digest(config),
                    "content": "",  # the digest is of all members together
                }
            )
            writer.save(arrays, rings, rows, about, loaded.manifest.packages, loaded.manifest.saved_at)
        if every:
            writer.rotate()
    finally:
        writer.close()


def _of_its_life(every: Sequence[tuple[Checkpoint, bool]], run: Path) -> list[tuple[Checkpoint, bool]]:
    """The checkpoints that tell of a member. From where it failed its place holds another's state; from where it was
    pruned the state that it ended with, which belongs to that step.
    """
    record = RunDirectory(run).recorded()
    if record.get("status") not in ("failed", "pruned"):
        return list(every)
    ended = record.get("total_steps") or 0
    before = [pair for pair in every if pair[0].about.step < ended]
    if record["status"] == "failed":
        return before
    rows = max((row["step"] for row in read_rows(run / "metrics.jsonl")), default=None)
    return before + [(_as_of(loaded, ended, rows), replay) for loaded, replay in every[len(before) :][:1]]


def _as_of(loaded: Checkpoint, step: int, row: int | None) -> Checkpoint:
    """A checkpoint as it would have been saved at an earlier step, at which a member stood still. row: the last step
    of its metrics.
    """
    about = loaded.about
    num_envs = about.step // about.iteration
    position = {"fresh": row == step, "row": -1 if row is None else row // num_envs, "evaluation": step // num_envs}
    about = about.model_copy(update={"step": step, "iteration": step // num_envs, "position": position})
    return loaded._replace(manifest=loaded.manifest.model_copy(update={"about": about}))


def _overtaken(loaded: Checkpoint, added: Mapping[str, int]) -> bool:
    """Whether the others went round a ring after a member had ended: its rows are not where their numbers say."""
    return any(max(added[name], ring.capacity) < ring.added for name, ring in loaded.manifest.rings.items())


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("keep_last", "keep_best", "keep_every")}


def _ring(loaded: Checkpoint, name: str, place: int, added: int, replay: bool) -> Ring:
    """A member's ring as it was saved; its rows are read when they are asked for. added: those of the member."""
    saved = loaded.manifest.rings[name]
    files = tuple(RowFile(**each.model_dump()) for each in saved.files)

    def between(begin: int, end: int) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {}
        for first, columns in _rows(loaded.path.parent / checkpoint.REPLAY, files):
            for dtype, column in columns.items():
                there = column[place, max(begin - first, 0) : max(end - first, 0)]
                if len(there):
                    parts.setdefault(dtype, []).append(there)
        return {dtype: np.concatenate(each) for dtype, each in parts.items()}

    return Ring(saved.capacity, added, between if replay else None)


def _rows(folder: Path, files: tuple[RowFile, ...]) -> Iterable[tuple[int, Mapping[str, np.ndarray]]]:
    """Every member's rows in some files: read once for all members, where that is not too much to hold."""
    if sum(each.size for each in files) > _HELD:
        return tensor_files.read_rows(folder, files)
    return _held(folder, files)


@lru_cache(_MOST_HELD)
def _held(folder: Path, files: tuple[RowFile, ...]) -> list[tuple[int, Mapping[str, np.ndarray]]]:
    return list(tensor_files.read_rows(folder, files))


def _finite(score: float | None) -> float | None:
    return score if score is not None and np.isfinite(score) else None
