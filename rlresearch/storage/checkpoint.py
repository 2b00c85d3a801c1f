"""Checkpoints of a run: saved states from which it can resume, even after a crash during a save.

    RUN/checkpoints/
        000000012000/            the step; a second checkpoint at the same step is 000000012000.1
            state.safetensors    every array except replay rows
            manifest.json        everything else, with the digests of all files; written last
        replay/
            rows-000000000000-9f31c2aa.rows    see `tensor_files`; shared by the checkpoints

A checkpoint is written under a temporary name. It gets its own name only when all its files are on the disk, so it
exists completely or not at all. Every read checks its digests. They detect damage, not an attack. A checkpoint
contains no code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch.errors import ConfigError
from rlresearch.storage import atomic, tensor_files
from rlresearch.storage.manifest import CheckpointMetadata, Manifest, SavedRing
from rlresearch.storage.tensor_files import Arrays, CorruptCheckpointError, Ring, RowFile, RowWriter

SCHEMA_VERSION = 1
STATE, MANIFEST, REPLAY = "state.safetensors", "manifest.json", "replay"
LARGEST_MANIFEST = 1 << 24  # bytes; a thousand arrays take some 100,000

_log = logging.getLogger("rlresearch")
_NAME = re.compile(r"(\d{12,})(?:\.(\d+))?")
_PREFIX, _UNSIGNED = b'{\n "digest": "', b"0" * 64


class Checkpoint(NamedTuple):
    """A checkpoint that was read and checked. arrays: all arrays by name, except the replay rows."""

    path: Path
    manifest: Manifest
    arrays: dict[str, np.ndarray]

    @property
    def about(self) -> CheckpointMetadata:
        return self.manifest.about

    def ring(self, name: str, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the columns of a ring with the saved rows in their slots, each [..., capacity, width].

        columns: arrays of the run's ring, which give shapes and dtypes. Errors: CorruptCheckpointError where rows are
        missing, or their shapes or dtypes differ.
        """
        saved = self.manifest.rings[name]
        if any(column.shape[-2] != saved.capacity for column in columns.values()):
            raise CorruptCheckpointError(f"'{name}' holds {saved.capacity} rows, unlike this run's")
        filled = {dtype: np.zeros(column.shape, column.dtype) for dtype, column in columns.items()}
        for begin, rows in tensor_files.read_rows(self.path.parent / REPLAY, _row_files(saved)):
            first = max(begin, saved.added - saved.capacity)
            for dtype, column in filled.items():
                part = rows.get(dtype)
                if part is None or part.dtype != column.dtype or _but_rows(part) != _but_rows(column):
                    raise CorruptCheckpointError(f"the rows of '{name}' are of another kind than this run's")
                places = np.arange(first, begin + part.shape[-2]) % saved.capacity
                column[..., places, :] = part[..., first - begin :, :]
        return filled


def names(run: Path) -> list[str]:
    """Returns the names of a run's checkpoints, the newest first; reads none of them."""
    with suppress(FileNotFoundError, NotADirectoryError):
        found = [each.name for each in (run / "checkpoints").iterdir() if _NAME.fullmatch(each.name)]
        return sorted(found, key=_order, reverse=True)
    return []


def load(run: Path, name: str, replay: bool = True) -> Checkpoint:
    """Reads one checkpoint and checks all its digests; without `replay` it leaves out the replay rows.

    Errors: CorruptCheckpointError.
    """
    path = run / "checkpoints" / name
    manifest = read_manifest(path)
    try:
        blob = atomic.read_file(path / STATE, manifest.state_size + 1)
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{STATE}: {getattr(error, 'strerror', None) or error}") from None
    if len(blob) != manifest.state_size or tensor_files.digest(blob) != manifest.state_digest:
        raise CorruptCheckpointError(tensor_files.damage(blob, STATE))
    arrays = tensor_files.unpacked(blob, STATE)
    if {each: (array.dtype.name, list(array.shape)) for each, array in arrays.items()} != manifest.tensors:
        raise CorruptCheckpointError(f"{STATE}: its tensors are not those of {MANIFEST}")
    if replay:
        for ring_name, ring in manifest.rings.items():
            _check_ring(path.parent / REPLAY, ring_name, ring)
    return Checkpoint(path, manifest, arrays)


