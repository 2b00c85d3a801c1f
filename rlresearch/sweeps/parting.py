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

from rlresearch import checkpoint, durable, tensor_files
from rlresearch.checkpoint import Loaded, Writer
from rlresearch.resume import POPULATION, lasting_digest, read_config
from rlresearch.rundir import RunDirectory, read_rows
from rlresearch.tensor_files import Damaged, Ring, RowFile

_HELD, _MOST_HELD = 1 << 28, 4  # bytes of a checkpoint, and how many of them
_REPLACEMENT = f"{durable.TEMPORARY}parted"


def part(runs: Sequence[Path]) -> None:
    """Takes the population in these directories, one a member, apart. Errors: OSError, Damaged, RunError."""
    home = runs[0]
    every = [_loaded(home, name) for name in reversed(checkpoint.names(home))]
    for place, run in reversed(list(enumerate(runs))):  # the first, which has the population's, last
        own = home / _REPLACEMENT if run == home else run
        own.mkdir(exist_ok=True)
        _write(own, run, place, every)
    parted = home / _REPLACEMENT / "checkpoints"
    if parted.is_dir():
        durable.discard(home / "checkpoints")
        parted.rename(home / "checkpoints")
    durable.discard(home / _REPLACEMENT)
    _held.cache_clear()
    (home / POPULATION).unlink()
    for run in runs:
        RunDirectory(run).record(population=None)


def _loaded(home: Path, name: str) -> tuple[Loaded, bool]:
    """A checkpoint, and whether its replay is there: what is kept for its policy alone has none."""
    try:
        return checkpoint.load(home, name), True
    except Damaged:
        return checkpoint.load(home, name, replay=False), False


def _write(into: Path, run: Path, place: int, every: Sequence[tuple[Loaded, bool]]) -> None:
    """One member's part of each checkpoint, the oldest first."""
    config = read_config(run / "config.yaml")
    last = _failed_at(run)
    every = [pair for pair in every if last is None or pair[0].about.step < last]
    scores = {row["step"]: float(np.mean(row["returns"])) for row in read_rows(run / "evaluations.jsonl")}
    writer = Writer(into, **_kept(config["checkpoint"]))
    try:
        for loaded, replay in every:
            arrays = {name: np.array(array[place]) for name, array in loaded.arrays.items()}
            rings = {name: _ring(loaded, name, place, replay) for name in loaded.manifest.rings}
            rows = writer.unwritten(rings) if replay else {name: (ring.added, {}) for name, ring in rings.items()}
            about = loaded.about.model_copy(
                update={
                    "members": [loaded.about.members[place]],
                    "logs": [loaded.about.logs[place]],
                    "score": None if loaded.about.score is None else _finite(scores.get(loaded.about.step)),
                    "config": lasting_digest(config),
                }
            )
            writer.save(arrays, rings, rows, about, loaded.manifest.packages, loaded.manifest.saved_at)
        if every:
            writer.rotate()
    finally:
        writer.close()


def _failed_at(run: Path) -> int | None:
    """The step at which a member went astray: its place in later checkpoints holds another's state."""
    record = RunDirectory(run).recorded()
    return record.get("total_steps") if record.get("status") == "failed" else None


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("keep_last", "keep_best", "keep_every")}


def _ring(loaded: Loaded, name: str, place: int, replay: bool) -> Ring:
    """A member's ring as it was saved; its rows are read when they are asked for."""
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

    return Ring(saved.capacity, saved.added, between if replay else None)


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
