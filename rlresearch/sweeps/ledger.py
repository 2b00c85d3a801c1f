"""The sweep directory: the planned jobs, and the events of each job.

    runs/sweeps/2026-11-21_110456_9f31c2/
        ledger.jsonl       plans and events, one event per line
        ledger.*.jsonl     events of processes on other machines, one file per process
        jobs/12.1.log      output of the first attempt at job 12, where it ran in its own process

An event is one `os.write` in append mode, so a killed process leaves complete events. A reader skips incomplete lines.
Events are never changed or removed; the state of a job follows from all its events. The results of a job are in its
run directory, which lies elsewhere; the ledger has its path.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rlresearch.errors import ConfigError, RunError
from rlresearch.storage.atomic import lock, sync_folder
from rlresearch.storage.jsonl import encodable, parsed_rows
from rlresearch.storage.run_directory import make_unique_dir, timestamp

SCHEMA_VERSION = 1
LEDGER = "ledger.jsonl"
LOGS = "jobs"
PENDING, RUNNING, FINISHED, FAILED = "pending", "running", "finished", "failed"
INTERRUPTED, KILLED, TIMED_OUT = "interrupted", "killed", "timed out"
PRUNED = "pruned"  # the search stopped the trial early; this is a normal end
DONE = (FINISHED, PRUNED)
# An attempt may have two end events: a job writes that it was interrupted, and the launcher writes that it timed out.
# The status that comes later in this order is valid.
ENDS = (INTERRUPTED, KILLED, FAILED, TIMED_OUT, PRUNED, FINISHED)
_FSYNC_EVERY_S = 1.0


@dataclass
class Job:
    """One job of a sweep. base, values: its configuration is this base with these values, by dotted key.

    attempts: how many were started. run: the run directory of the newest attempt; for a population, of its first
    member. objective: the mean return of the final evaluation. reason: why the job did not finish.
    """

    number: int
    base: int
    values: dict[str, Any]
    overrides: list[str]
    status: str = PENDING
    reason: str | None = None
    attempts: int = 0
    host: str | None = None
    pid: int | None = None
    run: Path | None = None
    objective: float | None = None
    started_at: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True)
class Base:
    """The common part of jobs. choices: the option of each group. tuned: the tuned settings that Hydra added."""

    config: dict[str, Any]
    choices: dict[str, Any]
    tuned: dict[str, Any]


@dataclass
class SweepState:
    """The content of a ledger. header: how the sweep was started. planned: whether all jobs were written."""

    header: dict[str, Any] = field(default_factory=dict)
    bases: list[Base] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    planned: bool = False
    notes: list[dict[str, Any]] = field(default_factory=list)


class Ledger:
    """Appends events to one file of a sweep directory; any thread may write. Errors: RunError that names the file.

    mends: whether to end an incomplete last line first, which a full disk can leave. Only the process that holds the
    lock of the sweep may do that: for others, the line may be one that is being written. after: called after each
    `write`.
    """

    after: Callable[[], None] | None = None

    def __init__(self, directory: Path, name: str = LEDGER, mends: bool = False) -> None:
        self.directory, self.path = directory, directory / name
        self._lock, self._synced = threading.Lock(), time.monotonic()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            size = os.fstat(self._file).st_size
            self._torn = mends and size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def for_process(cls, directory: Path) -> Self:
        """Opens a new ledger file for this process, which may run on another machine than the controller."""
        return cls(directory, f"ledger.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.jsonl")

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event; NaN and infinity become strings."""
        self.write_all([{"event": event, **fields}])
        if self.after is not None:
            self.after()
        if time.monotonic() - self._synced >= _FSYNC_EVERY_S:
            self.sync()

    def write_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Appends several events; a process that is killed in between leaves the first ones."""
        for event in events:
            line = json.dumps(encodable(event), separators=(",", ":"), allow_nan=False).encode() + b"\n"
            with self._lock:
                self._append(b"\n" + line if self._torn else line)

    def sync(self) -> None:
        """Flushes the events and the file's name to the disk."""
        try:
            os.fsync(self._file)
            sync_folder(self.directory)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the file; a second call does nothing."""
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                os.fsync(file)
            os.close(file)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._torn = written < len(line)
        if self._torn:
            raise RunError(f"{self.path} took {written} of {len(line)} bytes of an event: is the disk full?")


def create(root: str | os.PathLike[str]) -> Path:
    """Makes a new sweep directory under `root` and returns its path. Errors: ConfigError where this fails."""
    try:
        path = make_unique_dir(Path(root), f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}")
        (path / LOGS).mkdir()
    except OSError as error:
        message = f"hydra.sweep.dir={root}: cannot be written: {error.strerror or error}; choose another."
        raise ConfigError(message) from error
    return path


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is a sweep directory."""
    return (Path(path) / LEDGER).is_file()


def locked(path: Path) -> int:
    """Locks a sweep for this controller, until the returned file number is closed.

    Errors: ConfigError where another process holds the lock.
    """
    file = lock(path)
    if file is None:
        raise ConfigError(f"resume={path}: another process is at work on this sweep; wait for it, or end it.")
    return file