def newest(run: Path, exact: bool = True) -> tuple[Checkpoint | None, dict[str, str]]:
    """Returns the newest checkpoint from which a run can resume, and the damage of newer ones as {name: reason}.

    exact: only a checkpoint that leads back to its very place. The checkpoint is None where no undamaged one allows a
    resume.
    """
    damaged: dict[str, str] = {}
    for name in names(run):
        try:
            if read_manifest(run / "checkpoints" / name).about.exact or not exact:
                return load(run, name), damaged
        except CorruptCheckpointError as error:
            damaged[name] = str(error)
    return None, damaged


def load_named(run: Path, which: str, where: str) -> Checkpoint:
    """Reads the checkpoint `which`: `last`, `best` (the highest score), a step or a name; without its replay rows.

    Errors: ConfigError, which begins with `where`, if the checkpoint does not exist or is damaged.
    """
    every = names(run)
    try:
        if which == "best":
            manifests = {name: read_manifest(run / "checkpoints" / name).about for name in every}
            scores = {name: (about.score, about.step) for name, about in manifests.items() if about.score is not None}
            name = max(scores, key=lambda each: scores[each], default=None)
        elif which == "last":
            name = every[0] if every else None
        else:
            name = next((each for each in every if each == which or str(_order(each)[0]) == which), None)
        if name is None:
            steps = ", ".join(str(_order(each)[0]) for each in every) or "none"
            raise ConfigError(f"{where}: has no checkpoint {which!r}; there are last, best, and by steps: {steps}.")
        return load(run, name, replay=False)
    except CorruptCheckpointError as error:
        raise ConfigError(f"{where}: a checkpoint is damaged: {error}") from None


def read_manifest(path: Path) -> Manifest:
    """Reads and checks the manifest of the checkpoint at `path`. Errors: CorruptCheckpointError."""
    try:
        if path.is_symlink() or path.parent.is_symlink() or (path.parent / REPLAY).is_symlink():
            raise CorruptCheckpointError(f"{path.name}: it, or a folder it lies in, is a link that leads elsewhere")
        content = atomic.read_file(path / MANIFEST, LARGEST_MANIFEST)
        given = content[len(_PREFIX) : len(_PREFIX) + len(_UNSIGNED)]
        unsigned = _PREFIX + _UNSIGNED + content[len(_PREFIX) + len(_UNSIGNED) :]
        if not content.startswith(_PREFIX) or hashlib.blake2b(unsigned, digest_size=32).hexdigest().encode() != given:
            raise CorruptCheckpointError(f"{MANIFEST} is damaged")
        fields = json.loads(content)
        if fields.get("schema_version") != SCHEMA_VERSION:
            version = fields.get("schema_version")
            raise CorruptCheckpointError(
                f"{MANIFEST} has schema version {version!r}, this program reads {SCHEMA_VERSION}"
            )
        return Manifest.model_validate_json(content)
    except OSError as error:
        raise CorruptCheckpointError(f"{MANIFEST}: {error.strerror or error}") from None
    except (ValueError, RecursionError, AttributeError) as error:  # pydantic's own error is a ValueError
        raise CorruptCheckpointError(f"{MANIFEST} cannot be read: {str(error).splitlines()[0]}") from None


