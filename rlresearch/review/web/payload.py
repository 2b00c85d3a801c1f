"""The data of the page as dicts, lists, text and numbers: for `report` all at once, for `serve` request by request.

The values of the runs are columns: a list for each key that differs among the runs. Other data names a run by its index
in these lists.
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

_POINTS = 120  # points of a group's curve
_SINGLE_POINTS = 120_000  # points of all single runs' curves in a report: some 2 MB
_MOST_SINGLE, _FEWEST_SINGLE = 200, 10  # points of one run's curve; with fewer, a report leaves these curves out
_MOST_OWN = 600  # runs whose single curves a live page draws
_MOST_METRICS = 40
_MOST_LOOKED_AT = 100  # runs that are asked whether a metric has a curve
_EVALUATIONS, _EPISODES = 200, 1_000  # the newest evaluations of a run, and the first episodes of each
_MOST_EPISODES = 200_000  # episodes in a report: some 2 MB
_LOGS, _LOG_BYTES = 100, 8_192
_SHOWN_FIRST = ("id", "key", "name", "status", "note")
_LEFT_OUT = {"name", "status", "problem", "runs_dir"}
_UNFINISHED = ("failed", "killed", "interrupted", "damaged")

Memory = MutableMapping[Any, Any]


def overview(result: Result, runs: Sequence[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns all data except curves: groups, scores, comparisons, and the values of each run."""
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
        "regroups": not (arguments.metric or arguments.at or arguments.across),  # by `final`, in the browser
        "shared": shared,
        "own": own,
        "varying": [key for key in keys.differing(runs) if not key.endswith("_target_")],
        "logs": _logs(runs),
        "videos": {at: names for at, run in enumerate(runs) if (names := videos.names(run.path))},
    }


def metric_names(index: Index, runs: Sequence[Run]) -> list[str]:
    """Returns the metrics that the page offers. It shows the first at the start, which has a curve if any has one."""
    names = index.metric_names(runs)[:_MOST_METRICS]
    first = next((name for name in names if _has_a_curve(index, name, runs[:_MOST_LOOKED_AT])), None)
    return names if first is None else [first, *(name for name in names if name != first)]


def _has_a_curve(index: Index, name: str, runs: Sequence[Run]) -> bool:
    """Whether a run has the metric at two steps."""
    return any(len(line.x) > 1 for line in _lines(index, runs, name).values())


def meaning(name: str, runs: Sequence[Run]) -> dict[str, str]:
    """Returns {name, unit, meaning} of a metric; with all meanings, where it has several in these runs' algorithms."""
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
    """Returns a metric by step: centre and band of each group, and the single curves of the newest runs.

    memory: a cache for bands, which take long to compute; a band stays valid until a run of its group changes.
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
    """Yields what `metric_curve` returns for each metric, with the curves of all runs; sized for one file."""
    points = min(_MOST_SINGLE, _SINGLE_POINTS // max(1, len(runs) * len(names)))
    for name in names:
        lines = _lines(index, runs, name)
        bands = [_band([lines[run.key] for run in row.group.runs], statistic) for row in result.rows]
        yield {"groups": bands, "runs": _thin(runs, lines, points) if points >= _FEWEST_SINGLE else {}}


def run_detail(index: Index, run: Run) -> dict[str, Any]:
    """Returns all metrics of one run by step, and the episodes of its evaluations."""
    made = {}
    for evaluated in (True, False):
        names = [name for name in metric_names(index, [run]) if name.startswith("eval/") is evaluated]
        columns = index.columns([run], names, drawn=True)[0] if names else {}
        for name in names:
            line = curves.thin(curves.curve(columns, name))
            made[name] = [rounded(line.x), rounded(line.y)]
    return {"metrics": made, "evaluations": evaluations(run)}


def evaluations(run: Run) -> list[list[Any]]:
    """Returns the newest evaluations of a run, each as [step, seconds, returns]."""
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
    """Returns the evaluations of runs, by the run's index, up to _MOST_EPISODES episodes."""
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
    """Returns a digest that names a run in a URL. It does not reveal the path, and cannot name another file."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def rounded(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """Rounds to six significant digits, more than a screen shows; NaN and infinity become None."""
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
    """Returns a table as text: headings, alignment and rows."""
    return {
        "head": [column.name for column in grid.columns],
        "right": [column.right for column in grid.columns],
        "rows": [[column.show(value) for column, value in zip(grid.columns, row)] for row in grid.rows],
    }


def _claims(result: Result, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    baselines = dict.fromkeys(claim.baseline for claim in result.claims)
    return [_table(compare.claims(result, baseline, arguments.statistic)) for baseline in baselines]


def _profiles(result: Result) -> dict[str, Any]:
    """Returns for each environment a range of scores, and for each group the share of runs above each score."""
    made = {}
    for env in dict.fromkeys(_env(row.group) for row in result.rows):
        scores = {at: row.sample.strata for at, row in enumerate(result.rows) if _env(row.group) == env}
        together = np.concatenate([each for strata in scores.values() for each in strata])
        thresholds = np.linspace(together.min(), together.max(), _POINTS)
        shares = {at: rounded(stats.profile(strata, thresholds)) for at, strata in scores.items()}
        made[env] = {"x": rounded(thresholds), "y": shares}
    return made


def _columns(runs: Sequence[Run]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the values that all runs share, and a column for each key that differs."""
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
    """Returns the end of the log of each run that did not finish, by the run's index."""
    found: dict[int, str] = {}
    for at, run in enumerate(runs):
        if run.values.get("status") in _UNFINISHED and len(found) < _LOGS:
            text = reader.end_of(run.path / "log.txt", _LOG_BYTES)
            if text:
                found[at] = text
    return found


def _real(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
