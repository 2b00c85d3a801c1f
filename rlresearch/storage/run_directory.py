"""The run directory: all results of a run. Every other copy, such as W&B's, is made from it.

    runs/2026-11-21/110456_ddpg_pendulum_s0_9f31c2/
        config.yaml        the composed configuration
        run.json           the facts: command, machine, code, and how the run ended
        metrics.jsonl      {"step", "time" in seconds since the start, "group/name": number, ...}
        evaluations.jsonl  {"step", "time", "returns": [...], "lengths": [...]}
        log.txt            messages of the logger "rlresearch", in UTC

A killed process leaves every row that it wrote and a complete run.json. A run writes nothing outside its directory.
JSON has no NaN or infinity: they are the strings "NaN", "Infinity" and "-Infinity" in all of these files.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rlresearch.errors import ConfigError, RunError
from rlresearch.storage import redaction
from rlresearch.storage.atomic import lock, read_file
from rlresearch.storage.jsonl import decoded, encodable

SCHEMA_VERSION = 1
STATUSES = ("running", "finished", "pruned", "failed", "interrupted")

# run.json has all these fields from the start, so that a reader need not test whether one exists.
FIELDS = (
    *("schema_version", "status", "command", "overrides", "algo", "env", "seed", "started_at", "finished_at"),
    *("wall_time_s", "host", "pid", "device", "python", "packages", "git", "package_git", "total_steps"),
    *("final_evaluation", "reason", "state_digest", "choices", "population", "trial", "resumes", "nondeterminism"),
    *("sweep", "warnings", "metrics"),
)
_LARGEST_RECORD = 1 << 24  # bytes


class RunDirectory:
    """The directory of one run, at `path`. `create` makes a new one; `RunDirectory(path)` opens an existing one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._log: logging.Handler | None = None
        self._held: int | None = None

    @classmethod
    def create(cls, root: str | os.PathLike[str], algo: str, env: str, seed: int | str) -> RunDirectory:
        """Makes a new directory under `root`, writes its run.json and opens its log.txt.

        Errors: ConfigError that names `runs_dir`, where `root` cannot be written.
        """
        started = utc_now()
        # Only characters that every file system takes, and 60 of each part: many allow 255 for the whole name.
        parts = [re.sub(r"[^A-Za-z0-9_.-]+", "-", part).strip("-.")[:60] or "x" for part in (algo, env, f"s{seed}")]
        name = "_".join([f"{started:%H%M%S}", *parts])
        try:
            run = cls(make_unique_dir(Path(root) / f"{started:%Y-%m-%d}", name))
        except OSError as error:
            reason = error.strerror or error
            message = f"runs_dir ({root}) cannot be written: {reason}; choose another with runs_dir=PATH."
            raise ConfigError(message) from error
        known = {"schema_version": SCHEMA_VERSION, "status": "running", "algo": algo, "env": env, "seed": seed}
        known |= {"started_at": timestamp(started), "host": socket.gethostname(), "pid": os.getpid()}
        run.record(**(dict.fromkeys(FIELDS) | known | {"resumes": [], "warnings": []}))
        run.open_log()
        return run

    def lock(self) -> None:
        """Locks the run until `close`, so that no other process resumes it. Errors: RunError where one trains it."""
        self._held = lock(self.path) if self._held is None else self._held
        if self._held is None:
            now = self.recorded()
            raise RunError(f"{self.path} is being trained by process {now.get('pid')} on {now.get('host')}")

    def record(self, **fields: Any) -> None:
        """Merges `fields`, without secrets, into run.json. A reader sees the old file or the new one.

        Errors: RunError where the file cannot be read or written; ValueError for an unknown status.
        """
        if fields.get("status", "running") not in STATUSES:
            raise ValueError(f"status is {fields['status']!r}, not one of {', '.join(STATUSES)}")
        path = self.path / "run.json"
        with self._lock:
            merged = (self.recorded() if path.exists() else {}) | redaction.settings(fields)
            atomic_write(path, json.dumps(encodable(merged), indent=2, allow_nan=False) + "\n")

    def warn(self, sentence: str) -> None:
        """Adds a plain sentence to `warnings` in run.json, once. Errors: as of `record`."""
        told = self.recorded().get("warnings") or []
        if sentence not in told:
            self.record(warnings=[*told, sentence])

    def recorded(self) -> dict[str, Any]:
        """Returns the fields of run.json. Errors: RunError where it is missing or is not JSON."""
        path = self.path / "run.json"
        try:
            fields = decoded(json.loads(read_file(path, _LARGEST_RECORD)))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if not isinstance(fields, dict):
            raise RunError(f"{path} cannot be read: it holds no fields")
        return fields

    def open_log(self) -> None:
        """Writes the messages of the logger "rlresearch", from level INFO up, to log.txt until `close`."""
        if self._log is not None:
            return
        try:
            self._log = LogFile(self.path / "log.txt", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path / 'log.txt'} cannot be written: {error.strerror or error}") from error
        line = _WithoutSecrets("%(asctime)sZ %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        line.converter = time.gmtime
        self._log.setFormatter(line)
        logger = logging.getLogger("rlresearch")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        logger.addHandler(self._log)

    def close(self) -> None:
        """Closes the log and releases the lock; may be called again. Other methods still work afterwards."""
        log, self._log = self._log, None
        if log is not None:
            logging.getLogger("rlresearch").removeHandler(log)
            log.close()
        held, self._held = self._held, None
        if held is not None:
            os.close(held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def timestamp(moment: datetime | None = None) -> str:
    """Formats `moment` (default: now) in UTC with milliseconds, as in 2026-11-21T11:04:56.123Z."""
    moment = utc_now() if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _WithoutSecrets(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redaction.text(super().format(record))


class LogFile(logging.FileHandler):
    """A log file. A failed write neither stops the run nor prints a traceback over the display."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closing flushes again, and a full disk refuses again
            super().close()


def utc_now() -> datetime:
    return datetime.now(UTC)


def make_unique_dir(folder: Path, name: str) -> Path:
    """Makes a new folder in `folder` and returns its path; its name begins with `name`.

    `mkdir` fails where the name is taken, so two processes never get the same folder. Errors: OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        path = folder / f"{name}_{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise OSError(f"100 random names under {folder} were all taken")


def atomic_write(path: Path, text: str) -> None:
    """Writes `text` to `path` in one step: a reader sees the old file or the new one, also after a crash.

    Errors: RunError that names the file.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(fresh, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            fresh.unlink()
        if isinstance(error, OSError):
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


VIDEOS = "videos"


def video_of(path: Path, step: int) -> Path:
    """Returns the path of the video that a run records at the evaluation of `step`."""
    return path / VIDEOS / f"step_{step:012d}.mp4"
