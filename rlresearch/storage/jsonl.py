"""Rows as lines of JSON: a row is in the file completely, or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlresearch.errors import RunError
from rlresearch.storage.atomic import open_file

_UNENCODABLE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FSYNC_EVERY_S = 1.0
_APPENDED = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class JsonLines:
    """Appends rows to the file at `path`, one JSON object per line; any thread may write.

    A row is one `os.write` in append mode, so a killed process leaves complete rows. An fsync, at most once a
    second and at close, protects them from a power loss. The constructor removes an incomplete last line.
    Errors: RunError that names the file, from every method.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._synced = time.monotonic()
        self._file: int | None = None
        with self.named_errors():
            self._file = os.open(self.path, _APPENDED, 0o666)
            _end_with_whole_row(self._file)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; NumPy numbers become numbers, arrays become lists."""
        line = json.dumps(encodable(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock, self.named_errors():
            if self._file is None:
                raise RunError(f"{self.path} is closed: no row can follow.")
            written = os.write(self._file, line)
            if written < len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise RunError(f"{self.path} took {written} of {len(line)} bytes of a row: is the disk full?")
            if time.monotonic() - self._synced >= _FSYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = time.monotonic()

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        with self._lock, self.named_errors():
            return self.path.stat().st_size if self._file is None else os.fstat(self._file).st_size

    def sync(self) -> None:
        """Flushes the rows to the disk."""
        with self._lock, self.named_errors():
            if self._file is not None:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Flushes the rows to the disk and closes the file; a second call does nothing."""
        with self._lock, self.named_errors():
            file, self._file = self._file, None
            if file is not None:
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error


def read_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """Yields the rows of a JSON lines file, also while a run writes it; skips an incomplete last line.

    Errors: RunError where the file cannot be opened, or where a line before the last is not a row.
    """
    torn = 0
    try:
        with open_file(Path(path)) as file:
            for number, line in enumerate(file, start=1):
                if torn:
                    raise RunError(f"{path}, line {torn}: not a JSON object, and rows follow it.")
                row = _parsed(line)
                if row is None:
                    torn = number
                    continue
                yield decoded(row) if b'NaN"' in line or b'Infinity"' in line else row
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def encodable(value: Any) -> Any:
    """Returns `value` as JSON types; NaN and infinity become strings.

    A NumPy scalar or array is recognised by its method `tolist`, so NumPy need not be imported.
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encodable(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return encodable(value.tolist()) if hasattr(value, "tolist") else value


def decoded(value: Any) -> Any:
    """Undoes `encodable`: the strings NaN, Infinity and -Infinity become numbers."""
    if isinstance(value, str):
        return _UNENCODABLE.get(value, value)
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else value


def parsed_rows(content: bytes) -> list[dict[str, Any]]:
    """Returns the rows of `content`, which begins at the start of a line; skips lines that are not rows."""
    return [decoded(row) for line in content.splitlines() if (row := _parsed(line)) is not None]


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _end_with_whole_row(file: int) -> None:
    """Removes an incomplete last line, so that the next row starts on a new line."""
    start = size = os.fstat(file).st_size
    tail = b""
    while start > 0 and b"\n" not in tail:
        length = min(start, 1 << 16)
        start -= length
        tail = os.pread(file, length, start) + tail
    last = tail.rpartition(b"\n")[2]
    if last and _parsed(last) is None:
        os.ftruncate(file, size - len(last))
    elif last:
        os.write(file, b"\n")
