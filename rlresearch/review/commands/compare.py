"""`compare` and `table`: statistics of groups of runs over their seeds, with intervals and comparisons."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlresearch import stats
from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.loggers.formatting import duration, number
from rlresearch.review import tables
from rlresearch.review.runs import curves, groups, query
from rlresearch.review.runs.groups import Group
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run
from rlresearch.review.tables import Column, Grid
from rlresearch.stats import Comparison, Estimate, Sample

EVALUATED = "eval/return"
_THRESHOLDS = 10
_VERDICTS = {1: "better", -1: "worse", 0: "no claim", None: "too few seeds"}


class Row(NamedTuple):
    """The statistics of one group. reached: arrays of steps and of seconds to the threshold, one number per run."""

    group: Group
    sample: Sample
    estimate: Estimate
    reached: tuple[np.ndarray, np.ndarray] | None

    @property
    def seeds(self) -> int:
        return min(self.sample.sizes)


class Claim(NamedTuple):
    """The comparison of a group with a baseline. label, baseline: the labels of the two groups."""

    label: str
    baseline: str
    comparison: Comparison


class Result(NamedTuple):
    """All groups and comparisons. notes: warnings for the reader, one line each."""

    rows: list[Row]
    claims: list[Claim]
    notes: list[str]


def compare(arguments: argparse.Namespace) -> int:
    """Prints the groups, the comparisons, and the notes."""
    result = _result(arguments)
    if arguments.format == "json":
        sys.stdout.write(tables.to_json(as_plain(result, arguments.statistic)))
        return 0
    tables.write(grid(result, arguments), arguments.format)
    if arguments.format == "table":
        for baseline in dict.fromkeys(claim.baseline for claim in result.claims):
            print()
            tables.write(claims(result, baseline, arguments.statistic))
        if arguments.profile:
            print()
            tables.write(profiles(result))
        for note in result.notes:
            print(f"note: {tables.text(note)}")
    return 0


def table(arguments: argparse.Namespace) -> int:
    """Prints only the groups. Notes go to standard error, so that they do not end up in a paper."""
    result = _result(arguments)
    tables.write(grid(result, arguments), arguments.format)
    for note in result.notes:
        print(f"note: {tables.text(note)}", file=sys.stderr)
    return 0


def summarize(index: Index, runs: Sequence[Run], arguments: argparse.Namespace) -> Result:
    """Returns groups, estimates and comparisons of the runs, according to the arguments of `compare`."""
    task = query.known_key(arguments.across, runs) if arguments.across else None
    grouped = groups.group(runs, arguments.by, arguments.all, task)
    notes = list(grouped.notes)
    metric = query.known_key(arguments.metric, runs) if arguments.metric else None
    scores = _scores(index, [run for each in grouped.groups for run in each.runs], metric, arguments.at)
    strata = {each.label: _strata(each, scores, task, notes) for each in grouped.groups}
    if task:
        strata = _on_one_scale(strata, arguments, notes)
    rows = []
    thin: dict[str, list[str]] = {}
    for place, each in enumerate(grouped.groups):
        by_task = list(strata[each.label].values())
        if not by_task or min(map(len, by_task)) == 0:
            notes.append(f"{each.label}: no score to compare")
            continue
        made = stats.sample(by_task, arguments.statistic, arguments.resamples, seed=place)
        rows.append(Row(each, made, stats.estimate(made), _reached(index, each.runs, metric, arguments)))
        if rows[-1].estimate.covers is not None:
            thin.setdefault(_on_seeds(rows[-1]), []).append(each.label)
    notes += [f"{', '.join(labels)}: {why}" for why, labels in thin.items()]
    sign = -1.0 if arguments.lower else 1.0
    rows.sort(key=lambda row: (_env(row), -sign * row.estimate.value))
    return Result(rows, _claims(rows, arguments, sign, notes), notes)


def grid(result: Result, arguments: argparse.Namespace) -> Grid:
    """Returns a table of the groups; in each environment, the best group is first."""
    interval = f"{100 * stats.LEVEL:.0f} % interval"
    columns = [
        *(Column("group"), Column("seeds", tables.count, right=True)),
        *(Column(name, number, right=True) for name in _heads(arguments)),
    ]
    columns.insert(3, Column(interval, _span, right=True))
    columns += [Column("steps/s", lambda value: number(value, digits=0), right=True)]
    if arguments.threshold is not None:
        columns += [Column(f"reach {number(arguments.threshold)}", right=True), Column("steps", _at_most, right=True)]
        columns += [Column("time", _clock, right=True)]
    return Grid(columns, [_cells(row, arguments) for row in result.rows])


def claims(result: Result, baseline: str, statistic: str) -> Grid:
    """Returns a table that compares every group with the baseline."""
    columns = [
        Column(f"beside {baseline}"),
        Column(f"difference of {_name(statistic)}", number, right=True),
        Column("95 % interval", _span, right=True),
        Column("P(higher)", _percent, right=True),
        Column("95 % interval", _percents, right=True),
        Column("claim"),
    ]
    rows = []
    for label, made in ((claim.label, claim.comparison) for claim in result.claims if claim.baseline == baseline):
        apart, share = made.difference, made.probability
        rows.append([label, apart.value, tuple(apart[1:3]), share.value, tuple(share[1:3]), _VERDICTS[made.better]])
    return Grid(columns, rows)


def profiles(result: Result) -> Grid:
    """Returns a table with the share of each group's runs above ten scores, from the worst score to the best."""
    everything = np.concatenate([scores for row in result.rows for scores in row.sample.strata])
    thresholds = np.linspace(everything.min(), everything.max(), _THRESHOLDS + 1)[:-1]
    columns = [Column("runs above"), *(Column(number(each), _percent, right=True) for each in thresholds)]
    return Grid(columns, [[row.group.label, *stats.profile(row.sample.strata, thresholds)] for row in result.rows])


