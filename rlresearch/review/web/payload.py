"""What a page shows of a set of runs, as dicts, lists, text and numbers: of `report` at once, of `serve` as asked for.

Runs stand in columns, a list for each key that differs among them, and are named by their place in these lists.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from rlresearch import __version__, stats
from rlresearch.errors import RunError
from rlresearch.review import tables
from rlresearch.review.commands import compare, metrics
from rlresearch.review.commands.compare import Result
from rlresearch.review.runs import curves, keys, query, reader
from rlresearch.review.runs.curves import Curve
from rlresearch.review.runs.groups import Group
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.web import videos

_POINTS = 120  # of a group's curve
_SINGLE_POINTS = 120_000  # of all runs' own curves together: some 2 MB
_MOST_SINGLE, _FEWEST_SINGLE = 200, 10
_MOST_OWN = 600  # runs whose own curves a live page draws
_MOST_METRICS = 40
_MOST_LOOKED_AT = 100  # runs, for a metric that has a curve
_EVALUATIONS, _EPISODES = 200, 1_000  # the newest, and of each the first
_MOST_EPISODES = 200_000  # in a file: some 2 MB
_LOGS, _LOG_BYTES = 100, 8_192
_SHOWN_FIRST = ("id", "key", "name", "status", "note")
_LEFT_OUT = {"name", "status", "problem", "runs_dir"}
_UNFINISHED = ("failed", "killed", "interrupted", "damaged")

Memory = MutableMapping[Any, Any]


def overview(result: Result, runs: Sequence[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything but curves: groups, scores, claims, and for each run what `ls` and `show` know of it."""
    place = {run.key: at for at, run in enumerate(runs)}
    shared, own = _columns(runs)
    return {
        "title": arguments.title,
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": __version__,
        "statistic": "IQM" if arguments.statistic == "iqm" else arguments.statistic,
        "lower": arguments.lower,
        "groups": [_group(row.group, place) for row in result.rows],
        "table": _table(compare.grid(result, arguments)),
        "claims": _claims(result, arguments),
        "notes": result.notes,
        "scores": [[float(score) for score in np.concatenate(row.sample.strata)] for row in result.rows],
        "intervals": [rounded(row.estimate[:3]) for row in result.rows],
        "profile": _profiles(result),
        "count": len(runs),
        "total": len(runs),
        "regroups": not (arguments.metric or arguments.at or arguments.across),  # by `final`, in the page itself
        "shared": shared,
        "own": own,
        "varying": [key for key in keys.differing(runs) if not key.endswith("_target_")],
        "logs": _logs(runs),
        "videos": {at: names for at, run in enumerate(runs) if (names := videos.names(run.path))},
    }


def metric_names(index: Index, runs: Sequence[Run]) -> list[str]:
    """Those that a page offers. The first, with which it begins, has a curve, if any of them has one."""
    names = index.metric_names(runs)[:_MOST_METRICS]
    first = next((name for name in names if _has_a_curve(index, name, runs[:_MOST_LOOKED_AT])), None)
    return names if first is None else [first, *(name for name in names if name != first)]


def _has_a_curve(index: Index, name: str, runs: Sequence[Run]) -> bool:
    """Whether a run has the metric at two steps."""
    return any(len(line.x) > 1 for line in _lines(index, runs, name).values())


def meaning(name: str, runs: Sequence[Run]) -> dict[str, str]:
    """The documentation of a metric; where the runs' algorithms mean different things by it, all of them."""
    algorithms: dict[metrics.Metric, list[str]] = {}
    newest = {str(run.values.get("algo")): run.path for run in reversed(runs) if name in run.values}
    for algo, path in reversed(newest.items()):
        if each := metrics.documented(algo, path).get(name):
            algorithms.setdefault(each, []).append(algo)
    if len(algorithms) == 1:
        return {"name": name, **next(iter(algorithms))._asdict()}
    told = [f"{', '.join(names)}: {each.meaning}, in {each.unit}" for each, names in algorithms.items()]
    return {"name": name, "unit": "", "meaning": "; ".join(told)}


def metric_curve(
    index: Index, name: str, result: Result, runs: Sequence[Run], statistic: str, memory: Memory
) -> dict[str, Any]:
    """A metric by steps: each group's centre and band, and the own curves of the newest runs, finished or not.

    memory: keeps bands, which are dear, for as long as no run of their group changes.
    """
    groups = [row.group for row in result.rows]
    marks = [(name, statistic, tuple((run.key, index.stamps.get(run.key)) for run in each.runs)) for each in groups]
    wanted = {run.key: run for group, mark in zip(groups, marks) if mark not in memory for run in group.runs}
    wanted |= {run.key: run for run in runs[:_MOST_OWN]}
    lines = _lines(index, list(wanted.values()), name)
    for group, mark in zip(groups, marks):
        if mark not in memory:
            memory[mark] = _band([lines[run.key] for run in group.runs], statistic)
    bands = [memory[mark] for mark in marks]
    return {"groups": bands, "runs": _thin(runs[:_MOST_OWN], lines, _MOST_SINGLE)}