class Writer:
    """Saves checkpoints of one run, and removes old ones.

    keep_last: how many of the newest exact checkpoints stay, with their replay rows. keep_best: the checkpoint with
    the largest score stays too. keep_every: of the planned checkpoints, each with a number divisible by this stays
    too. Checkpoints that stay for the last two reasons lose their replay rows: no run resumes from them.
    """

    def __init__(self, run: Path, keep_last: int, keep_best: bool = False, keep_every: int | None = None) -> None:
        self.folder = run / "checkpoints"
        self._run = run
        self._keep_last, self._keep_best, self._keep_every = keep_last, keep_best, keep_every
        self._manifests: dict[str, Manifest] = {}
        self._writers: dict[str, RowWriter] = {}
        self._published: dict[str, list[RowFile]] = {}

    def resume_from(self, loaded: Checkpoint) -> None:
        """Takes over the replay rows that `loaded` has on the disk, so that they are not written again."""
        self._published = {name: _row_files(ring) for name, ring in loaded.manifest.rings.items()}
        atomic.remove_leftovers(self.folder, self.folder / REPLAY)

    def forget_rows(self) -> None:
        """Forgets the rows on the disk, because the rings have changed: the next checkpoint writes all rows again."""
        self._published = {}
        for writer in self._writers.values():
            writer.close()
            writer.files = []

    def unwritten(self, rings: Mapping[str, Ring]) -> dict[str, tuple[int, Arrays]]:
        """Returns, for each ring, the number of the first row to save, and copies of the rows from there on."""
        return {name: self._writer(name).unwritten(ring) for name, ring in rings.items()}

    def save(
        self,
        arrays: Arrays,
        rings: Mapping[str, Ring],
        rows: Mapping[str, tuple[int, Arrays]],
        about: CheckpointMetadata,
        packages: Mapping[str, str | None],
        saved_at: str,
    ) -> Path:
        """Writes a checkpoint completely or not at all, and returns its folder.

        rows: from `unwritten`. Errors: OSError, after it has removed the unfinished files as far as possible.
        """
        made = atomic.temporary(self.folder)
        try:
            self._make_folders()
            made.mkdir()
            for name, ring in rings.items():
                self._writer(name).append(rows[name][0], ring.added, rows[name][1], ring.capacity)
            state = tensor_files.packed(arrays)
            atomic.write_file(made / STATE, state)
            fields = {
                "schema_version": SCHEMA_VERSION,
                "saved_at": saved_at,
                "packages": dict(packages),
                "about": about.model_dump(),
                "state_size": len(state),
                "state_digest": tensor_files.digest(state),
                "tensors": {name: (each.dtype.name, list(each.shape)) for name, each in arrays.items()},
                "rings": {name: self._described(name, ring) for name, ring in rings.items()},
            }
            atomic.write_file(made / MANIFEST, signed(fields))
            atomic.sync_folder(made)
            made = made.rename(self._free_name(about.step))
            atomic.sync_folder(self.folder)
        except BaseException:
            atomic.discard(made)
            for name, writer in self._writers.items():
                writer.give_up(self._published.get(name, []))
            raise
        self._published = {name: list(writer.files) for name, writer in self._writers.items()}
        return made

    def replace(self, old: Path, new: Path) -> Path:
        """Gives a checkpoint the name of another one at its step, which it makes needless; returns where it is then."""
        self._manifests.pop(old.name, None)
        atomic.discard(old)
        with suppress(OSError):  # what is not gone keeps its name
            new = new.rename(old)
            atomic.sync_folder(self.folder)
        return new

    def rotate(self) -> None:
        """Removes the checkpoints that no rule keeps. One that cannot be removed or read stays."""
        every = names(self._run)
        manifests = {name: manifest for name in every if (manifest := self._manifest(name)) is not None}
        exact = [name for name in every if name not in manifests or manifests[name].about.exact]
        newest = exact[: self._keep_last]
        kept = {*every[:1], *newest}
        scores = {name: each.about.score for name, each in manifests.items() if each.about.score is not None}
        if self._keep_best and scores:
            kept.add(max(scores, key=lambda name: (scores[name], _order(name))))
        if self._keep_every:
            kept |= {name for name, each in manifests.items() if (each.about.serial or 1) % self._keep_every == 0}
        for name in every:
            if name not in kept and name in manifests:
                atomic.discard(self.folder / name)
        self._manifests = {name: each for name, each in manifests.items() if name in kept}
        if all(name in manifests for name in newest):
            self.remove_rows([manifests[name] for name in newest])
        atomic.remove_leftovers(self.folder, self.folder / REPLAY)

    def best_score(self) -> float | None:
        """Returns the largest score of the existing checkpoints; None where none has a score."""
        return max((each.about.score for each in self._whole() if each.about.score is not None), default=None)

    def last_serial(self) -> int:
        """Returns the number of the last planned checkpoint; 0 where there is none."""
        return max((each.about.serial or 0 for each in self._whole()), default=0)

    def _whole(self) -> list[Manifest]:
        return [manifest for name in names(self._run) if (manifest := self._manifest(name)) is not None]

    def close(self) -> None:
        """Closes the open files."""
        for writer in self._writers.values():
            writer.close()

    def _make_folders(self) -> None:
        if not (self.folder / REPLAY).is_dir():
            (self.folder / REPLAY).mkdir(parents=True, exist_ok=True)
            atomic.sync_folder(self.folder)
            atomic.sync_folder(self._run)

    def _writer(self, name: str) -> RowWriter:
        if name not in self._writers:
            files = self._published.get(name, [])
            prefix = "rows" if not self._writers else f"rows{len(self._writers)}"
            self._writers[name] = RowWriter(self.folder / REPLAY, prefix, files)
        return self._writers[name]

    def _described(self, name: str, ring: Ring) -> dict[str, Any]:
        files = [each._asdict() for each in self._writer(name).files]
        return {"capacity": ring.capacity, "added": ring.added, "files": files}

    def _free_name(self, step: int) -> Path:
        taken = [_order(name)[1] for name in names(self._run) if _order(name)[0] == step]
        return self.folder / (f"{step:012d}" if not taken else f"{step:012d}.{max(taken) + 1}")

    def _manifest(self, name: str) -> Manifest | None:
        if name not in self._manifests:
            with suppress(CorruptCheckpointError):
                self._manifests[name] = read_manifest(self.folder / name)
        return self._manifests.get(name)

    def remove_rows(self, manifests: list[Manifest]) -> None:
        """Removes the files of rows that neither `manifests` nor the next checkpoint needs."""
        needed = {file.name for each in manifests for ring in each.rings.values() for file in ring.files}
        needed |= {file.name for writer in self._writers.values() for file in writer.files}
        for path in (self.folder / REPLAY).glob("*.rows"):
            if path.name not in needed:
                atomic.discard(path)


