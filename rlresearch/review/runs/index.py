"""Lists all runs below a folder. A cache makes later calls fast; it may be deleted at any time.

The cache is one SQLite file for each folder of runs, in the user's cache folder. An entry is valid as long as size and
modification time of the run's files do not change; only new and changed runs are read again. If the cache cannot be
used (a full disk, another version, a damaged file), commands are slower but still correct.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from rlresearch.errors import ConfigError, RunError
from rlresearch.review.runs import reader
from rlresearch.review.runs.reader import Columns, Run

VERSION = 2  # of the tables and of the result of `reader.read`; a cache of another version is replaced
_TABLES = """
CREATE TABLE runs (key TEXT PRIMARY KEY, stamps TEXT, vals BLOB) WITHOUT ROWID;
CREATE TABLE columns (name TEXT, key TEXT, stamps TEXT, vals BLOB, PRIMARY KEY (name, key));
CREATE TABLE listing (number INTEGER PRIMARY KEY, key TEXT);
"""
PARALLEL = 300  # from this number of runs on, several processes read them
_AT_ONCE = 100  # runs per task of such a process, and per write to the cache
_FEW = 500  # up to this number of runs, a query names each of them
_ENDED = ("finished", "pruned", "failed", "interrupted", "killed")


class Index:
    """The runs below `root`. Call `close`, or use it in a `with`. Errors: ConfigError where `root` is not a folder.

    stamps: for each run's key, `reader.stamps`. samples: for each long run that was sampled, its number of rows.
    """

    def __init__(self, root: str | os.PathLike[str], cache: bool = True, folder: Path | None = None) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ConfigError(f"--runs-dir={root}: there is no such folder; --runs-dir=PATH names that of the runs.")
        place = folder or cache_folder() if cache else None
        self._db = _opened(None if place is None else place / f"{_digest(self.root)}.sqlite")
        self.stamps: dict[str, str] = {}
        self.samples: dict[str, int] = {}

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the cache; a second call does nothing."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def runs(self) -> list[Run]:
        """Returns all runs, the newest first; reads only new and changed runs."""
        with _without_collection():
            known = {key: (old, values) for key, old, values in self.ask("SELECT key, stamps, vals FROM runs")}
            self.stamps = dict(_found(str(self.root), known))
            fresh = [key for key, now in self.stamps.items() if known.get(key, ("",))[0] != now]
            values = {key: orjson.loads(known[key][1]) for key in self.stamps.keys() - set(fresh)}
            values |= self._read(fresh)
            self._forget(known.keys() - self.stamps.keys())
        for key, each in values.items():
            each |= {"name": key.rpartition("/")[2], "status": reader.status(each)}
        runs = [Run(self.root / key, key, each) for key, each in values.items()]
        return sorted(runs, key=_age, reverse=True)

    def columns(self, runs: Sequence[Run], names: Sequence[str], drawn: bool = False) -> list[Columns]:
        """Returns for each run the columns `step`, `time` and `names`, of one length; {} where it has none of `names`.

        names: either all eval/..., from the evaluations, or all other metrics, from the metrics rows. drawn: whether a
        sample is enough for files larger than `reader.LONG`; `samples` then has the number of their rows. Errors:
        ValueError for names of both kinds.
        """
        evaluated = {name.startswith("eval/") for name in names}
        if len(evaluated) > 1:
            raise ValueError(f"{names} are of evaluations and of metrics rows")
        wanted = ("step", "time", *names)
        rows_of = "e" if evaluated.pop() else "m"
        long = {run.key for run in runs if rows_of == "m" and _is_long(run)}
        found = self._kept([run for run in runs if run.key not in long], wanted, rows_of)
        if long:
            rest = iter(found)
            found = [self._of_long(run, names, drawn) if run.key in long else next(rest) for run in runs]
        return [
            {name: columns[name] for name in wanted if name in columns} if set(names) & columns.keys() else {}
            for columns in found
        ]

    def metric_names(self, runs: Iterable[Run]) -> list[str]:
        """Returns the metrics that at least one of the runs has, evaluations first."""
        names = dict.fromkeys(name for run in runs for name in run.values if "/" in name)
        first = ("eval/return", "train/return", "eval/", "train/")
        return sorted(names, key=lambda name: (*(not name.startswith(each) for each in first), name))

    def remember(self, runs: Sequence[Run]) -> None:
        """Stores a listing, so that later commands can name its runs by number, from 1."""
        self._tell("DELETE FROM listing", [()])
        self._tell("INSERT INTO listing VALUES (?, ?)", list(enumerate((run.key for run in runs), start=1)))

    def remembered(self) -> list[str]:
        """Returns the keys of the last listing, in its order."""
        return [key for (key,) in self.ask("SELECT key FROM listing ORDER BY number")]

    def _read(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Reads runs with `reader.read`, stores the results in the cache, and returns their values by key."""
        read = iter(_spread(reader.read, [self.root / key for key in keys], "reading runs"))
        found: dict[str, dict[str, Any]] = {}
        for at in range(0, len(keys), _AT_ONCE):
            batch = list(zip(keys[at : at + _AT_ONCE], read))
            rows = [(key, self.stamps[key], orjson.dumps(values)) for key, (values, _) in batch]
            self._tell("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", rows)
            found |= {key: values for key, (values, _) in batch}
            self._keep([(Run(self.root / key, key, values), columns) for key, (values, columns) in batch], "e")
        return found

    def _forget(self, keys: Iterable[str]) -> None:
        gone = [(key,) for key in keys]
        if gone:
            self._tell("DELETE FROM runs WHERE key = ?", gone)
            self._tell("DELETE FROM columns WHERE key = ?", gone)

    def _kept(self, runs: Sequence[Run], wanted: Sequence[str], source: str) -> list[Columns]:
        """Returns columns from the cache. If a run is not there, its file is read completely and cached."""
        known = self._from_cache({run.key for run in runs}, [source + name for name in (*wanted, "")])
        fresh = [run for run in runs if run.key not in known]
        read = iter(_spread(partial(_read_columns, source), [run.path for run in fresh], "reading rows"))
        for at in range(0, len(fresh), _AT_ONCE):
            batch = list(zip(fresh[at : at + _AT_ONCE], read))
            self._keep(batch, source)
            known |= {run.key: {name: each[name] for name in wanted if name in each} for run, each in batch}
        return [known[run.key] for run in runs]

    def _of_long(self, run: Run, names: Sequence[str], drawn: bool) -> Columns:
        """Reads only the wanted columns of a run that is too long for the cache."""
        try:
            if not drawn:
                return reader.metrics(run.path, names)
            columns, self.samples[run.key] = reader.sampled(run.path, names)
            return columns
        except (RunError, OSError):
            return {}

    def _from_cache(self, keys: set[str], names: Sequence[str]) -> dict[str, Columns]:
        query = f"SELECT key, name, stamps, vals FROM columns WHERE name IN ({','.join('?' * len(names))})"
        if len(keys) <= _FEW:
            query += f" AND key IN ({','.join('?' * len(keys))})"
            found = self.ask(query, [*names, *keys])
        else:
            found = self.ask(query, names)
        known: dict[str, Columns] = {}
        for key, name, stamps, values in found:
            if key in keys and self.stamps.get(key) == stamps:
                known.setdefault(key, {})[name[1:]] = np.frombuffer(values)
        for columns in known.values():
            columns.pop("", None)
        return known

    def _keep(self, batch: Sequence[tuple[Run, Columns]], source: str) -> None:
        """Caches the columns of runs that have ended. The column "" marks a run as read, also if it has no columns."""
        rows = []
        for run, columns in batch:
            if run.values.get("status") in _ENDED:
                named = {"": np.empty(0)} | columns
                stamps = self.stamps.get(run.key)
                rows += [(source + name, run.key, stamps, column.tobytes()) for name, column in named.items()]
        self._tell("INSERT OR REPLACE INTO columns VALUES (?, ?, ?, ?)", rows)

    def ask(self, query: str, values: Sequence[Any] = ()) -> list[tuple]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error:
            return []

    def _tell(self, statement: str, rows: Sequence[tuple]) -> None:
        if rows:
            with contextlib.suppress(sqlite3.Error), self._db:
                self._db.executemany(statement, rows)