def as_plain(result: Result, statistic: str) -> dict[str, Any]:
    """Returns the whole result as dicts and lists."""
    made = []
    for row in result.rows:
        each = {"group": row.group.label, "by": row.group.values, "runs": [run.key for run in row.group.runs]}
        each |= {"scores": [scores.tolist() for scores in row.sample.strata], "statistic": statistic}
        each |= _estimate(row.estimate) | {"mean": _plain(row, "mean"), "median": _plain(row, "median")}
        if row.reached is not None:
            each |= {"steps_to_threshold": row.reached[0].tolist(), "seconds_to_threshold": row.reached[1].tolist()}
        made.append(each | {"steps_per_second": _speed(row.group.runs)})
    pairs = [
        {
            "group": each.label,
            "baseline": each.baseline,
            "difference": _estimate(each.comparison.difference),
            "probability_of_improvement": _estimate(each.comparison.probability),
            "claim": _VERDICTS[each.comparison.better],
        }
        for each in result.claims
    ]
    return {"groups": made, "comparisons": pairs, "notes": result.notes}


def _result(arguments: argparse.Namespace) -> Result:
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        result = summarize(index, runs, arguments)
    if not result.rows:
        why = f" ({'; '.join(result.notes)})" if result.notes else ""
        raise ConfigError(f"{arguments.runs_dir}: no run to compare{why}.")
    return result


def _scores(index: Index, runs: Sequence[Run], metric: str | None, at: float | None) -> dict[str, float]:
    """Returns one score for each run, by the run's key; NaN where a run has none."""
    if metric is None and at is None:
        return {run.key: _number(run.values.get("final")) for run in runs}
    name = metric or EVALUATED
    if "/" not in name or at is None:
        if at is not None:
            raise ConfigError(f"--at={format_value(at)}: {name} has one value a run, and no steps; leave out --at.")
        return {run.key: _number(run.values.get(name)) for run in runs}
    found = index.columns(runs, [name])
    return {run.key: curves.value_at(curves.curve(each, name), at) for run, each in zip(runs, found)}


def _strata(group: Group, scores: Mapping[str, float], task: str | None, notes: list[str]) -> dict[str, np.ndarray]:
    """Returns the scores of a group by task; adds a note where runs have no score."""
    found: dict[str, list[float]] = {}
    for run in group.runs:
        found.setdefault(query.written(run.values.get(task)) if task else "", []).append(scores[run.key])
    without = sum(math.isnan(score) for each in found.values() for score in each)
    if without:
        notes.append(f"{group.label}: {without} of {len(group.runs)} runs have no such score, and do not count")
    return {name: np.array([score for score in each if not math.isnan(score)]) for name, each in sorted(found.items())}


def _on_one_scale(
    strata: Mapping[str, dict[str, np.ndarray]], arguments: argparse.Namespace, notes: list[str]
) -> dict[str, dict[str, np.ndarray]]:
    """Returns the scores of the tasks that all groups have, scaled so that the references become 0 and 1."""
    tasks = [task for task in next(iter(strata.values()), {}) if all(task in each for each in strata.values())]
    others = sorted({task for each in strata.values() for task in each} - set(tasks))
    if others:
        notes.append(f"not every group has {', '.join(others)}: left out")
    if not tasks:
        raise ConfigError(f"--across={arguments.across}: there is no task that every group has.")
    given = {name: (low, high) for name, low, high in arguments.reference}
    for name in given:
        if name not in tasks:
            raise ConfigError(f"--reference {format_value(name)}: there is no such task{allowed_hint(name, tasks)}")
    scales = {}
    for task in tasks:
        values = np.concatenate([each[task] for each in strata.values()])
        scales[task] = given.get(task, (values.min(), values.max()) if len(values) else (0.0, 1.0))
    told = ", ".join(f"{task} {number(low)} to {number(high)}" for task, (low, high) in scales.items())
    notes.append(f"scores are shares of the way from 0 to 1: {told}")
    return {
        label: {task: (each[task] - scales[task][0]) / (np.ptp(scales[task]) or 1.0) for task in tasks}
        for label, each in strata.items()
    }


