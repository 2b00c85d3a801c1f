"""Arrays on disk: safetensors files, which contain no code, with a digest for each array.

    state.safetensors     the arrays of one checkpoint
    NAME.rows             rows of a replay; each save appends the new rows, so each row is written once

A file of rows is a sequence of safetensors blobs; each blob has the numbers of its rows. A checkpoint stores the size
of the file at its time, and a digest of that part. Later saves may append to the file without any effect on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from rlresearch.storage import atomic

Arrays = Mapping[str, np.ndarray]

FILES_OF_A_RING = 8  # a full ring is cut into so many files; old rows then cost one extra file, not a second ring


class CorruptCheckpointError(Exception):
    """A file of a checkpoint is damaged or missing. The message names the file and, where possible, the array."""


def digest(content: bytes | memoryview) -> str:
    """Returns the BLAKE2b digest of `content`, 128 bits as 32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def packed(arrays: Arrays, **about: str) -> bytes:
    """Returns arrays as one blob; its header has the fields `about` and the digest of every array."""
    # safetensors copies memory as it lies, so an array that is not contiguous would be written wrongly.
    laid = {name: np.ascontiguousarray(each).reshape(each.shape) for name, each in arrays.items()}
    digests = {name: digest(each.tobytes()) for name, each in laid.items()}
    return safetensors.numpy.save(laid, {**about, "digests": json.dumps(digests)})


def unpacked(blob: bytes, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of one blob by name. Errors: CorruptCheckpointError that names the file `name`."""
    try:
        return safetensors.numpy.load(blob)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CorruptCheckpointError(f"{name} cannot be read: {error}") from None


def damage(blob: bytes, name: str) -> str:
    """Returns one line that names the damaged array of a blob; call it where the digest of the blob is wrong."""
    try:
        arrays, header = _header(blob)
        digests = json.loads(header["__metadata__"]["digests"])
        for array, about in header.items():
            if array != "__metadata__":
                begin, end = (arrays + offset for offset in about["data_offsets"])
                if end > len(blob) or digest(blob[begin:end]) != digests[array]:
                    return f"{name}: tensor '{array}' is damaged"
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return f"{name}: its list of tensors is damaged"


def _header(content: bytes, offset: int = 0) -> tuple[int, dict[str, Any]]:
    """Returns (offset of the arrays, header) of the blob that begins at `offset`. Errors: ValueError for no blob."""
    begin = offset + 8
    length = int.from_bytes(content[offset:begin], "little")
    if length > len(content) - begin:
        raise ValueError("the header is longer than the file")
    header = json.loads(content[begin : begin + length])
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    return begin + length, header


class Ring(NamedTuple):
    """The rows of a replay's ring, for a save. capacity: rows that the ring holds. added: rows ever added to it.
    rows: a function; rows(begin, end) returns these rows by column, each [..., end - begin, width].
    """

    capacity: int
    added: int
    rows: Any

    @property
    def oldest(self) -> int:
        """The number of the oldest row that the ring still holds."""
        return max(0, self.added - self.capacity)


class RowFile(NamedTuple):
    """The first `size` bytes of a file of rows; they hold the rows from number `begin` to `end`, without `end`."""

    name: str
    begin: int
    end: int
    size: int
    digest: str


class RowWriter:
    """Writes the rows of one ring. `files` are the written files that still have rows of the ring.

    Files given at the start come from an earlier process; their rows stay in use, but nothing is appended to them.
    """

    def __init__(self, folder: Path, prefix: str, files: Sequence[RowFile] = ()) -> None:
        self._folder, self._prefix = folder, prefix
        self.files = list(files)
        self._growing: _Growing | None = None

    def unwritten(self, ring: Ring) -> tuple[int, dict[str, np.ndarray]]:
        """Returns the number of the first row of the ring that is not on the disk, and the rows from there on."""
        end = self.files[-1].end if self.files else 0
        begin = min(max(end, ring.oldest), ring.added)
        return begin, ring.rows(begin, ring.added) if begin < ring.added else {}

    def append(self, begin: int, end: int, rows: Arrays, capacity: int) -> None:
        """Appends the rows from number `begin` to `end` to a file and flushes it to the disk.

        Errors: OSError; the caller must then call `give_up`.
        """
        if begin == end:
            return
        blob = packed(rows, begin=str(begin), end=str(end))
        last = self.files[-1] if self._growing and self.files and self.files[-1].name == self._growing.name else None
        if last is None or last.end != begin or last.end - last.begin >= capacity // FILES_OF_A_RING:
            last = RowFile(self._begin_file(begin), begin, begin, 0, "")
            self.files.append(last)
        assert self._growing is not None  # it is the file `last`
        atomic.write_all(self._growing.file, blob)
        os.fsync(self._growing.file)
        self._growing.digest.update(blob)
        grown = last._replace(end=end, size=last.size + len(blob), digest=self._growing.digest.hexdigest())
        self.files = [each for each in [*self.files[:-1], grown] if each.end > end - capacity]

    def give_up(self, files: Sequence[RowFile]) -> None:
        """Goes back to `files` after a failure, and removes the file that was only partly written."""
        name = self._growing.name if self._growing else None
        self.close()
        if name is not None and name not in {each.name for each in files}:
            atomic.discard(self._folder / name)
        self.files = list(files)

    def close(self) -> None:
        """Closes the file to which rows are appended; the next rows begin a new file."""
        growing, self._growing = self._growing, None
        if growing is not None:
            with suppress(OSError):
                os.close(growing.file)

    def _begin_file(self, begin: int) -> str:
        self.close()
        name = f"{self._prefix}-{begin:012d}-{secrets.token_hex(4)}.rows"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._folder / name, flags, 0o666)
        self._growing = _Growing(name, file, hashlib.blake2b(digest_size=16))
        atomic.sync_folder(self._folder)
        return name


class _Growing(NamedTuple):
    """The open file to which rows are appended, and the digest of its content so far."""

    name: str
    file: int
    digest: Any


def read_rows(folder: Path, files: Sequence[RowFile]) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yields each blob of the files in order, as (number of its first row, columns by name).

    Errors: CorruptCheckpointError.
    """
    for each in files:
        content = _checked(folder, each)
        for begin, end, blob in _blobs(content, each.name):
            columns = unpacked(blob, each.name)
            if any(column.ndim < 2 or column.shape[-2] != end - begin for column in columns.values()):
                raise CorruptCheckpointError(f"{each.name}: rows {begin} to {end} have another number of rows")
            yield begin, columns


def check_rows(folder: Path, files: Sequence[RowFile]) -> None:
    """Compares the files with their digests. Errors: CorruptCheckpointError where one is damaged or missing."""
    for each in files:
        _checked(folder, each)


def _checked(folder: Path, file: RowFile) -> bytes:
    try:
        content = atomic.read_file(folder / file.name, file.size)
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) < file.size or digest(content) != file.digest:
        raise CorruptCheckpointError(_damaged_rows(content, file.name))
    return content