def metric_curves(
    index: Index, names: Sequence[str], result: Result, runs: Sequence[Run], statistic: str
) -> Iterator[dict[str, Any]]:
    """`course` of each metric with every run's own curve, as finely as a file has room for."""
    points = min(_MOST_SINGLE, _SINGLE_POINTS // max(1, len(runs) * len(names)))
    for name in names:
        lines = _lines(index, runs, name)
        bands = [_band([lines[run.key] for run in row.group.runs], statistic) for row in result.rows]
        yield {"groups": bands, "runs": _thin(runs, lines, points) if points >= _FEWEST_SINGLE else {}}


def run_detail(index: Index, run: Run) -> dict[str, Any]:
    """One run: all its metrics by step, and every episode of its evaluations."""
    made = {}
    for evaluated in (True, False):
        names = [name for name in metric_names(index, [run]) if name.startswith("eval/") is evaluated]
        columns = index.columns([run], names, drawn=True)[0] if names else {}
        for name in names:
            line = curves.thin(curves.curve(columns, name))
            made[name] = [rounded(line.x), rounded(line.y)]
    return {"metrics": made, "evaluations": evaluations(run)}


def evaluations(run: Run) -> list[list[Any]]:
    """The newest evaluations, [step, seconds, returns] each."""
    try:
        rows = reader.json_rows(run.path / "evaluations.jsonl")
    except (RunError, OSError):
        return []
    made = []
    for row in [row for row in rows if reader.are_numbers(row.get("returns"))][-_EVALUATIONS:]:
        when = rounded([_real(row.get("step")), _real(row.get("time"))])
        made.append([*when, rounded(row["returns"][:_EPISODES])])
    return made


def episodes(runs: Sequence[Run]) -> dict[int, list[list[Any]]]:
    """The evaluations of as many runs as a file has room for, by their place."""
    found: dict[int, list[list[Any]]] = {}
    left = _MOST_EPISODES
    for at, run in enumerate(runs):
        rows = evaluations(run)
        left -= sum(len(returns) for *_, returns in rows)
        if left < 0:
            break
        if rows:
            found[at] = rows
    return found


def identity(key: str) -> str:
    """A run's name in an address: tells nothing of its path, and leads nowhere but into a list of runs."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def rounded(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """To six digits, which no screen shows; NaN becomes null."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]


def _lines(index: Index, runs: Sequence[Run], name: str) -> dict[str, Curve]:
    found = index.columns(runs, [name], drawn=True) if runs else []
    return {run.key: curves.curve(each, name) for run, each in zip(runs, found)}


def _band(lines: Sequence[Curve], statistic: str) -> list[list[float | None]]:
    aligned = curves.align(lines, _POINTS)
    edges = stats.band(aligned.y, statistic) if len(aligned.x) else (aligned.x,) * 3
    return [rounded(each) for each in (aligned.x, *edges)]


def _thin(runs: Sequence[Run], lines: Mapping[str, Curve], points: int) -> dict[int, list[list[float | None]]]:
    own = ((at, curves.thin(lines[run.key], points)) for at, run in enumerate(runs))
    return {at: [rounded(line.x), rounded(line.y)] for at, line in own if len(line.x)}


def _group(group: Group, place: Mapping[str, int]) -> dict[str, Any]:
    return {"label": group.label, "env": _env(group), "runs": [place[run.key] for run in group.runs]}


def _env(group: Group) -> str:
    return query.written(group.values["env"]) if "env" in group.values else ""


def _table(grid: tables.Grid) -> dict[str, Any]:
    """As it is shown."""
    return {
        "head": [column.name for column in grid.columns],
        "right": [column.right for column in grid.columns],
        "rows": [[column.show(value) for column, value in zip(grid.columns, row)] for row in grid.rows],
    }


def _claims(result: Result, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    baselines = dict.fromkeys(claim.baseline for claim in result.claims)
    return [_table(compare.claims(result, baseline, arguments.statistic)) for baseline in baselines]


def _profiles(result: Result) -> dict[str, Any]:
    """For each environment scores from its worst to its best, and of every group the share of runs above them."""
    made = {}
    for env in dict.fromkeys(_env(row.group) for row in result.rows):
        scores = {at: row.sample.strata for at, row in enumerate(result.rows) if _env(row.group) == env}
        together = np.concatenate([each for strata in scores.values() for each in strata])
        thresholds = np.linspace(together.min(), together.max(), _POINTS)
        shares = {at: rounded(stats.profile(strata, thresholds)) for at, strata in scores.items()}
        made[env] = {"x": rounded(thresholds), "y": shares}
    return made


def _columns(runs: Sequence[Run]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What all runs have alike, and columns of what each has for itself."""
    own: dict[str, list[Any]] = {
        "id": [identity(run.key) for run in runs],
        "key": [run.key for run in runs],
        "name": [run.name for run in runs],
        "status": [run.values.get("status") for run in runs],
        "note": [keys.note(run) for run in runs],
    }
    shared: dict[str, Any] = {}
    for key in query.keys(runs):
        if key not in _LEFT_OUT and key not in _SHOWN_FIRST:
            column = [run.values.get(key) for run in runs]
            if column.count(column[0]) == len(column):
                shared[key] = column[0]
            else:
                own[key] = column
    return shared, own


def _logs(runs: Sequence[Run]) -> dict[int, str]:
    """The end of the log of each run that did not finish, by its place."""
    found: dict[int, str] = {}
    for at, run in enumerate(runs):
        if run.values.get("status") in _UNFINISHED and len(found) < _LOGS:
            text = reader.end_of(run.path / "log.txt", _LOG_BYTES)
            if text:
                found[at] = text
    return found


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
