"""Splits the checkpoints of a fused program after it has finished.

While the program trains, one checkpoint holds the states of all members, in the directory of the first member. This
module writes a separate checkpoint for each member. Then every member can be resumed, evaluated and exported alone,
and its directory has the same files as that of any other run.
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

_HELD, _MOST_HELD = 1 << 28, 4  # cached replay rows: the most bytes of one checkpoint, and how many checkpoints
_REPLACEMENT = f"{atomic.TEMPORARY}parted"


def split(runs: Sequence[Path]) -> None:
    """Writes separate checkpoints for each member of a population. runs: the run directories of the members.

    Errors: OSError, CorruptCheckpointError, RunError.
    """
    home = runs[0]
    every = [_loaded(home, name) for name in reversed(checkpoint.names(home))]
    for place, run in reversed(list(enumerate(runs))):  # the first run last, because it has the common checkpoints
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
    """Returns a checkpoint, and whether it has replay rows; one that is kept only for its policy has none."""
    try:
        return checkpoint.load(home, name), True
    except CorruptCheckpointError:
        return checkpoint.load(home, name, replay=False), False


def _write(into: Path, run: Path, place: int, every: Sequence[tuple[Checkpoint, bool]]) -> None:
    """Writes the part of one member of each checkpoint, the oldest first. into: the folder; run: its run directory."""
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
                    "content": "",  # the stored digest covers all members together
                }
            )
            writer.save(arrays, rings, rows, about, loaded.manifest.packages, loaded.manifest.saved_at)
        if every:
            writer.rotate()
    finally:
        writer.close()


def _of_its_life(every: Sequence[tuple[Checkpoint, bool]], run: Path) -> list[tuple[Checkpoint, bool]]:
    """Returns the checkpoints that hold this member's own training, the oldest first.

    After a member has failed, its slot holds the state of another member, so later checkpoints are left out. After a
    member was pruned, its slot keeps its last state. So the first later checkpoint is used, with the step of its end.
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
    """Returns a checkpoint as if saved at the earlier `step` at which a member ended. row: its last metrics step."""
    about = loaded.about
    num_envs = about.step // about.iteration
    position = {"fresh": row == step, "row": -1 if row is None else row // num_envs, "evaluation": step // num_envs}
    about = about.model_copy(update={"step": step, "iteration": step // num_envs, "position": position})
    return loaded._replace(manifest=loaded.manifest.model_copy(update={"about": about}))


def _overtaken(loaded: Checkpoint, added: Mapping[str, int]) -> bool:
    """Returns whether the other members filled a ring again after this member had ended.

    Then the rows of this member are no longer at the slots that their numbers give. added: rows of this member.
    """
    return any(max(added[name], ring.capacity) < ring.added for name, ring in loaded.manifest.rings.items())


def _kept(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: settings[key] for key in ("keep_last", "keep_best", "keep_every")}


def _ring(loaded: Checkpoint, name: str, place: int, added: int, replay: bool) -> Ring:
    """Returns the ring of one member; its rows are read only when needed. added: rows that this member added."""
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
    """Returns the rows of all members in `files`; small files are read once and cached for the other members."""
    if sum(each.size for each in files) > _HELD:
        return tensor_files.read_rows(folder, files)
    return _held(folder, files)


@lru_cache(_MOST_HELD)
def _held(folder: Path, files: tuple[RowFile, ...]) -> list[tuple[int, Mapping[str, np.ndarray]]]:
    return list(tensor_files.read_rows(folder, files))


def _finite(score: float | None) -> float | None:
    return score if score is not None and np.isfinite(score) else None
