"""The run directory: everything a run leaves behind, and the only truth about it.

    runs/2026-11-21/110456_ddpg_pendulum_s0_9f31c2/
        config.yaml        the composed configuration
        run.json           what was run, where, by which code, and how it ended
        metrics.jsonl      {"step", "time" in seconds since the start, "group/name": number, ...}
        evaluations.jsonl  {"step", "time", "returns": [...], "lengths": [...]}
        log.txt            messages of the logger "rlresearch", in UTC

A killed process leaves every row it wrote and a whole run.json. Nothing outside the directory is written.
JSON has no NaN or infinity: they are the strings "NaN", "Infinity" and "-Infinity" in all of these files.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import secrets
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from rlresearch import __version__
from rlresearch.errors import ConfigError, RunError

SCHEMA_VERSION = 1
STATUSES = ("running", "finished", "failed", "interrupted")

# All present from the first moment, so that a reader never asks whether a field exists.
_FIELDS = (
    *("schema_version", "status", "command", "overrides", "algo", "env", "seed", "started_at", "finished_at"),
    *("wall_time_s", "host", "pid", "device", "python", "packages", "git", "package_git", "total_steps"),
    *("final_evaluation", "reason"),
)
_UNENCODABLE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_FSYNC_EVERY_S = 1.0
_GIT_PATIENCE_S = 2.0
_PACKAGES = ("tensorflow", "keras", "hydra-core", "omegaconf", "gymnasium", "numpy", "rlresearch")
_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
# `api_key: x` inside the braces of an override; the value ends with its quotes, or at , } or ].
_SECRET_INSIDE = re.compile(
    r"""([\w.-]*(?:key|token|secret|password)[\w.-]*["']?\s*[:=]\s*)("[^"]*"|'[^']*'|[^,}\]]+)""", re.IGNORECASE
)


class RunDirectory:
    """One run's directory, `path`. `create` makes a new one; `RunDirectory(path)` opens one that exists."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._log: logging.Handler | None = None

    @classmethod
    def create(cls, root: str | os.PathLike[str], algo: str, env: str, seed: int | str) -> RunDirectory:
        """A directory under `root` that no other run has, with run.json and log.txt begun.

        Errors: ConfigError naming `runs_dir` where `root` cannot be written.
        """
        started = _utc_now()
        name = f"{started:%H%M%S}_{_safe(algo)}_{_safe(env)}_s{_safe(str(seed))}"
        try:
            run = cls(_exclusive(Path(root) / f"{started:%Y-%m-%d}", name))
        except OSError as error:
            reason = error.strerror or error
            message = f"runs_dir ({root}) cannot be written: {reason}; choose another with runs_dir=PATH."
            raise ConfigError(message) from error
        known = {"schema_version": SCHEMA_VERSION, "status": "running", "algo": algo, "env": env, "seed": seed}
        known |= {"started_at": timestamp(started), "host": socket.gethostname(), "pid": os.getpid()}
        run.record(**(dict.fromkeys(_FIELDS) | known))
        run.open_log()
        return run

    def write_config(self, yaml_text: str) -> None:
        """Writes config.yaml. Errors: RunError naming the file."""
        _replace(self.path / "config.yaml", yaml_text)

    def record(self, **fields: Any) -> None:
        """Merges `fields` into run.json, which is whole at every instant.

        Errors: RunError where it cannot be read or written; ValueError for an unknown status.
        """
        if fields.get("status", "running") not in STATUSES:
            raise ValueError(f"status is {fields['status']!r}, not one of {', '.join(STATUSES)}")
        path = self.path / "run.json"
        with self._lock:
            merged = (self.recorded() if path.exists() else {}) | fields
            _replace(path, json.dumps(_encodable(merged), indent=2, allow_nan=False) + "\n")

    def recorded(self) -> dict[str, Any]:
        """The fields of run.json. Errors: RunError where it is missing or is not JSON."""
        path = self.path / "run.json"
        try:
            return _decoded(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error

    def open_log(self) -> None:
        """Sends the messages of the logger "rlresearch", from INFO up, to log.txt until `close`."""
        if self._log is not None:
            return
        try:
            self._log = _LogFile(self.path / "log.txt", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{self.path / 'log.txt'} cannot be written: {error.strerror or error}") from error
        logger = logging.getLogger("rlresearch")
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.INFO)
        logger.addHandler(self._log)

    def close(self) -> None:
        """Stops the log; may be called again. The directory stays readable and recordable."""
        log, self._log = self._log, None
        if log is not None:
            logging.getLogger("rlresearch").removeHandler(log)
            log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonLines:
    """Rows appended to the file at `path`, one JSON object a line; any thread may write.

    A row is one `os.write` in append mode, so a killed process leaves whole rows; fsync, at most once a
    second and at close, keeps them through a power loss. A torn last line of an earlier process is removed.
    Errors: RunError naming the file, from every method.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._synced = time.monotonic()
        self._file: int | None = None
        with self._named_errors():
            self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            _end_with_whole_row(self._file)

    def write(self, row: dict[str, Any]) -> None:
        """Appends one row; NumPy numbers and arrays become plain ones."""
        line = json.dumps(_encodable(row), separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._lock, self._named_errors():
            if self._file is None:
                raise RunError(f"{self.path} is closed: no row can follow.")
            written = os.write(self._file, line)
            if written < len(line):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise RunError(f"{self.path} took {written} of {len(line)} bytes of a row: is the disk full?")
            if time.monotonic() - self._synced >= _FSYNC_EVERY_S:
                os.fsync(self._file)
                self._synced = time.monotonic()

    def close(self) -> None:
        """Brings the rows to the disk and closes the file; may be called again."""
        with self._lock, self._named_errors():
            file, self._file = self._file, None
            if file is not None:
                try:
                    os.fsync(file)
                finally:
                    os.close(file)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error


def read_rows(path: str | os.PathLike[str]) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file, also while it is being written; a torn last line is left out.

    Errors: RunError where the file cannot be opened, or where a line before the last is not a row.
    """
    torn = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if torn:
                    raise RunError(f"{path}, line {torn}: not a JSON object, and rows follow it.")
                row = _parsed(line)
                if row is None:
                    torn = number
                    continue
                yield _decoded(row) if b'NaN"' in line or b'Infinity"' in line else row
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror or error}") from error


def provenance(argv: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """What run.json says about how and by which code a run was started; pass it to `record`.

    command, overrides (both `redacted`), host, pid, python, packages {name: version or null}, git {commit, dirty}
    of the working directory and package_git of this package; null where there is no commit. `dirty` means
    changes to tracked files, and is null where git took more than 2 s.
    """
    package = Path(__file__).parent
    # Installed inside somebody else's repository, the package is no part of that repository's commit.
    own_repository = _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    return {
        "command": shlex.join(redacted(argv)),
        "overrides": redacted(overrides),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git": _commit(Path(".")),
        "package_git": _commit(package) if own_repository else None,
    }


def redacted(arguments: Sequence[str]) -> list[str]:
    """`arguments` with *** for each value whose key holds "key", "token", "secret" or "password".

    Known forms: a.token=x, --token=x, --token x, and a={token: x}. Harmless values under such keys go too.
    """
    shown, value_of_secret = [], False
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        is_secret = bool(_SECRET.search(key)) and "{" not in key
        if value_of_secret and not argument.startswith("-"):
            shown.append("***")
        elif equals and is_secret:
            shown.append(f"{key}=***")
        else:
            shown.append(_SECRET_INSIDE.sub(r"\1***", argument))
        value_of_secret = argument.startswith("-") and not equals and is_secret
    return shown


def timestamp(moment: datetime | None = None) -> str:
    """`moment` (default: now) in UTC, to the millisecond, as in 2026-11-21T11:04:56.123Z."""
    moment = _utc_now() if moment is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _LogFile(logging.FileHandler):
    """A log that cannot be written never stops the run, nor prints tracebacks over the display."""

    def __init__(self, path: Path, encoding: str) -> None:
        super().__init__(path, encoding=encoding)
        line = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
        line.converter = time.gmtime
        self.setFormatter(line)

    def handleError(self, record: logging.LogRecord) -> None:
        pass

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk refused is flushed, and refused, once more
            super().close()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return __version__ if package == "rlresearch" else None  # run from a checkout


def _commit(folder: Path) -> dict[str, Any] | None:
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None; it takes no locks (`status` would write the index) and starts no monitor."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else None


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _safe(name: str) -> str:
    # 60 characters each: file systems allow 255 for the whole name.
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:60] or "x"


def _exclusive(folder: Path, name: str) -> Path:
    """mkdir decides who was first; a clock or a look beforehand cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        path = folder / f"{name}_{secrets.token_hex(3)}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise OSError(f"100 random names under {folder} were all taken")


def _replace(path: Path, text: str) -> None:
    """Puts `text` at `path` in one step: a reader, or a crash, sees the old file or the new one."""
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


def _encodable(value: Any) -> Any:
    """`value` in what JSON can say; NumPy's scalars and arrays are known by `tolist`, without NumPy."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {str(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _encodable(value.tolist()) if hasattr(value, "tolist") else value


def _decoded(value: Any) -> Any:
    if isinstance(value, str):
        return _UNENCODABLE.get(value, value)
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    return [_decoded(item) for item in value] if isinstance(value, list) else value


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line.decode())
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _end_with_whole_row(file: int) -> None:
    """Removes a torn last line, so that the next row starts a line of its own."""
    start = size = os.fstat(file).st_size
    tail = b""
    while start > 0 and b"\n" not in tail:
        length = min(start, 1 << 16)
        start -= length
        tail = os.pread(file, length, start) + tail
    last = tail.rpartition(b"\n")[2]
    if last and _parsed(last) is None:
        os.ftruncate(file, size - len(last))
    elif last:
        os.write(file, b"\n")
