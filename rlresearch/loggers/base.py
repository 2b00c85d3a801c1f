"""Where a run's numbers go: to its files, which are the truth, and to any number of mirrors.

A mirror (the terminal, W&B, TensorBoard) is a convenience: it may break and the run goes on.
The files may not: a run whose results cannot be kept stops and says why.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.rollback import difference
from rlresearch.storage.run_directory import RunDirectory, timestamp

Row = dict[str, Any]

_log = logging.getLogger("rlresearch.loggers.base")
# Parts of a summary that tell a person what to do next; run.json is about the run.
_IN_EVERY_RUN = ("metrics", "evaluations")
_FOR_THE_SCREEN = ("run_directory", "next")


class Logger(Protocol):
    """What receives a run's numbers.

    A metrics row is {"step": int, "time": seconds since the start, "group/name": number, ...}; an evaluation
    row is {"step", "time", "returns": [...], "lengths": [...]}. Either may lack "time".
    """

    def metrics(self, row: Row) -> None:
        """Takes one row of training metrics."""

    def evaluation(self, row: Row) -> None:
        """Takes the episodes of one evaluation."""

    def lineage(self, row: Row) -> None:
        """Takes a row about a member of a population that became a copy of another."""
        return None

    def finish(self, summary: Row) -> None:
        """Takes how the run ended, once, before `close`; every part may be absent.

        status: finished (default), failed or interrupted; reason: {kind, environment, step, error} where it
        failed; total_steps; wall_time_s and training_time_s, seconds; steps_per_second;
        final_evaluation: {step, mean, std, episodes}; members: a list of {mean, ...}, one for each member of
        a population; run_directory: path; next: lines a person may type next.
        """

    def close(self) -> None:
        """Lets go of files and threads; may be called again."""


class FileLogger(Logger):
    """Writes metrics.jsonl and evaluations.jsonl, and the end of the run into run.json.

    elapsed_s: what the run has behind it. cut: for a file's name the rows that stood there before the run was resumed;
    those that are written again and are not the same are warned of, and named in run.json as `nondeterminism`.
    Errors: RunError naming the file that cannot be written. The run directory stays its creator's to close.
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
        """Appends `row` to metrics.jsonl. Errors: KeyError without a "step"."""
        self._write("metrics", row)

    def evaluation(self, row: Row) -> None:
        """Appends `row` to evaluations.jsonl. Errors: KeyError without a "step"."""
        self._write("evaluations", row)

    def lineage(self, row: Row) -> None:
        """Appends `row`, about a member of a population that became a copy of another, to lineage.jsonl."""
        if "lineage" not in self._files:
            self._files["lineage"] = JsonLines(self._run.path / "lineage.jsonl")
        self._files["lineage"].write(row)

    def sizes(self) -> dict[str, int]:
        """The bytes in each file so far."""
        return {name: file.size for name, file in self._files.items()}

    def sync(self) -> None:
        """Brings every row to the disk."""
        for file in self._files.values():
            file.sync()

    def finish(self, summary: Row) -> None:
        """Merges `summary`, less what is for the screen only, into run.json."""
        ended = {"status": "finished", "finished_at": timestamp(), "wall_time_s": self.elapsed_s}
        self._run.record(**(ended | {name: part for name, part in summary.items() if name not in _FOR_THE_SCREEN}))

    def close(self) -> None:
        """Brings every row to the disk; may be called again."""
        with contextlib.ExitStack() as stack:
            for file in self._files.values():
                stack.callback(file.close)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began, those between two sessions apart."""
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


class CompositeLogger(Logger):
    """Hands everything to each of `loggers`, in order.

    A mirror that raises is warned about once and left out from then on, though still closed. A `FileLogger` that
    raises is heard after the others had their turn: its error goes on to the caller.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)
        self._left_out: list[Logger] = []

    def metrics(self, row: Row) -> None:
        """Takes one row of training metrics. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.metrics(row))

    def evaluation(self, row: Row) -> None:
        """Takes the episodes of one evaluation. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.evaluation(row))

    def lineage(self, row: Row) -> None:
        """Takes a row about a copied member, for those who want it. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.lineage(row))

    def finish(self, summary: Row) -> None:
        """Takes how the run ended. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.finish(summary))

    def close(self) -> None:
        """Closes every logger, also those left out. Errors: those of a `FileLogger`, once all are closed."""
        self._loggers, self._left_out = self._loggers + self._left_out, []
        self._each(lambda logger: logger.close())

    def _each(self, tell: Callable[[Logger], None]) -> None:
        truth_lost: Exception | None = None
        for logger in list(self._loggers):
            try:
                tell(logger)
            except Exception as error:  # noqa: BLE001 (a mirror may raise anything; Ctrl-C passes)
                if isinstance(logger, FileLogger):
                    truth_lost = truth_lost or error
                else:
                    self._leave_out(logger, error)
        if truth_lost is not None:
            raise truth_lost

    def _leave_out(self, logger: Logger, error: Exception) -> None:
        self._loggers.remove(logger)
        self._left_out.append(logger)
        who, what = type(logger).__name__, type(error).__name__
        _log.warning("%s stopped: %s: %s. The run goes on without it; its files are whole.", who, what, error)