def _damaged_rows(content: bytes, name: str) -> str:
    """Returns one line that names the damaged array and rows of a file of rows."""
    offset = 0
    try:
        while offset < len(content):
            begin, end, after = _extent(content, offset)
            blob = content[offset:after]
            digests = json.loads(_header(blob)[1]["__metadata__"]["digests"])
            for array, column in unpacked(blob, name).items():
                if digest(column.tobytes()) != digests[array]:
                    return f"{name}: tensor '{array}', rows {begin} to {end}, is damaged"
            offset = after
    except (CorruptCheckpointError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    return f"{name}: from byte {offset} on, its tensors are damaged or missing"


def _blobs(content: bytes, name: str) -> Iterator[tuple[int, int, bytes]]:
    """Yields (first row, row after the last, blob) for each blob. Errors: CorruptCheckpointError for a bad header."""
    offset = 0
    while offset < len(content):
        try:
            begin, end, after = _extent(content, offset)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptCheckpointError(f"{name}: what follows byte {offset} is no list of rows: {error}") from None
        yield begin, end, content[offset:after]
        offset = after


def _extent(content: bytes, offset: int) -> tuple[int, int, int]:
    """Returns (first row, row after the last, end offset) of the blob at `offset`. Errors: ValueError, LookupError."""
    arrays, header = _header(content, offset)
    about = header.pop("__metadata__")
    begin, end = int(about["begin"]), int(about["end"])
    after = arrays + max((each["data_offsets"][1] for each in header.values()), default=0)
    if not arrays <= after <= len(content) or end < begin:
        raise ValueError("it ends before its rows do")
    return begin, end, after
