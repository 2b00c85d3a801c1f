"""A run's rows cut back to a checkpoint, to be written again; and whether they come out the same.

What is cut off is kept beside the file, in metrics.cut.jsonl, until the run has finished with the same numbers.
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
TIMING = {"time", "speed/steps_per_second"}  # differ from one run to the next

Row = dict[str, Any]


def cut(run: Path, sizes: Mapping[str, int]) -> dict[str, list[Row]]:
    """Cuts the files of rows in a run directory back to `sizes` bytes; returns what stood after those, by name.

    What an earlier cut took off, and was not written again since, is among it. Errors: RunError, also where a file is
    shorter than it was when it was saved.
    """
    return {name: _cut(run / f"{name}.jsonl", run / f"{name}.cut.jsonl", sizes.get(name, 0)) for name in FILES}


def forget(run: Path) -> None:
    """Removes what was cut off. What cannot be removed stays."""
    for name in FILES:
        with contextlib.suppress(OSError):
            (run / f"{name}.cut.jsonl").unlink()


def difference(before: Row, after: Row) -> dict[str, Any] | None:
    """The first key whose value is another, with both; None where they say the same but for times.

    Of lists, one number an episode, the shorter one's part counts: a last evaluation may have more of them.
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
    """All rows or the file as it was: a kill in between loses none."""
    fresh = path.with_suffix(".tmp")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    written = JsonLines(fresh)
    for row in rows:
        written.write(row)
    written.close()
    os.replace(fresh, path)
    sync_folder(path.parent)
