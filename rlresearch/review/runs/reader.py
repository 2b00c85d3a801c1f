"""Reads one run directory as plain values and NumPy columns, also where it is damaged.

A directory may be damaged, incomplete, or from an unknown person. So `read` raises no error for its content, follows
no link, and waits for no pipe. The value `problem` describes any fault.
"""

from __future__ import annotations

import itertools
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import yaml

from rlresearch.config import safe_yaml
from rlresearch.errors import RunError
from rlresearch.storage.atomic import read_file
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory

FILES = ("run.json", "config.yaml", "metrics.jsonl", "evaluations.jsonl")
LARGEST_TEXT = 16 << 20  # bytes of a run.json or config.yaml; a real one has some 2,000
TAIL = 1 << 16
LONG = 64 << 20  # bytes, some 300,000 rows; of a longer file a plot uses a sample
_STRETCH, _STRETCHES = 4_096, 4_000  # bytes of each part of the sample, and the number of parts
PIECE = 32 << 20  # bytes of a JSON lines file that are parsed at once
_NOT_NUMBERS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}

Columns = dict[str, np.ndarray]
_NO_VALUES = ("overrides", "command", "metrics")  # fields of run.json that are told by themselves


class Run(NamedTuple):
    """path: the run's directory. key: its path below the folder of runs. values: the result of `read`."""

    path: Path
    key: str
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        return self.path.name


def stamps(path: str) -> str | None:
    """Returns size and modification time of each file of the run at `path` as text; None where there is no run."""
    found = []
    for name in FILES:
        try:
            about = os.lstat(f"{path}/{name}")
            found.append(f"{about.st_size}.{about.st_mtime_ns}")
        except OSError:
            if name == "run.json":
                return None
            found.append("-")
    return " ".join(found)


def read(path: Path) -> tuple[dict[str, Any], Columns]:
    """Returns all facts about a run by key, and its `evaluations`.

    The facts are the fields of run.json (status, algo, env, seed, git.commit, reason.error, ...), the settings
    (algo.gamma), the newest value of every metric (loss/critic), and:

        final      mean return of the final evaluation; without one, of the newest evaluation
        best       highest mean return of an evaluation
        steps      transitions made; total_steps is the planned number
        duration   seconds from the start to the end, or to the newest row
        problem    the fault of the directory; absent where there is none
    """
    problems: list[str] = []
    record = _try(problems, lambda: read_record(path)) or {}
    config = _try(problems, lambda: read_config(path)) or {}
    newest = _try(problems, lambda: _newest_row(path / "metrics.jsonl")) or {}
    evaluated = _try(problems, lambda: evaluations(path)) or {}
    values = _flat({name: part for name, part in record.items() if name not in _NO_VALUES})
    values |= _flat(config)  # so `total_steps` is the planned number; `steps` is the number made
    values |= {"device": record["device"]} if record.get("device") else {}
    values |= {name: value for name, value in newest.items() if "/" in name}
    values |= {name: float(column[-1]) for name, column in evaluated.items() if "/" in name}
    values |= _derived(record, newest, evaluated)
    if problems:
        values["problem"] = "; ".join(dict.fromkeys(problems))
    return {_utf8(key): _kept(value) for key, value in values.items()}, evaluated


def read_record(path: Path) -> dict[str, Any]:
    """Reads run.json. Errors: RunError where it is missing, not a plain file, or not a JSON object."""
    file = path / "run.json"
    if not is_file(file) or file.stat().st_size > LARGEST_TEXT:
        raise RunError(f"{file} is missing, or is no such file")
    record = RunDirectory(path).recorded()
    if not isinstance(record, dict):
        raise RunError(f"{file} does not hold an object")
    return record


def read_config(path: Path) -> dict[str, Any]:
    """Reads config.yaml as nested dicts; {} where it is missing. Errors: RunError where it is not a mapping."""
    file = path / "config.yaml"
    if not is_file(file):
        return {}
    try:
        config = safe_yaml.load(read_file(file, safe_yaml.LARGEST + 1))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{file} cannot be read: {safe_yaml.reason(error)}") from error
    if not isinstance(config, dict):
        raise RunError(f"{file} is not a mapping")
    return config


def evaluations(path: Path) -> Columns:
    """Returns the evaluations of a run as float64 columns of one length; {} where there is none.

    The columns are step, time (s), eval/return and eval/return_std (mean and standard deviation over episodes),
    eval/length (mean steps of an episode), and eval/episodes.
    """
    rows = [row for row in json_rows(path / "evaluations.jsonl") if are_numbers(row.get("returns"))]
    if not rows:
        return {}
    mean, std = _moments([row["returns"] for row in rows])
    columns = {
        "step": np.array([_real(row.get("step")) for row in rows]),
        "time": np.array([_real(row.get("time")) for row in rows]),
        "eval/return": mean,
        "eval/return_std": std,
        "eval/length": _moments([row["lengths"] if are_numbers(row.get("lengths")) else [] for row in rows])[0],
        "eval/episodes": np.array([len(row["returns"]) for row in rows], dtype=np.float64),
    }
    ordered = _in_order(columns)
    return ordered if len(ordered["step"]) else {}