def set_aside(run: Path, name: str) -> None:
    """Renames a damaged checkpoint, so that its name is free; it is not removed. Errors: OSError."""
    folder = run / "checkpoints"
    taken = len(list(folder.glob(f"damaged-{name}*")))
    (folder / name).rename(folder / (f"damaged-{name}" + (f"-{taken}" if taken else "")))


def _check_ring(folder: Path, name: str, ring: SavedRing) -> None:
    files = _row_files(ring)
    tensor_files.check_rows(folder, files)
    reached = max(0, ring.added - ring.capacity)
    for begin, end in [(each.begin, each.end) for each in files] + [(ring.added, ring.added)]:
        if begin > reached:
            raise CorruptCheckpointError(f"replay '{name}': rows {reached} to {begin} are missing")
        reached = max(reached, end)


def _row_files(ring: SavedRing) -> list[RowFile]:
    return [RowFile(**each.model_dump()) for each in ring.files]


def _but_rows(column: np.ndarray) -> tuple[int, ...]:
    return (*column.shape[:-2], column.shape[-1])


def _order(name: str) -> tuple[int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None  # `names` returns only names of this form
    return int(match[1]), int(match[2] or 0)


def signed(fields: Mapping[str, Any]) -> bytes:
    """Returns the bytes of a manifest. Its first field is a digest of the whole file, taken with zeros in its place."""
    text = json.dumps({"digest": _UNSIGNED.decode(), **fields}, indent=1, allow_nan=False).encode()
    signature = hashlib.blake2b(text, digest_size=32).hexdigest().encode()
    return text.replace(_UNSIGNED, signature, 1)
