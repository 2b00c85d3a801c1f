"""`verify`, `archive` and `rm`: checks run directories for damage, packs them into a file, and deletes them."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import math
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlresearch.errors import ConfigError, RunError, format_value
from rlresearch.loggers.wandb.settings import FOLDERS as MIRRORS
from rlresearch.loggers.wandb.settings import MARKER
from rlresearch.review import files, tables
from rlresearch.review.runs import query, reader
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.tables import Column, Grid
from rlresearch.storage.run_directory import STATUSES

SEAL = "SHA256SUMS"  # the format of the program sha256sum, which checks it with -c
_BLOCK = 1 << 20
_SUMS = 1e-9  # tolerance, absolute and relative, between a stored mean and the mean of the returns


def verify(arguments: argparse.Namespace) -> int:
    """Prints the damage of each run. Returns exit code 1 where any run is damaged."""
    runs = _chosen(arguments)
    rows, sealed = [], 0
    for run in runs:
        found = damages(run.path, run.values.get("status") == "running")
        if not found and arguments.seal and run.values.get("status") != "running":
            sealed += seal(run.path)
        rows += [[run.key, each] for each in found]
    if rows or arguments.format != "table":
        tables.write(Grid([Column("run"), Column("damage")], rows), arguments.format)
    damaged = len({row[0] for row in rows})
    also = f", {sealed:,} sealed" if arguments.seal else ""
    print(f"{len(runs):,} runs: {damaged:,} damaged or altered{also}", file=sys.stderr)
    return 1 if rows else 0


def damages(path: Path, running: bool = False) -> list[str]:
    """Returns the faults of a run directory, one line each. running: missing files are then no fault."""
    found: list[str] = []
    try:
        record = reader.read_record(path)
    except RunError as error:
        return [str(error)]
    if record.get("status") not in STATUSES:
        found.append(f"run.json: status is {format_value(record.get('status'))}, not one of {', '.join(STATUSES)}")
    for name, check in (("config.yaml", _config), ("metrics.jsonl", _rows), ("evaluations.jsonl", _rows)):
        if not reader.is_file(path / name):
            if not running and record.get("status") == "finished":
                found.append(f"{name} is missing, or is no file")
            continue
        try:
            found += check(path / name)
        except RunError as error:
            found.append(str(error))
    if not found and record.get("status") == "finished":
        found += _against_record(path, record)
    return found + _against_seal(path)


def seal(path: Path) -> bool:
    """Writes SHA256SUMS where there is none. Returns whether it has written it."""
    if (path / SEAL).exists():
        return False
    lines = [f"{_sum(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
    with files.atomic_path(path / SEAL) as fresh:
        fresh.write_text("".join(lines), encoding="utf-8")
    return True


def archive(arguments: argparse.Namespace) -> int:
    """Seals the runs and packs them into a new file; with --remove, reads the file back and then deletes the runs."""
    output: Path = arguments.output
    if not output.name.endswith((".tar.gz", ".tgz")):
        raise ConfigError(f"--output={output}: must end in .tar.gz.")
    if output.exists():
        raise ConfigError(f"--output={output}: is there already; choose another name.")
    runs = _to_act_on(arguments, "archive")
    if arguments.remove:
        _confirm(f"Pack {_counted(runs)} into {output} and delete them from {arguments.runs_dir}?", runs, arguments.yes)
    for run in runs:
        seal(run.path)
    with files.atomic_path(output) as fresh, tarfile.open(fresh, "w:gz", compresslevel=6) as packed:
        for run in runs:
            for file in _files(run.path, sealed=True):
                packed.add(file, arcname=_packed_name(run, file), recursive=False)
    check_archive(output, runs)
    for run in runs if arguments.remove else ():
        _delete(run, Path(arguments.runs_dir))
    done = " and deleted them" if arguments.remove else ""
    print(f"packed {_counted(runs)} into {output}{done}; tar -xzf {output} -C FOLDER brings them back")
    return 0


def rm(arguments: argparse.Namespace) -> int:
    """Asks for confirmation and deletes the runs."""
    runs = _to_act_on(arguments, "rm", running=arguments.force)
    _confirm(f"Delete {_counted(runs)} from {arguments.runs_dir}?", runs, arguments.yes)
    for run in runs:
        _delete(run, Path(arguments.runs_dir))
    print(f"deleted {_counted(runs)}")
    return 0


def _chosen(arguments: argparse.Namespace) -> list[Run]:
    with Index(arguments.runs_dir, arguments.cache) as index:
        return query.choose(index, arguments.runs, arguments.since, arguments.status).runs


def _to_act_on(arguments: argparse.Namespace, command: str, running: bool = False) -> list[Run]:
    """Returns the chosen runs. Errors: ConfigError without any name or filter, so that it never means all runs."""
    if not arguments.runs and not arguments.since and not arguments.status:
        raise ConfigError(f"{command}: name the runs, by name, number or filter; all of them are 'name~.'")
    runs = _chosen(arguments)
    if not runs:
        raise ConfigError(f"{command}: no run in {arguments.runs_dir} is meant.")
    busy = [run.name for run in runs if run.values.get("status") == "running"]
    if busy and not running:
        raise ConfigError(f"{command}: {busy[0]} is still running{f', and {len(busy) - 1} more' if busy[1:] else ''}.")
    return runs


def _confirm(question: str, runs: Sequence[Run], yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("nobody to ask here: nothing was deleted; --yes does it without asking.")
    for run in runs[:10]:
        print(f"  {tables.text(run.key)}  {run.values.get('status')}")
    if len(runs) > 10:
        print(f"  ... and {len(runs) - 10:,} more")
    print(f"{question} [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was deleted.")


def _delete(run: Run, root: Path) -> None:
    """Deletes a run directory inside `root`; removes links in it, but not their targets. Errors: RunError."""
    inside = run.path.resolve()
    if run.path.is_symlink() or root.resolve() not in inside.parents or not (inside / "run.json").exists():
        raise RunError(f"{run.path} is no run directory inside {root}: it was left alone.")
    try:
        shutil.rmtree(inside)
    except OSError as error:
        raise RunError(f"{run.path} cannot be deleted: {error.strerror or error}") from error
    if inside.parent != root.resolve() and not any(inside.parent.iterdir()):
        with contextlib.suppress(OSError):
            inside.parent.rmdir()  # the folder of the date is empty now


def _config(path: Path) -> list[str]:
    reader.read_config(path.parent)
    return []


def _rows(path: Path) -> list[str]:
    """Returns the faults of a file of rows: a row without a step, a step that decreases, an incomplete last line."""
    before = -math.inf
    for number, row in enumerate((row for rows in reader.pieces(path) for row in rows), start=1):
        step = row.get("step")
        if not isinstance(step, int | float) or not math.isfinite(step):
            return [f"{path.name}, line {number}: has no step"]
        if step < before:
            return [f"{path.name}, line {number}: step {step:,} comes after {before:,}"]
        before = step
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return [f"{path.name}: its last line is torn"] if size and file.read() != b"\n" else []


def _against_record(path: Path, record: dict) -> list[str]:
    """Returns the differences between run.json of a finished run and its rows."""
    found = []
    evaluated, final = reader.evaluations(path), record.get("final_evaluation")
    if isinstance(final, dict) and len(evaluated.get("step", ())):
        told = {"step": "step", "mean": "eval/return", "std": "eval/return_std", "episodes": "eval/episodes"}
        for name, column in told.items():
            claimed, there = final.get(name), float(evaluated[column][-1])
            if isinstance(claimed, int | float) and not np.isclose(claimed, there, _SUMS, _SUMS, equal_nan=True):
                found.append(f"run.json: final_evaluation.{name} is {claimed}, but evaluations.jsonl gives {there}")
    elif isinstance(final, dict):
        found.append("evaluations.jsonl: has no evaluation, but run.json has the final one")
    steps, rows = record.get("total_steps"), reader.metrics(path, ())
    ours = "imported" not in record  # an imported run may have its last row before its last step
    if ours and isinstance(steps, int) and len(rows.get("step", ())) and rows["step"][-1] != steps:
        found.append(f"metrics.jsonl: ends at step {rows['step'][-1]:,.0f}, but run.json says {steps:,}")
    return found


def _against_seal(path: Path) -> list[str]:
    if not reader.is_file(path / SEAL):
        return []
    found, named = [], set()
    for line in (path / SEAL).read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        file = path / name
        named.add(name)
        if not reader.is_file(file) or path.resolve() not in file.resolve().parents:
            found.append(f"{name}: was there when the run was sealed")
        elif _sum(file) != digest:
            found.append(f"{name}: has changed since the run was sealed")
    new = [file.relative_to(path).as_posix() for file in _files(path)]
    return found + [f"{name}: has come since the run was sealed" for name in new if name not in named]


def check_archive(path: Path, runs: Sequence[Run]) -> None:
    """Reads an archive back and compares every file. Errors: RunError where one differs or is missing."""
    wanted = {_packed_name(run, file): file for run in runs for file in _files(run.path, sealed=True)}
    with tarfile.open(path) as packed:
        for member in packed:
            content = packed.extractfile(member)
            file = wanted.pop(member.name, None)
            whole = isinstance(content, io.BufferedReader) and hashlib.file_digest(content, "sha256").hexdigest()
            if file is None or whole != _sum(file):
                raise RunError(f"{path}: {member.name} is not what was packed; nothing was deleted.")
    if wanted:
        raise RunError(f"{path}: lacks {next(iter(wanted))}; nothing was deleted.")


def _packed_name(run: Run, file: Path) -> str:
    return f"{run.key}/{file.relative_to(run.path).as_posix()}"


def _files(path: Path, sealed: bool = False) -> list[Path]:
    """Returns the files of a run, sorted. sealed: whether to include SHA256SUMS.

    Links, pipes and the files of mirrors are not part of a run.
    """
    found = []
    for folder, folders, names in os.walk(path):
        if folder == str(path):
            folders[:] = [name for name in folders if name not in MIRRORS]
            names = [name for name in names if name != MARKER]
        found += [Path(folder) / name for name in names]
    return sorted(file for file in found if reader.is_file(file) and (sealed or file.name != SEAL))


def _sum(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _counted(runs: Sequence[Run]) -> str:
    return f"{len(runs):,} run{'s' if len(runs) > 1 else ''}"