def metrics(path: Path, names: Iterable[str] | None = None) -> Columns:
    """Returns the rows of metrics.jsonl as float64 columns of one length; NaN where a row has no such number.

    names: the wanted columns, in addition to step and time. Errors: RunError where a row before the last is damaged.
    """
    wanted = None if names is None else {"step", "time", *names}
    parts = [_columns(rows, wanted) for rows in pieces(path / "metrics.jsonl")]
    if not parts:
        return {}
    known = dict.fromkeys(name for part in parts for name in part)
    length = [len(part["step"]) for part in parts]
    whole = {
        name: np.concatenate([part.get(name, np.full(n, np.nan)) for part, n in zip(parts, length)]) for name in known
    }
    return _in_order(whole)


def sampled(path: Path, names: Iterable[str]) -> tuple[Columns, int]:
    """Returns a sample of the rows of a long file, from parts all over it, and an estimate of its number of rows.

    The columns are as in `metrics`. The estimate follows from the mean length of the sampled rows.
    """
    file, rows, read = path / "metrics.jsonl", [], 0
    size = file.stat().st_size
    with open(file, "rb") as opened:
        for at in np.linspace(0, size - _STRETCH, _STRETCHES).astype(int).tolist():
            opened.seek(at)
            lines = opened.read(_STRETCH).split(b"\n")
            for line in lines[1 if at else 0 : -1]:
                if (row := one_row(line)) is not None:
                    rows.append(row)
                    read += len(line) + 1
    columns = _in_order(_columns(rows, {"step", "time", *names}))
    return columns, round(size / read * len(rows)) if read else 0


def json_rows(path: Path) -> list[dict[str, Any]]:
    """Returns all rows of a JSON lines file, or []; five times as fast as `storage.jsonl.read_rows`."""
    return [row for rows in pieces(path) for row in rows]


def pieces(path: Path) -> Iterable[list[dict[str, Any]]]:
    """Yields the rows of a JSON lines file, several thousand at a time; skips an incomplete last line."""
    if not is_file(path):
        return
    count = 0
    try:
        with open(path, "rb") as file:
            left = b""
            while block := file.read(PIECE):
                lines, newline, left = (left + block).rpartition(b"\n")
                if newline:
                    rows = _parsed(lines)
                    count += len(rows)
                    yield rows
        if left:
            yield _parsed(left)
    except orjson.JSONDecodeError:  # incomplete or damaged: the slower reader finds out which
        yield list(itertools.islice(read_rows(path), count, None))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def end_of(path: Path, size: int) -> str:
    """Returns the last complete lines of a text file, at most `size` bytes; "" where it is missing."""
    if not is_file(path):
        return ""
    with open(path, "rb") as file:
        whole = file.seek(0, os.SEEK_END)
        file.seek(max(0, whole - size))
        text = file.read().decode(errors="replace")
    return text if whole <= size else text.partition("\n")[2]


def is_file(path: Path) -> bool:
    """Returns whether `path` is a plain file: not a link, a pipe or a device."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def moment(text: Any) -> datetime | None:
    """Converts a timestamp of run.json to a time in UTC; returns None for anything else."""
    try:
        when = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def real(value: Any, otherwise: float) -> float:
    """Returns a finite number of a row as a float, and `otherwise` for anything else."""
    number = _real(value)
    return number if np.isfinite(number) else otherwise


def status(values: Mapping[str, Any]) -> str:
    """Returns the status in run.json; `killed` where it is running, but its process on this machine has ended."""
    recorded = str(values.get("status", "damaged"))
    if recorded != "running" or values.get("host") != socket.gethostname() or not os.path.isdir("/proc/self"):
        return recorded
    began = moment(values.get("started_at"))
    try:
        process = Path(f"/proc/{int(values['pid'])}")
        is_gone = process.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX"  # not waited for yet
        # The system reuses process ids: a process younger than the run is another one.
        is_gone |= began is not None and process.stat().st_ctime > began.timestamp() + 5.0
    except (OSError, KeyError, TypeError, ValueError):
        is_gone = True
    return "killed" if is_gone else recorded


def one_row(line: bytes) -> dict[str, Any] | None:
    """Parses a line of a JSON lines file; returns None where it is not a row."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return {key: _decoded(value) for key, value in row.items()} if isinstance(row, dict) else None


