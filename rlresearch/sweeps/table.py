"""Shows a sweep: a live table in a terminal, otherwise a line for each change; and tables at the end."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from rlresearch.errors import ConfigError
from rlresearch.stats import ENOUGH, estimate, sample
from rlresearch.sweeps.ledger import DONE, FINISHED, PENDING, RUNNING, Job, swept, swept_overrides

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table as RichTable

_COLOURS = {FINISHED: "green", RUNNING: "cyan", PENDING: "dim", "interrupted": "yellow"}
_WIDTH_OF_A_FILE = 160
_MOST_LIVE, _MOST_BEST, _MOST_GROUPS, _MOST_BAD = 12, 5, 20, 10


class Table:
    """Shows a sweep on `stream` (default: standard output)."""

    def __init__(self, path: Path, stream: TextIO | None = None) -> None:
        from rich.console import Console

        self._stream = sys.stdout if stream is None else stream
        self._console = Console(file=self._stream, highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_OF_A_FILE
        self._live: Live | None = None
        self._since: dict[int, float] = {}
        self._told: dict[int, tuple[int, str]] = {}
        self._swept: set[str] | None = None
        self.say(f"sweep {path}")

    def start(self, jobs: Sequence[Job]) -> None:
        """Starts to show the jobs."""
        self._swept = swept(jobs)
        self._told = {job.number: (job.attempts, job.status) for job in jobs}
        if self._console.is_terminal and self._live is None:
            from rich.live import Live

            self._live = Live(console=self._console, refresh_per_second=2, transient=True)
            self._live.start()
        self._redraw(jobs)

    def show(self, jobs: Sequence[Job], changed: Iterable[Job]) -> None:
        """Shows the new state of the jobs in `changed`."""
        ended = sum(job.status not in (PENDING, RUNNING) for job in jobs)
        for job in changed:
            now = job.attempts, job.status
            if self._told.get(job.number) == now:
                continue
            self._told[job.number] = now
            if job.status == RUNNING:
                self._since[job.number] = time.monotonic()
            if self._live is None or job.status != RUNNING:
                self.say(self._line(job, ended, len(jobs)))
        self._redraw(jobs)

    def say(self, line: str) -> None:
        """Prints a line; above the live table, if there is one."""
        self._print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Ends the live table; a second call does nothing."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()

    def finish(self, jobs: Sequence[Job], path: Path | None) -> None:
        """Prints the best jobs, the means over seeds, and the jobs that did not finish."""
        self.close()
        self._swept = swept(jobs)
        for table in (_best(jobs, self._swept), _grouped(jobs, self._swept), _bad(jobs, self._swept)):
            if table is not None:
                self._print(table)
        done = sum(job.status == FINISHED for job in jobs)
        self.say(f"{done} of {len(jobs)} jobs finished; {os.path.join(path or '', 'ledger.jsonl')}")

    def _print(self, what: object, **how: Any) -> None:
        with contextlib.suppress(OSError):  # a closed terminal or pipe must not end a job
            self._console.print(what, **how)

    def _line(self, job: Job, ended: int, total: int) -> str:
        about = " ".join(swept_overrides(job, self._swept or set()))
        if job.status == RUNNING:
            again = f", attempt {job.attempts}" if job.attempts > 1 else ""
            return f"[{ended}/{total}] job {job.number} running{again}: {about}"
        result = f" {number(job.objective)}" if job.objective is not None else ""
        took = self._since.pop(job.number, None)
        seconds = f", {time.monotonic() - took:,.1f} s" if took is not None else ""
        why = f": {job.reason}" if job.reason else ""
        return f"[{ended}/{total}] job {job.number} {job.status}{result}{seconds}: {about}{why}"

    def _redraw(self, jobs: Sequence[Job]) -> None:
        if self._live is None:
            return
        from rich.table import Table as RichTable

        counts: dict[str, int] = {}
        for job in jobs:
            counts[job.status] = counts.get(job.status, 0) + 1
        table = RichTable(title=", ".join(f"{n} {status}" for status, n in counts.items()), title_justify="left")
        for name in ("job", "running for", "what"):
            table.add_column(name)
        running = [job for job in jobs if job.status == RUNNING]
        for job in running[:_MOST_LIVE]:
            seconds = time.monotonic() - self._since.setdefault(job.number, time.monotonic())
            table.add_row(str(job.number), f"{seconds:,.0f} s", " ".join(swept_overrides(job, self._swept or set())))
        if len(running) > _MOST_LIVE:
            table.add_row("", "", f"and {len(running) - _MOST_LIVE} more")
        self._live.update(table)


def number(value: float) -> str:
    """Formats a number: with one decimal from 100 on, otherwise with four significant digits."""
    return f"{value:,.1f}" if abs(value) >= 100.0 else f"{value:.4g}"


def groups(jobs: Sequence[Job]) -> dict[str, list[float]]:
    """Groups finished jobs that differ only in their seed. Returns their objectives by their common overrides."""
    keys = swept(jobs) - {"seed"}
    found: dict[str, list[float]] = {}
    for job in jobs:
        if job.status == FINISHED and job.objective is not None:
            mine = [text for text in job.overrides if text.partition("=")[0] in keys]
            found.setdefault(" ".join(mine) or "all", []).append(job.objective)
    return found


def _best(jobs: Sequence[Job], keys: set[str]) -> RichTable | None:
    ranked = [(job.objective, job) for job in jobs if job.objective is not None and np.isfinite(job.objective)]
    ranked.sort(key=lambda each: -each[0])
    table = _table("best jobs", "job", "return", "what", "run directory")
    for objective, job in ranked[:_MOST_BEST]:
        where = os.path.relpath(job.run) if job.run is not None else ""
        table.add_row(str(job.number), number(objective), " ".join(swept_overrides(job, keys)), where)
    return table if ranked else None


def _grouped(jobs: Sequence[Job], keys: set[str]) -> RichTable | None:
    found = {name: np.asarray(values) for name, values in groups(jobs).items()}
    found = {name: values for name, values in found.items() if len(values) > 1}
    if not found:
        return None
    table = _table("over seeds", "what", "seeds", "mean", "IQM", "95 % interval of the IQM")
    for name, values in sorted(found.items(), key=lambda pair: -pair[1].mean())[:_MOST_GROUPS]:
        middle, interval = _estimated(values)
        table.add_row(name, str(len(values)), number(values.mean()), middle, interval)
    return table


def _estimated(values: np.ndarray) -> tuple[str, str]:
    try:
        of = estimate(sample([values]))
    except ConfigError:  # scipy is missing; the final table of a sweep must not fail for that
        return "", "needs scipy"
    note = "" if len(values) >= ENOUGH else " (worst to best)"
    return number(of.value), f"{number(of.low)} to {number(of.high)}{note}"


def _bad(jobs: Sequence[Job], keys: set[str]) -> RichTable | None:
    bad = [job for job in jobs if job.status not in (*DONE, PENDING)]
    table = _table("did not finish", "job", "status", "what", "why")
    for job in bad[:_MOST_BAD]:
        table.add_row(str(job.number), job.status, " ".join(swept_overrides(job, keys)), job.reason or "")
    if len(bad) > _MOST_BAD:
        table.add_row("", "", f"and {len(bad) - _MOST_BAD} more", "")
    return table if bad else None


def _table(title: str, *columns: str) -> RichTable:
    from rich.table import Table as RichTable

    table = RichTable(
        title=title, title_justify="left", show_edge=False, box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
