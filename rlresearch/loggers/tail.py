"""Reads the rows of a run directory in the order of their steps, also while the run writes them.

Metrics and evaluations become one sequence of points. The `position` of a point is 2 * step, plus 1 for an evaluation.
Positions always increase. A resumed run that writes a row again gives it the same position again. So a mirror that
knows its last position knows which points it lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch.errors import RunError
from rlresearch.storage.jsonl import parsed_rows
from rlresearch.storage.run_directory import RunDirectory, video_of

_PIECE = 8 << 20  # bytes that one read takes from a file


class LoggedRow(NamedTuple):
    """One row of metrics or one evaluation. time: seconds since the run began; None where the row has no time.

    values: metrics by name. An evaluation has eval/return (the mean), eval/return_std (over its episodes),
    eval/length, eval/episodes, and the lists eval/returns and eval/lengths. video: path of a file, or None.
    """

    position: int
    step: int
    time: float | None
    values: dict[str, Any]
    video: Path | None = None


class RowFollower:
    """Returns every point of the run at `path` once, from the first one on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics = _Tail(path / "metrics.jsonl")
        self._evaluations = _Tail(path / "evaluations.jsonl")
        self._waiting: list[LoggedRow] = []

    def so_far(self) -> list[LoggedRow]:
        """Returns the new points up to the last metrics row; no later row can come before them. Errors: RunError."""
        rows = [_of_metrics(row) for row in self._metrics.rows()]
        until = max((point.position for point in rows), default=-1)
        self._waiting += rows
        self._waiting += [_of_evaluation(row, self.path) for row in self._evaluations.rows()]
        # An evaluation is written after the metrics of its step, so every evaluation before `until` has been read.
        return self._taken(until)

    def rest(self) -> list[LoggedRow]:
        """Returns all other points. Call it only while no process writes to the run. Errors: RunError."""
        points = self.so_far()
        self._waiting += [_of_metrics(row) for row in self._metrics.rows()]
        return points + self._taken(None)

    def _taken(self, until: int | None) -> list[LoggedRow]:
        points = sorted(self._waiting, key=lambda point: point.position)
        taken = [point for point in points if until is None or point.position <= until]
        self._waiting = points[len(taken) :]
        return taken


def started(path: Path) -> float | None:
    """Returns the time at which a run began, in seconds since 1970; None where run.json has no such time."""
    try:
        return datetime.fromisoformat(RunDirectory(path).recorded()["started_at"]).timestamp()
    except (RunError, KeyError, TypeError, ValueError):
        return None


class _Tail:
    """Reads the new complete rows of a file that another process appends to."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def rows(self) -> Iterator[dict[str, Any]]:
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise RunError(f"{self._path} cannot be read: {error.strerror or error}") from error
        with os.fdopen(file, "rb") as reader:
            reader.seek(self._read)
            left = b""
            while piece := reader.read(_PIECE):
                whole, newline, left = (left + piece).rpartition(b"\n")
                self._read += len(whole) + len(newline)
                yield from (row for row in parsed_rows(whole) if isinstance(row.get("step"), int))


def _of_metrics(row: dict[str, Any]) -> LoggedRow:
    values = {name: value for name, value in row.items() if "/" in name}
    return LoggedRow(2 * row["step"], row["step"], row.get("time"), values)


def _of_evaluation(row: dict[str, Any], path: Path) -> LoggedRow:
    step, returns, lengths = row["step"], row.get("returns") or [], row.get("lengths") or []
    values: dict[str, Any] = {"eval/episodes": len(returns), "eval/returns": returns}
    if returns:
        values |= {"eval/return": float(np.mean(returns)), "eval/return_std": float(np.std(returns))}
    if lengths:
        values |= {"eval/length": float(np.mean(lengths)), "eval/lengths": lengths}
    video = video_of(path, step)
    return LoggedRow(2 * step + 1, step, row.get("time"), values, video if video.is_file() else None)
