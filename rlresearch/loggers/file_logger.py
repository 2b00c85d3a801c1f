"""Writes the rows of a run to its files. All other copies are made from these files."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Mapping, Sequence

from rlresearch.loggers.base import Logger, Row
from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.rollback import difference
from rlresearch.storage.run_directory import RunDirectory, timestamp

_IN_EVERY_RUN = ("metrics", "evaluations")
# Keys of a summary that are only shown in the terminal; run.json does not need them.
_FOR_THE_SCREEN = ("run_directory", "next")

_log = logging.getLogger("rlresearch.loggers")


class FileLogger(Logger):
    """Writes metrics.jsonl and evaluations.jsonl, and the end of the run into run.json.

    elapsed_s: seconds that a resumed run has already taken. cut: by file name, the rows that resuming removed. The run
    writes these rows again. The first row that differs causes a warning and becomes `nondeterminism` in run.json.
    Errors: RunError that names the file. `close` does not close the run directory; its creator does.
    """

    def __init__(
        self, run_directory: RunDirectory, elapsed_s: float = 0.0, cut: Mapping[str, Sequence[Row]] | None = None
    ) -> None:
        self._run = run_directory
        self._started = time.monotonic() - elapsed_s
        self._files = {name: JsonLines(run_directory.path / f"{name}.jsonl") for name in _IN_EVERY_RUN}
        if (run_directory.path / "lineage.jsonl").exists():
            self._files["lineage"] = JsonLines(run_directory.path / "lineage.jsonl")
        self._cut = {name: {row["step"]: row for row in rows if "step" in row} for name, rows in (cut or {}).items()}
        self._warned = False

    def metrics(self, row: Row) -> None:
        """Appends `row` to metrics.jsonl. Errors: KeyError where "step" is missing."""
        self._write("metrics", row)

    def evaluation(self, row: Row) -> None:
        """Appends `row` to evaluations.jsonl. Errors: KeyError where "step" is missing."""
        self._write("evaluations", row)

    def lineage(self, row: Row) -> None:
        """Appends `row` to lineage.jsonl; it says which member of a population became a copy of which other."""
        if "lineage" not in self._files:
            self._files["lineage"] = JsonLines(self._run.path / "lineage.jsonl")
        self._files["lineage"].write(row)

    def sizes(self) -> dict[str, int]:
        """Returns the size of each file in bytes."""
        return {name: file.size for name, file in self._files.items()}

    def sync(self) -> None:
        """Flushes all rows to the disk."""
        for file in self._files.values():
            file.sync()

    def finish(self, summary: Row) -> None:
        """Merges `summary` into run.json, without the keys that are only for the terminal."""
        ended = {"status": "finished", "finished_at": timestamp(), "wall_time_s": self.elapsed_s}
        self._run.record(**(ended | {name: part for name, part in summary.items() if name not in _FOR_THE_SCREEN}))

    def close(self) -> None:
        """Flushes all rows to the disk and closes the files; a second call does nothing."""
        with contextlib.ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    @property
    def elapsed_s(self) -> float:
        """The seconds that the run has taken, without the time between an interruption and a resume."""
        return round(time.monotonic() - self._started, 3)

    def _write(self, name: str, row: Row) -> None:
        row = {"step": int(row["step"]), "time": self.elapsed_s} | {k: v for k, v in row.items() if k != "step"}
        self._files[name].write(row)
        before = self._cut.get(name, {}).pop(row["step"], None)
        if before is not None and not self._warned and (found := difference(before, row)) is not None:
            self._warned = True
            self._run.record(nondeterminism={"file": f"{name}.jsonl", "step": row["step"], **found})
            _log.warning(
                "not the same run again: %s at step %s was %s before it was resumed, and is %s now",
                *(found["name"], row["step"], found["before"], found["after"]),
            )
