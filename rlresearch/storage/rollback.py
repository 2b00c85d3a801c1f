"""Cuts the rows of a run back to a checkpoint; the resumed run writes them again, and they are compared.

The removed rows are kept in metrics.cut.jsonl, in the same directory, until the run has finished with the same rows.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlresearch.errors import RunError
from rlresearch.storage.atomic import open_file, sync_folder
from rlresearch.storage.jsonl import JsonLines, encodable, parsed_rows, read_rows

FILES = ("metrics", "evaluations", "lineage")
TIMING = {"time", "speed/steps_per_second"}  # these differ each time, so they are not compared

Row = dict[str, Any]


def cut(run: Path, sizes: Mapping[str, int]) -> dict[str, list[Row]]:
    """Cuts each file of rows in a run directory back to `sizes` bytes. Returns the removed rows by file name.

    Rows that an earlier cut removed, and that the run has not written again, are returned too. Errors: RunError, also
    where a file is shorter than at the time of the checkpoint.
    """
    return {name: _cut(run / f"{name}.jsonl", run / f"{name}.cut.jsonl", sizes.get(name, 0)) for name in FILES}


def forget(run: Path) -> None:
    """Removes the files with removed rows. A file that cannot be removed stays; this is not an error."""
    for name in FILES:
        with contextlib.suppress(OSError):
            (run / f"{name}.cut.jsonl").unlink()


def difference(before: Row, after: Row) -> dict[str, Any] | None:
    """Returns the first key with different values, as {name, before, after}; None where the rows agree.

    Times are not compared. Lists have one number per episode, and a final evaluation may have more episodes: only
    the first numbers, up to the length of the shorter list, are compared.
    """
    after = json.loads(json.dumps(encodable(after)))
    before = json.loads(json.dumps(encodable(before)))
    for key in sorted((before.keys() | after.keys()) - TIMING):
        old, new = before.get(key), after.get(key)
        if isinstance(old, list) and isinstance(new, list):
            shorter = min(len(old), len(new))
            old, new = old[:shorter], new[:shorter]
        if old != new:
            return {"name": key, "before": old, "after": new}
    return None


def _cut(path: Path, aside: Path, size: int) -> list[Row]:
    kept = list(read_rows(aside)) if os.path.lexists(aside) else []
    try:
        content = _content(path) if os.path.lexists(path) else b""
        if len(content) < size:
            raise RunError(f"{path} has {len(content)} bytes, but had {size} when the checkpoint was made")
        rows = [*kept, *parsed_rows(content[size:])]
        if content[size:]:
            _write_aside(aside, rows)
            os.truncate(path, size)
    except OSError as error:
        raise RunError(f"{path} cannot be cut back: {error.strerror or error}") from error
    return rows


def _content(path: Path) -> bytes:
    try:
        with open_file(path) as opened:
            return opened.read()
    except ValueError as error:
        raise RunError(f"{path} {error}") from None


def _write_aside(path: Path, rows: Sequence[Row]) -> None:
    """Writes `rows` to `path` in one step: a kill in between leaves the old file, so no row is lost."""
    fresh = path.with_suffix(".tmp")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    written = JsonLines(fresh)
    for row in rows:
        written.write(row)
    written.close()
    os.replace(fresh, path)
    sync_folder(path.parent)
