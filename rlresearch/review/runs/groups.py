"""Groups runs that differ only in their seed: by given keys, or by all settings that differ among the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.review.runs import keys, query
from rlresearch.review.runs.reader import Run

_FIRST = ("algo", "env")
_NAMED = 8  # settings that a label shows; of further ones it gives only the number


class Group(NamedTuple):
    """label: a unique name. values: the values of the keys that define the group. runs: one for each seed."""

    label: str
    values: dict[str, object]
    runs: list[Run]


class Grouped(NamedTuple):
    """The groups, and notes about runs that were left out or mixed, one line each."""

    groups: list[Group]
    notes: list[str]


def group(runs: Sequence[Run], by: str | None = None, unfinished: bool = False, task: str | None = None) -> Grouped:
    """Returns groups of runs, sorted by label.

    by: comma-separated keys; None means algo, env, and every setting that differs among the runs of one algorithm in
    one environment. unfinished: whether to include runs that did not finish. task: a key that never separates groups
    (compare --across). If a group has several runs with one seed, only the newest counts, so that no result counts
    twice.
    """
    notes: list[str] = []
    if not unfinished:
        runs = _finished(runs, notes)
    named = [query.known_key(key, runs) for key in by.split(",") if key] if by else None
    keyed = _by_keys(runs, named) if named is not None else _by_differences(runs, task)
    groups = []
    for values, members in keyed:
        newest = _one_for_each_seed(members, task)
        if len(newest) < len(members):
            older = len(members) - len(newest)
            notes.append(f"{_label(values)}: {older} older {_runs(older)} of a seed that is there again left out")
        groups.append(Group(_label(values), values, newest))
        mixed = [key for key in keys.differing(newest) if key not in values and key != task]
        if named is not None and mixed:
            mixed = _telling(newest, mixed)
            notes.append(f"{_label(values)}: mixes runs that differ in {', '.join(mixed[:_NAMED])}")
    return Grouped(sorted(groups, key=lambda each: each.label), notes)


def find(groups: Iterable[Group], label: str) -> Group:
    """Returns the group with this label, or the only one whose label begins so. Errors: ConfigError without one."""
    groups = list(groups)
    exact = [each for each in groups if each.label == label]
    begins = [each for each in groups if each.label.startswith(label)]
    if exact or len(begins) == 1:
        return (exact or begins)[0]
    raise ConfigError(
        f"{format_value(label)}: there is no such group{allowed_hint(label, [each.label for each in groups])}"
    )


def _finished(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Returns the finished runs. A note counts the others, because results without failures look too good."""
    others: dict[str, int] = defaultdict(int)
    for run in runs:
        others[str(run.values.get("status"))] += 1
    others.pop("finished", None)
    if others:
        told = ", ".join(f"{count} {status}" for status, count in sorted(others.items()))
        notes.append(f"left out: {told} (--all takes them in)")
    return [run for run in runs if run.values.get("status") == "finished"]


def _by_keys(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[dict[str, object], list[Run]]]:
    found: dict[tuple, tuple[dict[str, object], list[Run]]] = {}
    for run in runs:
        values = {name: run.values.get(name) for name in names}
        found.setdefault(tuple(map(query.written, values.values())), (values, []))[1].append(run)
    return list(found.values())


def _by_differences(runs: Sequence[Run], task: str | None) -> list[tuple[dict[str, object], list[Run]]]:
    """Groups by algo and env, and within these by all other settings that differ."""
    first = [key for key in _FIRST if key != task]
    made = []
    for _, together in _by_keys(runs, _FIRST):
        made += _by_keys(together, [*first, *_telling(together, keys.differing(together))])
    merged: dict[tuple, tuple[dict[str, object], list[Run]]] = {}
    for values, members in made:  # a group may occur in several tasks
        merged.setdefault(tuple(values.items()), (values, []))[1].extend(members)
    return list(merged.values())


def _telling(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Returns as few of these keys as possible that separate the runs as finely as all do; short keys first."""
    kept: list[str] = []
    parts = 1
    for name in sorted(names, key=lambda name: (name.count("_target_"), name.count("."), len(name))):
        finer = len({tuple(query.written(run.values.get(key)) for key in [*kept, name]) for run in runs})
        if finer > parts:
            kept.append(name)
            parts = finer
    return kept


def _one_for_each_seed(runs: Sequence[Run], task: str | None) -> list[Run]:
    """Returns the newest run of each seed (and task), and all runs without a seed."""
    newest: dict[object, Run] = {}
    for run in runs:  # newest first, as an index lists them
        seed = run.values.get("seed")
        mark = run.key if seed is None else (seed, query.written(run.values.get(task)) if task else None)
        newest.setdefault(mark, run)
    return list(newest.values())


def _label(values: dict[str, object]) -> str:
    plain = [query.written(values[key]) for key in _FIRST if values.get(key) is not None]
    others = [f"{_short(key)}={query.written(value)}" for key, value in values.items() if key not in _FIRST]
    more = [f"and {len(others) - _NAMED} more"] if len(others) > _NAMED else []
    return " ".join([*plain, *others[:_NAMED], *more]) or "all"


def _short(key: str) -> str:
    """Returns the last part of a key, or the last two where the last one is too general."""
    parts = key.split(".")
    return ".".join(parts[-2:]) if parts[-1] in ("_target_", "id", "over", "hidden") else parts[-1]


def _runs(count: int) -> str:
    return "run" if count == 1 else "runs"