def cache_folder() -> Path | None:
    """Returns `rlresearch/review` in the user's cache folder; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlresearch" / "review"
    except RuntimeError:
        return None


def _found(root: str, known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields (key, stamps) for every run below `root`. It does not enter the folders of a run, does not follow links,
    and skips names that are not UTF-8.
    """
    ahead = [""]
    while ahead:
        above = ahead.pop()
        try:
            with os.scandir(f"{root}/{above}") as entries:
                folders = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            folders = [name for name in folders if _is_utf8(name)]
        except OSError:
            continue
        for name in folders:
            key = f"{above}{name}"
            stamps = reader.stamps(f"{root}/{key}")
            if stamps is not None:
                yield key, stamps
            elif not name.startswith("."):
                ahead.append(f"{key}/")


def _is_utf8(name: str) -> bool:
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def _read_columns(source: str, path: Path) -> Columns:
    try:
        return reader.evaluations(path) if source == "e" else reader.metrics(path)
    except RunError:  # the file is damaged; `ls` and `verify` report it
        return {}


def _is_long(run: Run) -> bool:
    file = run.path / "metrics.jsonl"
    return reader.is_file(file) and file.stat().st_size > reader.LONG


def _spread(read: Any, things: Sequence[Path], what: str) -> Iterable[Any]:
    """Returns `read(path)` for each path, in order; uses several processes where there are many."""
    if len(things) < PARALLEL:
        return map(read, things)
    return _by_processes(read, things, what)


def _by_processes(read: Any, things: Sequence[Path], what: str) -> Iterator[Any]:
    from concurrent.futures import ProcessPoolExecutor

    from rich.console import Console
    from rich.progress import Progress

    shown = Progress(transient=True, disable=not sys.stderr.isatty(), console=Console(stderr=True))
    with shown, ProcessPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        yield from shown.track(pool.map(read, things, chunksize=_AT_ONCE), total=len(things), description=what)


def _age(run: Run) -> tuple[str, str]:
    started = run.values.get("started_at")
    return (started if isinstance(started, str) else "", run.key)


def _digest(root: Path) -> str:
    return hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]


def _opened(file: Path | None) -> sqlite3.Connection:
    """Opens the cache at `file`; replaces it where it is damaged or of another version. None: a cache in memory."""
    if file is not None:
        for _ in range(2):
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                return _prepared(sqlite3.connect(file, timeout=5.0))
            except (OSError, sqlite3.OperationalError):  # locked or read-only: use a cache in memory
                break
            except sqlite3.DatabaseError:  # damaged or of another version: delete it and try again
                with contextlib.suppress(OSError):
                    file.unlink()
    return _prepared(sqlite3.connect(":memory:"))


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
    elif version != VERSION:
        db.close()
        raise sqlite3.DatabaseError("of another version")
    db.execute("PRAGMA synchronous = OFF")  # faster; a cache that a power loss damages is replaced
    return db


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Disables garbage collection: with ten thousand new dictionaries it takes longer than reading them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
