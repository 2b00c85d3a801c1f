"""`reproduce`: trains a run again from its stored configuration, and compares the environment and the numbers."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlresearch.errors import RunError
from rlresearch.loggers.formatting import number
from rlresearch.review import tables
from rlresearch.review.runs import query, reader
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Columns, Run
from rlresearch.review.tables import Column, Grid
from rlresearch.storage.provenance import provenance


def reproduce(arguments: argparse.Namespace) -> int:
    """Prints differences of versions and machine, trains, and compares. Returns 0 for equal numbers, else 1."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        run = query.one(index, index.runs(), arguments.run)
    record = reader.read_record(run.path)
    changed = differences(record, provenance([], []))
    told = f"{len(changed)} things are not as they were" if changed else "all is as it was"
    print(f"{run.name}: {told}", flush=True)
    if changed:
        tables.write(Grid([Column("what"), Column("then"), Column("now")], changed))
        sys.stdout.flush()
    if arguments.dry:
        return 0
    made = _train(run, arguments)
    compared = [(name, differing(read(run.path), read(made))) for name, read in _SOURCES]
    print()
    for name, (same, total, worst) in compared:
        print(f"{name}: {same:,} of {total:,} numbers are the same{worst}")
    return 0 if all(same == total and not worst for _, (same, total, worst) in compared) else 1


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[list[Any]]:
    """Returns [name, then, now] for Python, packages, commits and machine, where the two differ."""
    rows = [[key, then.get(key), now.get(key)] for key in ("python", "host")]
    packages = [_mapping(each.get("packages")) for each in (then, now)]
    rows += [[name, *(each.get(name) for each in packages)] for name in dict.fromkeys([*packages[0], *packages[1]])]
    for place in ("git", "package_git"):
        old, new = (_mapping(each.get(place)) for each in (then, now))
        rows.append([f"commit ({'yours' if place == 'git' else 'rlresearch'})", old.get("commit"), new.get("commit")])
        if old.get("dirty") or new.get("dirty"):
            rows.append([f"{place}: changed files", bool(old.get("dirty")), bool(new.get("dirty")), "always"])
    return [row[:3] for row in rows if row[1] != row[2] or len(row) > 3]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def differing(then: Columns, now: Columns) -> tuple[int, int, str]:
    """Returns (equal numbers, all numbers, text). The text gives the first difference and the largest one."""
    names = [name for name in then if name not in ("step", "time") and not name.startswith("speed/")]
    total = sum(len(then[name]) for name in names)
    if len(then.get("step", ())) != len(now.get("step", ())) or any(name not in now for name in names):
        rows = len(now.get("step", ()))
        return 0, total, f"; {len(then.get('step', ())):,} rows then, {rows:,} now, or other metrics"
    same, first, far = 0, None, 0.0
    for name in names:
        old, new = then[name], now[name]
        equal = (old == new) | (np.isnan(old) & np.isnan(new))
        same += int(equal.sum())
        for at in np.flatnonzero(~equal):
            far = max(far, abs(new[at] - old[at]) / max(abs(old[at]), abs(new[at])))
            if first is None or then["step"][at] < first[1]:
                first = (name, then["step"][at], old[at], new[at])
    if first is None:
        return same, total, ""
    name, step, old, new = first
    told = f"{name} at step {step:,.0f} was {number(old, 6)} and is {number(new, 6)}"
    return same, total, f"; first {told}; the largest difference is {100 * far:.2g} %"


_SOURCES = (("metrics", reader.metrics), ("evaluations", reader.evaluations))


def _train(run: Run, arguments: argparse.Namespace) -> Path:
    """Trains in a separate process, and returns the new run directory. Errors: RunError where training fails."""
    command = [sys.executable, "-m", "rlresearch.rerun", str(run.path), "--runs-dir", arguments.runs_dir]
    command += [f"--package={name}" for name in arguments.packages]
    command += [f"--config-dir={arguments.config_dir}"] if arguments.config_dir else []
    command += [f"--init-from={arguments.init_from}"] if arguments.init_from else []
    with subprocess.Popen(command) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the process gets Ctrl-C too; wait until it has recorded that
            process.wait()
            raise
    with Index(arguments.runs_dir, cache=False) as index:
        made = [each.path for each in index.runs() if each.values.get("pid") == process.pid and each.key != run.key]
    if code or not made:
        raise RunError(f"{run.name}: training again ended with exit code {code}.")
    return made[0]
