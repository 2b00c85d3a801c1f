"""Chooses runs by filters such as `algo.gamma>0.9`, by parts of names, or by numbers of the last listing."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run, moment

STATUSES = ("running", "finished", "pruned", "failed", "interrupted", "killed", "damaged")
_FILTER = re.compile(r"(?P<key>[A-Za-z_][\w./@-]*?)\s*(?P<sign><=|>=|!=|==|=|<|>|~)\s*(?P<value>.*?)\s*", re.DOTALL)
_ORDERED: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LATEST = "latest"


class Filter(NamedTuple):
    """A filter `key sign value`: = and != compare with comma-separated values, ~ searches a regular expression."""

    key: str
    sign: str
    value: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Returns whether a run with these values passes the filter. A key that a run lacks has the value null."""
        there = values.get(self.key)
        if self.sign == "~":
            return there is not None and re.search(self.value, written(there), re.IGNORECASE) is not None
        if self.sign in ("=", "==", "!="):
            found = any(_same(there, typed(each)) for each in _listed(self.value))
            return found != (self.sign == "!=")
        here = typed(self.value)
        numbers = _is_number(there) and _is_number(here)
        if numbers or (isinstance(there, str) and isinstance(here, str)):
            return _ORDERED[self.sign](there, here)
        return False


def filters(words: Sequence[str], runs: Sequence[Run]) -> list[Filter]:
    """Parses filters. Errors: ConfigError where no run has a key, with the nearest existing key."""
    parsed = []
    for word in words:
        match = _FILTER.fullmatch(word)
        if match is None:
            raise ConfigError(f"{format_value(word)}: must be KEY=VALUE, or with one of != < <= > >= ~ in place of =.")
        made = Filter(known_key(match["key"], runs), match["sign"], match["value"])
        if made.sign == "~":
            _check_pattern(word, made.value)
        parsed.append(made)
    return parsed


def known_key(key: str, runs: Sequence[Run]) -> str:
    """Returns the full key: itself, or the only key that ends with it (lr: optimizer.lr). Errors: ConfigError."""
    if not runs or any(key in run.values for run in runs):
        return key
    known = keys(runs)
    ends = [name for name in known if name.endswith((f".{key}", f"/{key}"))]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ConfigError(f"{format_value(key)}: there are {len(ends)} such keys: {', '.join(ends[:6])}.")
    raise ConfigError(f"{format_value(key)}: no run has such a key{allowed_hint(key, known)}")


def keys(runs: Iterable[Run]) -> list[str]:
    """Returns all keys of all runs, the most important ones first."""
    first = ("name", "status", "algo", "env", "seed", "final", "best", "steps", "duration")
    found: dict[str, Any] = {}
    for run in runs:
        found.update(run.values)
    return [*(name for name in first if name in found), *(name for name in found if name not in first)]


class Selection(NamedTuple):
    """The chosen runs. named: whether the command line named runs, and did not only filter."""

    runs: list[Run]
    named: bool


def choose(index: Index, words: Sequence[str], since: str | None = None, status: str | None = None) -> Selection:
    """Returns all runs that the words name, if they pass every filter, `since` and `status`.

    Without names, all runs are candidates. Errors: ConfigError where a name fits no run, or more than one.
    """
    everything = index.runs()
    tests = [word for word in words if _is_filter(word)]
    named = [word for word in words if word not in tests]
    runs = list({run.key: run for word in named for run in [one(index, everything, word)]}.values())
    runs = runs if named else everything
    for each in filters(tests, everything):
        runs = [run for run in runs if each.holds(run.values)]
    if status:
        wanted = status.split(",")
        for word in wanted:
            if word not in STATUSES:
                raise ConfigError(
                    f"--status={format_value(word)}: there is no such status{allowed_hint(word, STATUSES)}"
                )
        runs = [run for run in runs if run.values.get("status") in wanted]
    if since:
        earliest = parse_moment(since)
        runs = [run for run in runs if (began := moment(run.values.get("started_at"))) and began >= earliest]
    return Selection(runs, bool(named))