def _reached(
    index: Index, runs: Sequence[Run], metric: str | None, arguments: argparse.Namespace
) -> tuple[np.ndarray, np.ndarray] | None:
    if arguments.threshold is None:
        return None
    name = metric if metric and "/" in metric else EVALUATED
    found = index.columns(runs, [name])
    lines = [[curves.curve(each, name, axis) for each in found] for axis in ("step", "time")]
    steps, seconds = (
        np.array([curves.reached(line, arguments.threshold, arguments.lower) for line in each]) for each in lines
    )
    return steps, seconds


def _on_seeds(row: Row) -> str:
    """Returns a note that says why an interval covers less than 95 %: there are too few seeds."""
    covers = row.estimate.covers
    in_a_task = " in a task" if len(row.sample.strata) > 1 else ""
    told = f"{row.seeds} seed{'s' if row.seeds > 1 else ''}{in_a_task}: too few"
    if not covers:
        return f"{told} for an interval"
    if math.isnan(covers):
        return f"{told}; the interval covers less than it says (take {stats.ENOUGH - 1} or more)"
    share = f"about {math.floor(100 * covers)} %"
    return f"{told}; the interval goes from worst to best and covers {share} (take {stats.ENOUGH} or more)"


def _claims(rows: Sequence[Row], arguments: argparse.Namespace, sign: float, notes: list[str]) -> list[Claim]:
    """Compares every group with --baseline, or with the best group of its environment."""
    if arguments.baseline:
        base = groups.find([row.group for row in rows], arguments.baseline)
        pairs = [(row, next(r for r in rows if r.group is base)) for row in rows if row.group is not base]
    else:
        best = {_env(row): row for row in reversed(rows)}
        pairs = [(row, best[_env(row)]) for row in rows if row is not best[_env(row)]]
    if len(pairs) > 1:
        notes.append(f"{len(pairs)} comparisons: a claim needs intervals at {100 - 5 / len(pairs):.1f} % each")
    made = []
    for row, against in pairs:
        each = stats.compare(row.sample, against.sample, len(pairs))
        each = each._replace(better=each.better and int(sign) * each.better)
        made.append(Claim(row.group.label, against.group.label, each))
    return made


def _env(row: Row) -> str:
    return query.written(row.group.values.get("env"))


def _heads(arguments: argparse.Namespace) -> list[str]:
    others = [name for name in ("mean", "median") if name != arguments.statistic]
    return [_name(arguments.statistic), *others, "worst", "best"]


def _cells(row: Row, arguments: argparse.Namespace) -> list[Any]:
    pooled = np.concatenate(row.sample.strata)
    ends = sorted([float(pooled.min()), float(pooled.max())], reverse=arguments.lower)
    others = [_plain(row, name) for name in ("mean", "median") if name != arguments.statistic]
    cells = [row.group.label, row.seeds, row.estimate.value, tuple(row.estimate[1:3]), *others, *ends]
    cells.append(_speed(row.group.runs))
    if row.reached is not None:
        steps, seconds = row.reached
        cells += [f"{np.isfinite(steps).sum()} of {len(steps)}", float(np.median(steps)), float(np.median(seconds))]
    return cells


def _plain(row: Row, statistic: str) -> float:
    return float(stats.STATISTICS[statistic](row.sample.strata))


def _speed(runs: Sequence[Run]) -> float:
    known = [_number(run.values.get("steps_per_second")) for run in runs]
    known = [each for each in known if not math.isnan(each)]
    return float(np.median(known)) if known else math.nan


def _estimate(made: Estimate) -> dict[str, Any]:
    return {"value": made.value, "low": made.low, "high": made.high, "enough_seeds": made.covers is None}


def _name(statistic: str) -> str:
    return statistic.upper() if statistic == "iqm" else statistic


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _span(edges: tuple[float, float]) -> str:
    return "-" if math.isnan(edges[0]) else f"{number(edges[0])} to {number(edges[1])}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.0f} %"


def _percents(edges: tuple[float, float]) -> str:
    return "-" if math.isnan(edges[0]) else f"{100 * edges[0]:.0f} to {100 * edges[1]:.0f} %"


def _at_most(steps: float) -> str:
    return "never" if math.isinf(steps) else number(steps, digits=0)


def _clock(seconds: float) -> str:
    return "never" if math.isinf(seconds) else duration(seconds)
