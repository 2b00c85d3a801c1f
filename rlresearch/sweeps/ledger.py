"""The sweep directory: what was to be run, and what became of each job.

    runs/sweeps/2026-11-21_110456_9f31c2/
        ledger.jsonl       what was planned and what happened, one event a line
        ledger.*.jsonl     the same from processes on other machines, each in a file of its own
        jobs/12.1.log      what the first attempt at job 12 printed, where it had a process of its own

An event is one `os.write` in append mode, so a process killed at any moment leaves whole events; what is no whole line
is left out on reading. Nothing is ever changed or removed: the state of a job is what its events add up to. The run
directories are elsewhere and are the truth about the runs; a job names its own.
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
PRUNED = "pruned"  # by the search that it was a trial of: an end as good as any
DONE = (FINISHED, PRUNED)
# The later stands where an attempt ended twice, as where a job says that it was told to stop, and who told it says why.
ENDS = (INTERRUPTED, KILLED, FAILED, TIMED_OUT, PRUNED, FINISHED)
_FSYNC_EVERY_S = 1.0


@dataclass
class Job:
    """One job of a sweep. base, values: its configuration is that base with these values, by dotted key. attempts: how
    many were begun; run: its newest attempt's directory, a population's first; objective: the mean return of the final
    evaluation. reason: why it did not finish.
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
    """What jobs have in common. choices: the option of each group; tuned: the settings that applied by themselves."""

    config: dict[str, Any]
    choices: dict[str, Any]
    tuned: dict[str, Any]


@dataclass
class SweepState:
    """All that a ledger says. header: how the sweep was started; planned: whether its jobs were all written down."""

    header: dict[str, Any] = field(default_factory=dict)
    bases: list[Base] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    planned: bool = False
    notes: list[dict[str, Any]] = field(default_factory=list)


class Ledger:
    """Appends events to one file of a sweep directory; any thread may. Errors: RunError naming the file.

    mends: whether a torn last line, of a process that was killed on a full disk, is ended first. Only who holds the
    sweep may: another's line that is just being written looks the same. after: called once an event was written.
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
        """A file of its own, for a process on any machine."""
        return cls(directory, f"ledger.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}.jsonl")

    def write(self, event: str, **fields: Any) -> None:
        """One event; NaN and infinity become text."""
        self.write_all([{"event": event, **fields}])
        if self.after is not None:
            self.after()
        if time.monotonic() - self._synced >= _FSYNC_EVERY_S:
            self.sync()

    def write_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Several events, of which a process killed in between leaves the first."""
        for event in events:
            line = json.dumps(encodable(event), separators=(",", ":"), allow_nan=False).encode() + b"\n"
            with self._lock:
                self._append(b"\n" + line if self._torn else line)

    def sync(self) -> None:
        """Brings the events to the disk, and the file's name."""
        try:
            os.fsync(self._file)
            sync_folder(self.directory)
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """May be called again."""
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
    """A sweep directory under `root` that no other sweep has. ConfigError where it cannot be made."""
    try:
        path = make_unique_dir(Path(root), f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}")
        (path / LOGS).mkdir()
    except OSError as error:
        message = f"hydra.sweep.dir={root}: cannot be written: {error.strerror or error}; choose another."
        raise ConfigError(message) from error
    return path


def is_sweep(path: str | os.PathLike[str]) -> bool:
    """Whether a sweep lies at `path`."""
    return (Path(path) / LEDGER).is_file()


def locked(path: Path) -> int:
    """Keeps other controllers from a sweep until the file number is closed. ConfigError where one is at it."""
    file = lock(path)
    if file is None:
        raise ConfigError(f"resume={path}: another process is at work on this sweep; wait for it, or end it.")
    return file


class Reader:
    """What the events in a sweep directory add up to, now and as more are written."""

    def __init__(self, path: Path) -> None:
        self.path, self.account = path, SweepState()
        self._read: dict[Path, int] = {}

    def refresh(self) -> list[Job]:
        """Takes in what was written since the last time; the jobs it is about, each as it is now.

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
        """The whole lines that have not been read yet."""
        begin = self._read.get(file, 0)
        with open(file, "rb") as opened:
            opened.seek(begin)
            whole = opened.read().rpartition(b"\n")[0]
        self._read[file] = begin + len(whole) + 1 if whole else begin
        return parsed_rows(whole)


def newest(folder: Path) -> Path | None:
    """The sweep directory below `folder` that was made last, or None."""
    made = [each.parent for each in folder.glob(f"*/{LEDGER}")]
    return max(made, key=lambda path: (path / LEDGER).stat().st_mtime, default=None)


def read(path: Path) -> SweepState:
    """What the events in a sweep directory add up to. ConfigError where it cannot be read."""
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
        if event["job"] == len(account.jobs):  # a batch may have been begun twice, and is then the same
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
    """The keys in which jobs differ."""
    values: dict[str, set[str | None]] = {}
    for index, job in enumerate(jobs):
        given = dict(text.partition("=")[::2] for text in job.overrides)
        for key in given.keys() - values.keys():
            values[key] = {None} if index else set()
        for key, seen in values.items():
            seen.add(given.get(key))
    return {key for key, seen in values.items() if len(seen) > 1}


def swept_overrides(job: Job, keys: set[str]) -> list[str]:
    """The overrides of a job that others do not share; all where nothing is swept."""
    mine = [text for text in job.overrides if text.partition("=")[0] in keys]
    return mine or job.overrides or ["(as configured)"]


def begun(ledger: Ledger, jobs: Sequence[int], attempts: Sequence[int], runs: Sequence[Path] | None = None) -> None:
    """Says that attempts at jobs have begun, by this process; `runs`: each one's directory, once it is there."""
    at, about = timestamp(), {"host": socket.gethostname(), "pid": os.getpid()}
    for index, (job, attempt) in enumerate(zip(jobs, attempts, strict=True)):
        where = os.path.relpath(runs[index].resolve(), ledger.directory.resolve()) if runs else None
        ledger.write("begun", job=job, attempt=attempt, at=at, run=where, **about)


def ended(
    ledger: Ledger, job: int, attempt: int, status: str, reason: str | None = None, objective: float | None = None
) -> None:
    """Says how an attempt at a job ended."""
    fields = {"status": status, "reason": reason, "objective": objective}
    ledger.write("ended", job=job, attempt=attempt, at=timestamp(), **fields)
