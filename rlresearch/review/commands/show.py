"""`show`, `diff` and `tail`: shows one run, compares runs, and follows a run during training."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlresearch.errors import ConfigError, RunError, command_line
from rlresearch.loggers.formatting import duration, number
from rlresearch.review import tables
from rlresearch.review.runs import keys, query, reader
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.tables import Column, Grid

_LOG_LINES = 40
_LONGEST_VALUE = 60
_LONGEST_COMMAND = 100_000  # characters
_POLL_S = 0.5
_MOST_READ = 1 << 20  # bytes read at once; `tail` does not show the whole history of a run
_BARS = "▁▂▃▄▅▆▇█"


def show(arguments: argparse.Namespace) -> int:
    """Prints one run: its settings, how it ended, its numbers; also the end of its log if it did not finish."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        run = query.one(index, index.runs(), arguments.run)
        evaluated = _quietly(reader.evaluations, run.path)
    record = _quietly(reader.read_record, run.path)
    if arguments.json:
        known = {"path": str(run.path), **run.values, "command": record.get("command")}
        sys.stdout.write(tables.to_json(known | {"overrides": record.get("overrides")}))
        return 0
    parts = [_section(*each) for each in _sections(run, record, evaluated, arguments.config)]
    if run.values.get("status") in ("failed", "killed", "interrupted"):
        parts += _log(run.path / "log.txt")
    tables.display(*parts)
    print(f"command\n  {_command(record.get('command'))}")  # of a table on a terminal nothing can be pasted
    return 0


def _command(recorded: object) -> str:
    """Returns a run's command as it can be pasted; shortened where it is none."""
    try:
        words = shlex.split(str(recorded)) if len(str(recorded)) < _LONGEST_COMMAND else []
    except ValueError:
        words = []
    return command_line(words) if words and recorded is not None else tables.text(recorded)


def diff(arguments: argparse.Namespace) -> int:
    """Prints the keys whose values differ between the runs: configuration, code, machine, results."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        everything = index.runs()
        runs = [query.one(index, everything, word) for word in arguments.runs]
    if len(runs) < 2:
        raise ConfigError(f"diff {arguments.runs[0]}: needs two runs or more.")
    columns = [Column("about"), Column("key"), *(Column(run.name, _brief) for run in runs)]
    told = keys.ABOUT if arguments.all else [name for name in keys.ABOUT if name not in ("origin", "time", "metrics")]
    rows = []
    for key in query.keys(runs):
        values = [run.values.get(key) for run in runs]
        if len({query.written(value) for value in values}) > 1 and key != "name" and keys.about(key) in told:
            rows.append([keys.about(key), key, *values])
    rows.sort(key=lambda row: keys.ABOUT.index(row[0]))
    tables.write(Grid(columns, rows), arguments.format)
    if not rows and arguments.format == "table":
        print("no difference in configuration, code, machine or result")
    return 0


def _brief(value: Any) -> str:
    """Shortens a value, so that the columns of all runs fit next to each other."""
    line = tables.text(value)
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 1]}…"


def tail(arguments: argparse.Namespace) -> int:
    """Prints the newest rows and log lines of a run, then new ones until the run ends or Ctrl-C."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        run = query.one(index, index.runs(), arguments.run)
    wanted = arguments.columns.split(",") if arguments.columns else None
    began = reader.moment(run.values.get("started_at"))
    files = [_Growing(run.path / name, began) for name in ("metrics.jsonl", "evaluations.jsonl", "log.txt")]
    most: int | None = arguments.rows  # limits the lines that were already in the files
    while True:
        status = reader.status(_quietly(reader.read_record, run.path))
        lines = sorted((line for file in files for line in file.lines()), key=lambda line: line[0])
        for _, kind, line in lines if most is None else lines[len(lines) - min(most, len(lines)) :]:
            print(_tail_line(kind, line, wanted), flush=True)
        most = None
        if status != "running" or not arguments.follow:
            print(f"{run.name}: {status}")
            return 0
        time.sleep(_POLL_S)