def _derived(record: Mapping[str, Any], newest: Mapping[str, Any], evaluated: Columns) -> dict[str, Any]:
    final = record.get("final_evaluation")
    final = _real(final.get("mean")) if isinstance(final, Mapping) else np.nan
    returns = evaluated.get("eval/return", np.empty(0))
    if np.isnan(final) and len(returns):
        final = float(returns[-1])
    ends = [_real(newest.get("step")), *evaluated.get("step", np.empty(0))[-1:]]
    steps = _real(record.get("total_steps"))
    steps = _largest(ends) if np.isnan(steps) else steps
    seconds = _largest([_real(record.get("wall_time_s")), _real(newest.get("time"))])
    derived = {"final": final, "best": _largest(returns), "steps": steps, "duration": seconds}
    found = {name: float(value) for name, value in derived.items() if np.isfinite(value)}
    if "steps" in found:
        found["steps"] = _kept(int(found["steps"]))
    return found


def _parsed(lines: bytes) -> list[dict[str, Any]]:
    """Parses complete lines. In JSON a line break inside a string is a backslash and n, so each newline ends a row."""
    rows = orjson.loads(b"[" + lines.replace(b"\n", b",") + b"]")
    if not all(isinstance(row, dict) for row in rows):
        raise orjson.JSONDecodeError("not an object", "", 0)
    if b'NaN"' in lines or b'Infinity"' in lines:
        return [{key: _decoded(value) for key, value in row.items()} for row in rows]
    return rows


def _columns(rows: Sequence[Mapping[str, Any]], wanted: set[str] | None) -> Columns:
    if not rows:
        return {"step": np.empty(0)}
    names = dict.fromkeys(name for row in (rows if _differ(rows) else rows[:1]) for name in row)
    columns = {"step": np.full(len(rows), np.nan)}
    for name in names:
        if wanted is None or name in wanted:
            try:
                columns[name] = np.array(list(map(itemgetter(name), rows)), dtype=np.float64).reshape(len(rows))
            except (KeyError, TypeError, ValueError, OverflowError):
                columns[name] = np.array([_real(row.get(name)) for row in rows])
    return columns


def _differ(rows: Sequence[Mapping[str, Any]]) -> bool:
    first = rows[0].keys()
    return any(row.keys() != first for row in rows)


def _in_order(columns: Columns) -> Columns:
    """Removes rows that a resumed run wrote again; of two rows with one step, the later one stays."""
    step = columns["step"]
    if len(step) < 2 or np.all(step[1:] > step[:-1]):
        return columns
    after = np.append(np.fmin.accumulate(step[::-1])[::-1][1:], np.inf)
    kept = step < after
    return {name: column[kept] for name, column in columns.items()}


def _newest_row(path: Path) -> dict[str, Any]:
    """Returns the last complete row, which it reads from the end of the file."""
    if not is_file(path):
        return {}
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")
    for line in reversed(lines[1:] if size > TAIL else lines):
        if line and (row := one_row(line)) is not None:
            return {name: _real(value) for name, value in row.items()}
    return {}


def _try(problems: list[str], what: Any) -> Any:
    try:
        return what()
    except (RunError, OSError, RecursionError) as error:
        problems.append(" ".join(str(error).split()))
        return None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns plain values by dotted key; a list becomes text as on the command line, a date becomes text."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple):
            flat[f"{prefix}{key}"] = f"[{','.join(map(str, value))}]"
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | None) else str(value)
    return flat


def _kept(value: Any) -> Any:
    """Returns a value that the cache can store: integers of 64 bits, and text that UTF-8 can encode."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value) if value.bit_length() < 4_000 else "a number of many digits"
    return _utf8(value) if isinstance(value, str) else value


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return _NOT_NUMBERS.get(value, value) if isinstance(value, str) else value


def _moments(stretches: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each list, equal to NumPy's for one list; NaN for an empty list."""
    mean, std = np.full(len(stretches), np.nan), np.full(len(stretches), np.nan)
    for length in {len(each) for each in stretches} - {0}:
        at = [place for place, each in enumerate(stretches) if len(each) == length]
        block = np.array([stretches[place] for place in at], dtype=np.float64)
        mean[at], std[at] = block.mean(axis=1), block.std(axis=1)
    return mean, std


def are_numbers(values: Any) -> bool:
    """Returns whether `values` is a list of numbers, and not empty."""
    return isinstance(values, list) and bool(values) and set(map(type, values)) <= {int, float}


def _real(value: Any) -> float:
    value = _decoded(value)
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _largest(values: Iterable[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return max(known) if known else np.nan