def one(index: Index, runs: Sequence[Run], word: str) -> Run:
    """Returns the run that `word` names. Errors: ConfigError where it fits no run, or several.

    The word may be `latest`, a filter, a number of the last listing, or a path. It may also be the beginning of a name
    or of a path below the folder of runs, or another part of a name.
    """
    if not runs:
        raise ConfigError(f"{index.root} holds no runs; --runs-dir=PATH names another folder.")
    if word == _LATEST:
        return runs[0]
    if _is_filter(word):
        (test,) = filters([word], runs)
        return _only(word, [run for run in runs if test.holds(run.values)], runs)
    numbered = _numbered(index, runs, word)
    if numbered is not None:
        return numbered
    path = Path(word)
    if path.is_dir():
        same = [run for run in runs if run.path.resolve() == path.resolve()]
        if same:
            return same[0]
    exact = [run for run in runs if word in (run.name, run.key)]
    begins = [run for run in runs if run.name.startswith(word) or run.key.startswith(word)]
    inside = [run for run in runs if word in run.name]
    if word.isdecimal() and len(word) < 6 and not exact and len(begins) != 1:
        count = len(index.remembered())
        raise ConfigError(f"{word}: the last listing had {count} run{'' if count == 1 else 's'}; list again with ls.")
    return _only(word, exact or begins or inside, runs)


def sort(runs: Sequence[Run], key: str | None) -> list[Run]:
    """Sorts by a key, smallest first, or largest first where the key begins with -; runs without it come last."""
    if not key:
        return list(runs)
    name = known_key(key.lstrip("-"), runs)
    there = [run for run in runs if run.values.get(name) is not None]
    mixed = len({_is_number(run.values[name]) for run in there}) > 1
    value = (lambda run: written(run.values[name])) if mixed else (lambda run: run.values[name])
    ordered = sorted(there, key=value, reverse=key.startswith("-"))
    return ordered + [run for run in runs if run.values.get(name) is None]


def typed(text: str) -> Any:
    """Converts a value of the command line to None, a boolean, a number, or else text."""
    plain = {"null": None, "none": None, "true": True, "false": False}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def written(value: Any) -> str:
    """Returns a value as text, in the form that a filter uses."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def is_filter(word: str) -> bool:
    """Returns whether a word has the form of a filter; its key need not exist."""
    return _FILTER.fullmatch(word) is not None


def _is_filter(word: str) -> bool:
    return is_filter(word) and not Path(word).is_dir()


def _numbered(index: Index, runs: Sequence[Run], word: str) -> Run | None:
    """Returns the run with this number in the last listing; None where the word is not such a number."""
    if not word.isdecimal() or word.startswith("0"):
        return None
    listing = index.remembered()
    if int(word) > len(listing):
        return None
    found = [run for run in runs if run.key == listing[int(word) - 1]]
    if not found:
        raise ConfigError(f"{word}: {listing[int(word) - 1]} was number {word} of the last listing, and is gone.")
    return found[0]


def _only(word: str, found: Sequence[Run], runs: Sequence[Run]) -> Run:
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(run.name for run in found[:3])
        raise ConfigError(
            f"{format_value(word)}: {len(found)} runs are meant: {names}{', ...' if len(found) > 3 else ''}."
        )
    if any(word in run.values for run in runs):
        raise ConfigError(
            f"{format_value(word)}: is a key, and no run; a filter is one word in quotes, as '{word}>0.5': the shell "
            "takes < and > for files."
        )
    raise ConfigError(
        f"{format_value(word)}: there is no such run{allowed_hint(word, [run.name for run in runs[:500]])}"
    )


def _same(there: Any, here: Any) -> bool:
    if _is_number(there) and _is_number(here):
        return there == here
    return written(there) == written(here)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(text: str) -> list[str]:
    """Splits comma-separated values; a list in brackets is one value."""
    return [text] if text.startswith("[") else text.split(",")


def _check_pattern(word: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{format_value(word)}: is not a pattern: {error}.") from None


def parse_moment(text: str) -> datetime:
    """Converts 2h, 30m, 7d (ago) or 2026-11-21[T10:00] (in UTC, as in the names of runs) to a time."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match:
        seconds = min(float(match[1]) * _SECONDS[match[2]], 1e9)
        return datetime.now(UTC) - timedelta(seconds=seconds)
    when = moment(text)
    if when is None:
        raise ConfigError(f"--since={format_value(text)}: must be as in 30m, 2h, 7d, 2026-11-21 or 2026-11-21T10:00.")
    return when
