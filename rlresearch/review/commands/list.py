"""`ls`: lists the runs of a folder, one line each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rlresearch.review import tables
from rlresearch.review.runs import keys, query
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.tables import Column, Grid

DEFAULT_COLUMNS = ("name", "status", "steps", "final", "best", "duration")
SHOWN_RUNS = 50


def ls(arguments: argparse.Namespace) -> int:
    """Lists the runs, newest first, and stores their numbers for later commands."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        runs = query.sort(runs, arguments.sort)
        total = len(runs)
        form = arguments.format
        most = arguments.limit if arguments.limit is not None else (SHOWN_RUNS if form == "table" else 0)
        runs = runs[:most] if most else runs
        index.remember(runs)
        if form == "json" and not arguments.columns:
            sys.stdout.write(tables.to_json([{"path": str(run.path), **run.values} for run in runs]))
            return 0
        tables.write(_grid(_names(arguments, runs), runs), form)
        if form == "table" and len(runs) < total:
            print(f"... and {total - len(runs):,} more: --limit=0 shows all", file=sys.stderr)
        if form == "table" and not total:
            print(f"no run in {arguments.runs_dir} is meant", file=sys.stderr)
    return 0


def _names(arguments: argparse.Namespace, runs: Sequence[Run]) -> list[str]:
    asked = [key for word in arguments.columns for key in word.split(",") if key]
    known = [query.known_key(key.lstrip("+"), runs) for key in asked]
    names = [*DEFAULT_COLUMNS, *known] if not asked or asked[0].startswith("+") else ["name", *known]
    if arguments.varying:
        names += keys.differing(runs)
    return list(dict.fromkeys(names))


def _grid(names: Sequence[str], runs: Sequence[Run]) -> Grid:
    columns = [Column("#", tables.count, right=True, style="dim"), *map(tables.column_of, names)]
    rows = [[number, *map(run.values.get, names)] for number, run in enumerate(runs, start=1)]
    notes = [keys.note(run) for run in runs]
    if any(notes):
        columns.append(Column("note"))
        rows = [[*row, each] for row, each in zip(rows, notes)]
    return Grid(columns, rows)