class _Growing:
    """A file to which another process appends; `lines` returns the new complete lines."""

    def __init__(self, path: Path, began: datetime | None) -> None:
        self._path, self._began, self._at, self._time = path, began, 0, 0.0

    def lines(self) -> list[tuple[float, str, Any]]:
        """Returns (seconds since the run's start, file name, row or text) for each new line, of the last 1 MiB."""
        if not reader.is_file(self._path):
            return []
        with open(self._path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            beginning = max(self._at, size - _MOST_READ)
            file.seek(beginning)
            whole, newline, _ = file.read().rpartition(b"\n")
        lines = whole.split(b"\n")[1 if beginning > self._at else 0 :]
        self._at = beginning + len(whole) + len(newline)
        return [self._line(line) for line in lines if line]

    def _line(self, line: bytes) -> tuple[float, str, Any]:
        if self._path.suffix == ".jsonl":
            row = reader.one_row(line) or {}
            self._time = reader.real(row.get("time"), self._time)
            return self._time, self._path.name, row
        text = line.decode(errors="replace")
        written = reader.moment(text.partition(" ")[0])
        if written and self._began:
            self._time = (written - self._began).total_seconds()
        return self._time, self._path.name, text


def _tail_line(kind: str, line: Any, wanted: Sequence[str] | None) -> str:
    if kind == "log.txt":
        return tables.text(line)
    head = f"{duration(reader.real(line.get('time'), 0.0)):>8}  step {tables.count(line.get('step')):>9}"
    if kind == "evaluations.jsonl":
        told = line.get("returns")
        returns = [reader.real(each, np.nan) for each in told] if isinstance(told, list) else []
        mean, std = (float(np.mean(returns)), float(np.std(returns))) if returns else (None, None)
        return f"{head}  eval {number(mean)} ± {number(std)} ({len(returns)} episodes)"
    shown = [name for name in line if "/" in name and (not wanted or name in wanted)]
    return f"{head}  " + "  ".join(f"{tables.text(name)} {number(reader.real(line[name], np.nan))}" for name in shown)


def _sections(
    run: Run, record: Mapping[str, Any], evaluated: Mapping[str, np.ndarray], config: bool
) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    values, warnings = run.values, record.get("warnings")
    yield (
        run.name,
        [
            ("status", tables.text(values.get("status"))),
            *([("why", tables.text(keys.note(run)))] if keys.note(run) else []),
            *[("warning", tables.text(each)) for each in (warnings if isinstance(warnings, list) else [])],
            *_told(values, ("algo", "env", "seed")),
            ("began", f"{tables.column_of('started_at').show(values.get('started_at'))} UTC"),
            ("took", f"{tables.duration_or_none(values.get('duration'))}, {tables.count(values.get('steps'))} steps"),
            *_told(values, ("device", "host", "python")),
            ("commit", f"{tables.text(values.get('git.commit'))}{' (changed)' if values.get('git.dirty') else ''}"),
            ("path", tables.text(str(run.path))),
        ],
    )
    if len(evaluated.get("eval/return", ())):
        yield "evaluations", _evaluations(values, evaluated["eval/return"])
    newest = {key: value for key, value in values.items() if "/" in key and not key.startswith("eval/")}
    if newest:
        yield "newest metrics", [(tables.text(key), number(value)) for key, value in newest.items()]
    if config:
        settings = [key for key in values if keys.about(key) == "configuration"]
        yield "configuration", [(tables.text(key), tables.text(values[key])) for key in settings]


def _evaluations(values: Mapping[str, Any], returns: np.ndarray) -> list[tuple[str, str]]:
    final = {name: values.get(f"final_evaluation.{name}") for name in ("std", "episodes", "step")}
    told = f" ± {number(final['std'])} ({tables.count(final['episodes'])} episodes)" if final["std"] is not None else ""
    return [
        ("final", f"{number(values.get('final'))}{told}"),
        ("best", number(values.get("best"))),
        ("course", f"{sparkline(returns)}  {number(returns[0])} to {number(returns[-1])}, {len(returns)} evaluations"),
    ]


def sparkline(values: np.ndarray, width: int = 40) -> str:
    """Draws values as bars, the newest last; more than `width` values are averaged in equal parts."""
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return ""
    if len(values) > width:
        values = np.array([stretch.mean() for stretch in np.array_split(values, width)])
    low, span = values.min(), float(np.ptp(values)) or 1.0
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in values)


def _told(values: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(key, tables.text(values[key])) for key in keys if values.get(key) is not None]


def _section(title: str, rows: Sequence[tuple[str, str]]) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(Text(label), Text(value, style=tables.COLOURS.get(value, "")))
    return Group(Text(title, style="bold"), grid, "")


def _log(path: Path) -> list[Any]:
    """Returns the last lines of a log, with their indentation."""
    from rich.text import Text

    lines = reader.end_of(path, reader.TAIL).splitlines()[-_LOG_LINES:]
    clean = [line[: len(line) - len(line.lstrip())] + tables.clean(line.strip()) for line in lines]
    return [Text("end of log.txt", style="bold"), *map(Text, clean)] if lines else []


def _quietly(read: Any, path: Path) -> Any:
    """Calls `read(path)`; returns {} where the file is damaged, which `show` reports in the line `why`."""
    try:
        return read(path)
    except RunError:
        return {}