class Reader:
    """Reads the events of a sweep directory. account: the state of the sweep, which `refresh` updates."""

    def __init__(self, path: Path) -> None:
        self.path, self.account = path, SweepState()
        self._read: dict[Path, int] = {}

    def refresh(self) -> list[Job]:
        """Reads the new events and returns the jobs that they change.

        Errors: ConfigError where the ledger cannot be read.
        """
        changed: dict[int, Job] = {}
        try:
            files = [self.path / LEDGER, *sorted(self.path.glob("ledger.*.jsonl"))]
            events = [event for file in files for event in self._new(file)]
        except OSError as error:
            raise ConfigError(f"{self.path}: its ledger cannot be read: {error.strerror or error}") from error
        for event in events:
            try:
                _take(self.account, event, self.path)
                if event["event"] in ("begun", "ended"):
                    changed[event["job"]] = self.account.jobs[event["job"]]
            except (KeyError, TypeError, ValueError, IndexError):
                why = f"its ledger holds an event of another version: {str(event)[:80]}"
                raise ConfigError(f"{self.path}: {why}") from None
        return list(changed.values())

    def _new(self, file: Path) -> list[dict[str, Any]]:
        """Returns the events of complete lines that were not read before."""
        begin = self._read.get(file, 0)
        with open(file, "rb") as opened:
            opened.seek(begin)
            whole = opened.read().rpartition(b"\n")[0]
        self._read[file] = begin + len(whole) + 1 if whole else begin
        return parsed_rows(whole)


def newest(folder: Path) -> Path | None:
    """Returns the sweep directory below `folder` with the newest ledger, or None."""
    made = [each.parent for each in folder.glob(f"*/{LEDGER}")]
    return max(made, key=lambda path: (path / LEDGER).stat().st_mtime, default=None)


def read(path: Path) -> SweepState:
    """Returns the state of the sweep in a directory. Errors: ConfigError where it cannot be read."""
    reader = Reader(path)
    reader.refresh()
    return reader.account


def _take(account: SweepState, event: Mapping[str, Any], path: Path) -> None:
    kind = event["event"]
    if kind == "sweep":
        if event["schema_version"] != SCHEMA_VERSION:
            raise ValueError(event["schema_version"])
        account.header = dict(event)
    elif kind == "base":
        account.bases.append(Base(event["config"], event["choices"], event["tuned"]))
    elif kind == "job":
        if event["job"] == len(account.jobs):  # a batch may be in the ledger twice; both copies are equal
            account.jobs.append(Job(event["job"], event["base"], event["values"], list(event["overrides"])))
    elif kind == "planned":
        account.planned = len(account.jobs) >= event["jobs"]
    elif kind in ("begun", "ended"):
        _take_attempt(account.jobs[event["job"]], event, path)
    else:
        account.notes.append(dict(event))


def _take_attempt(job: Job, event: Mapping[str, Any], path: Path) -> None:
    if event["attempt"] < job.attempts:
        return
    run = None if event.get("run") is None else (path / event["run"]).resolve()
    if event["attempt"] > job.attempts:
        job.attempts, job.status, job.reason, job.run, job.ended_at = event["attempt"], RUNNING, None, None, None
        job.started_at, job.objective = event["at"], None
    job.run = run or job.run
    if event["event"] == "begun":
        job.host, job.pid = event["host"], event["pid"]
    elif job.status == RUNNING or ENDS.index(event["status"]) > ENDS.index(job.status):
        job.status, job.reason, job.objective = event["status"], event.get("reason"), event.get("objective")
        job.ended_at = event["at"]


def swept(jobs: Sequence[Job]) -> set[str]:
    """Returns the keys of overrides whose values differ between jobs."""
    values: dict[str, set[str | None]] = {}
    for index, job in enumerate(jobs):
        given = dict(text.partition("=")[::2] for text in job.overrides)
        for key in given.keys() - values.keys():
            values[key] = {None} if index else set()
        for key, seen in values.items():
            seen.add(given.get(key))
    return {key for key, seen in values.items() if len(seen) > 1}


def swept_overrides(job: Job, keys: set[str]) -> list[str]:
    """Returns the overrides of a job at `keys`, the keys in which jobs differ; all overrides where there are none."""
    mine = [text for text in job.overrides if text.partition("=")[0] in keys]
    return mine or job.overrides or ["(as configured)"]


def begun(ledger: Ledger, jobs: Sequence[int], attempts: Sequence[int], runs: Sequence[Path] | None = None) -> None:
    """Writes that this process has started attempts at jobs. runs: their run directories, once these exist."""
    at, about = timestamp(), {"host": socket.gethostname(), "pid": os.getpid()}
    for index, (job, attempt) in enumerate(zip(jobs, attempts, strict=True)):
        where = os.path.relpath(runs[index].resolve(), ledger.directory.resolve()) if runs else None
        ledger.write("begun", job=job, attempt=attempt, at=at, run=where, **about)


def ended(
    ledger: Ledger, job: int, attempt: int, status: str, reason: str | None = None, objective: float | None = None
) -> None:
    """Writes how an attempt at a job ended. objective: the mean return of the final evaluation."""
    fields = {"status": status, "reason": reason, "objective": objective}
    ledger.write("ended", job=job, attempt=attempt, at=timestamp(), **fields)
