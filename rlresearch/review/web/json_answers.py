"""Answers the requests of the live page as JSON, from the current index; answers are kept until a run changes."""

from __future__ import annotations

import argparse
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, NamedTuple

from rlresearch.errors import ConfigError
from rlresearch.review import tables
from rlresearch.review.commands import compare
from rlresearch.review.commands.compare import Result
from rlresearch.review.runs import query
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.web import payload, videos

_VIEWS, _BANDS = 8, 500  # the numbers of views and bands that are kept
_LONGEST = 500  # characters of a filter, and of the keys to group by


class PageQuery(NamedTuple):
    """The choices of a user on the page. by: comma-separated keys to group by, "" for those of the command line.
    words: filters and parts of names. unfinished: whether runs that did not finish count too.
    """

    by: str = ""
    words: tuple[str, ...] = ()
    unfinished: bool = False


class View(NamedTuple):
    """The data for one query. mark: changes whenever the overview may change. shape: changes only when runs come, go
    or change their group. overview: JSON.
    """

    mark: str
    shape: str
    runs: list[Run]
    result: Result
    overview: bytes


class Bounded(OrderedDict):
    """A dictionary with at most `most` entries; a new entry removes the oldest one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: Hashable, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self._most:
            self.popitem(last=False)


class Source:
    """Returns answers as JSON. A lock makes them one at a time, so that equal requests do the work only once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._lock = threading.Lock()
        self._views: Bounded = Bounded(_VIEWS)
        self._bands: Bounded = Bounded(_BANDS)

    def prepare(self) -> None:
        """Computes the first answers that a page needs, so that it opens fast."""
        with self._lock, self._index() as index:
            view = self._view(index, PageQuery())
            names = payload.metric_names(index, view.runs)
        if names:
            self.metric_curve(PageQuery(), names[0])

    def overview(self, wanted: PageQuery, have: str = "") -> bytes | None:
        """Returns `payload.overview`, or None where its mark is still `have`. Errors: ConfigError for a wrong query."""
        with self._lock, self._index() as index:
            view = self._view(index, wanted)
        return None if view.mark == have else view.overview

    def metric_curve(self, wanted: PageQuery, name: str) -> bytes | None:
        """Returns `payload.metric_curve`, or None for a metric that no run has."""
        with self._lock, self._index() as index:
            view = self._view(index, wanted)
            if name not in payload.metric_names(index, view.runs):
                return None
            statistic = self._arguments.statistic
            made = payload.metric_curve(index, name, view.result, view.runs, statistic, self._bands)
        return _json(made | {"shape": view.shape})

    def run_detail(self, identity: str) -> bytes | None:
        """Returns `payload.run_detail`, or None where there is no such run."""
        with self._lock, self._index() as index:
            run = _named(index, identity)
            return None if run is None else _json(payload.run_detail(index, run))

    def video(self, identity: str, number: str) -> tuple[int, int] | None:
        """Opens a video of a run. Returns its file number and its size in bytes, or None where there is none."""
        with self._lock, self._index() as index:
            run = _named(index, identity)
        listed = videos.names(run.path) if run else []
        if run is None or not (number.isascii() and number.isdecimal() and int(number[:9]) < len(listed)):
            return None
        try:
            return videos.open_video(run.path, listed[int(number[:9])])
        except OSError:
            return None

    def _index(self) -> Index:
        return Index(self._arguments.runs_dir, self._arguments.cache)

    def _view(self, index: Index, wanted: PageQuery) -> View:
        arguments = self._arguments
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        mark = _digest(index, runs)
        known = self._views.get(wanted)
        if known is None or known.mark != mark:
            known = self._views[wanted] = self._made(index, runs, wanted, mark)
        return known

    def _made(self, index: Index, everything: list[Run], wanted: PageQuery, mark: str) -> View:
        runs = _meant(everything, wanted.words)
        arguments = argparse.Namespace(**vars(self._arguments))
        arguments.by, arguments.all = wanted.by or arguments.by, wanted.unfinished or arguments.all
        result = compare.summarize(index, runs, arguments)
        made = payload.overview(result, runs, arguments)
        made["metrics"] = [payload.meaning(name, runs) for name in payload.metric_names(index, runs)]
        shape = _hashed([[run.key for run in each] for each in (runs, *(row.group.runs for row in result.rows))])
        whole = _json(made | {"total": len(everything), "mark": mark, "shape": shape})
        return View(mark, shape, runs, result, whole)


def page_query(by: str, words: str, unfinished: str) -> PageQuery:
    """Makes a query from the parameters of a URL. Errors: ConfigError where one is too long."""
    if len(by) > _LONGEST or len(words) > _LONGEST:
        raise ConfigError(f"a filter of more than {_LONGEST} letters.")
    return PageQuery(by, tuple(words.split()), unfinished == "1")


def _meant(runs: list[Run], words: tuple[str, ...]) -> list[Run]:
    """Returns the runs that fit every word, which is a filter or a part of a name."""
    tests = [word for word in words if query.is_filter(word)]
    for each in query.filters(tests, runs):
        runs = [run for run in runs if each.holds(run.values)]
    return [run for run in runs if all(word in run.name for word in words if word not in tests)]


def _named(index: Index, identity: str) -> Run | None:
    return next((run for run in index.runs() if payload.identity(run.key) == identity), None)


def _digest(index: Index, runs: list[Run]) -> str:
    """Returns a digest of the sizes and times of all files, and of all statuses: a status changes without a file when
    a process dies.
    """
    return _hashed([(run.key, index.stamps.get(run.key), run.values.get("status")) for run in runs])


def _hashed(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:24]


def _json(value: Any) -> bytes:
    return tables.to_json(value, indent=False).encode()
