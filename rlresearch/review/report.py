"""`report`: everything about a set of runs in one HTML file, which needs no network and no server.

The page's own script, its style and plotly's script (from the installed package) stand in the file; a content security
policy allows these and nothing else. What comes from runs is JSON in a block that is never executed, and the page's
script puts it on the screen as text only.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import importlib.util
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from rlresearch import __version__
from rlresearch.errors import ConfigError
from rlresearch.review import compare, curves, files, keys, metrics, query, reader, stats, tables
from rlresearch.review.compare import Result
from rlresearch.review.groups import Group
from rlresearch.review.index import Index
from rlresearch.review.reader import Run

_PAGE = Path(__file__).with_name("page")
_POINTS = 120  # of a group's curve
_SINGLE_POINTS = 120_000  # of all runs' own curves together: some 2 MB
_MOST_METRICS = 40
_LOGS, _LOG_BYTES = 100, 8_192
_MARKERS = re.compile(r"@(TITLE|POLICY|STYLE|DATA|PLOTLY|SCRIPT)@")


def report(arguments: argparse.Namespace) -> int:
    """Writes the file."""
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        if not runs:
            raise ConfigError(f"{arguments.runs_dir}: no run is meant, so there is nothing to report.")
        page = render(contents(index, runs, arguments), arguments.title)
    with files.whole(arguments.output) as fresh:
        fresh.write_bytes(page)
    print(f"wrote {arguments.output} ({len(page) / 1e6:.1f} MB, {len(runs):,} runs)")
    return 0


def contents(index: Index, runs: Sequence[Run], arguments: argparse.Namespace) -> dict[str, Any]:
    """All that the page shows, as dicts, lists, text and numbers."""
    result = compare.summarize(index, runs, arguments)
    groups = [row.group for row in result.rows]
    place = {run.key: at for at, run in enumerate(runs)}
    shared, own = _settings(runs)
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
        "metrics": _curves(index, groups, place, arguments),
        "scores": [[float(score) for score in np.concatenate(row.sample.strata)] for row in result.rows],
        "intervals": [_rounded(row.estimate[:3]) for row in result.rows],
        "profile": _profiles(result),
        "runs": [_run(run) for run in runs],
        "logs": _logs(runs),
        "shared": shared,
        "own": own,
        "varying": [key for key in keys.differing(runs) if not key.endswith("_target_")],
    }


def render(data: Mapping[str, Any], title: str, sources: str = "") -> bytes:
    """The whole page. sources: what its policy lets it fetch from, nothing by default."""
    script = (_PAGE / "page.js").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(title),
        "STYLE": (_PAGE / "page.css").read_text(encoding="utf-8"),
        "DATA": _inert(tables.to_json(data)),
        "PLOTLY": _closed(plotly_script()),
        "SCRIPT": _closed(script),
    }
    parts["POLICY"] = policy(parts["PLOTLY"], parts["SCRIPT"]) + (f"; connect-src {sources}" if sources else "")
    # In one pass, so that nothing of what is put in can be taken for a marker.
    frame = (_PAGE / "page.html").read_text(encoding="utf-8")
    return _MARKERS.sub(lambda match: parts[match[1]], frame).encode()


def policy(*scripts: str) -> str:
    """A content security policy that runs these scripts alone, and loads nothing from anywhere."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    # plotly writes style attributes; a style alone can fetch nothing, as every source of images and fonts is shut.
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def plotly_script() -> str:
    """plotly.js as the installed package ships it. ConfigError where it is not installed."""
    found = importlib.util.find_spec("plotly")
    path = Path(found.origin).parent / "package_data" / "plotly.min.js" if found and found.origin else None
    if path is None or not path.is_file():
        raise ConfigError("report: needs plotly; pip install 'rlresearch[review]'.")
    return path.read_text(encoding="utf-8")


def _group(group: Group, place: Mapping[str, int]) -> dict[str, Any]:
    return {"label": group.label, "env": _env(group), "runs": [place[run.key] for run in group.runs]}


def _env(group: Group) -> str:
    return query.written(group.values["env"]) if "env" in group.values else ""


def _table(grid: tables.Grid) -> dict[str, Any]:
    """As it is shown; numbers beside it for sorting."""
    return {
        "head": [column.name for column in grid.columns],
        "right": [column.right for column in grid.columns],
        "rows": [[column.show(value) for column, value in zip(grid.columns, row)] for row in grid.rows],
    }


def _claims(result: Result, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    baselines = dict.fromkeys(claim.baseline for claim in result.claims)
    return [_table(compare.claims(result, baseline, arguments.statistic)) for baseline in baselines]


def _curves(
    index: Index, groups: Sequence[Group], place: Mapping[str, int], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """For each metric its documentation, each group's curve and band, and each run's own curve, by step."""
    runs = [run for group in groups for run in group.runs]
    names = index.metric_names(runs)[:_MOST_METRICS]
    single = min(200, _SINGLE_POINTS // max(1, len(runs) * len(names)))
    made = []
    for name in names:
        lines = [curves.curve(each, name) for each in index.columns(runs, [name], drawn=True)]
        ahead = iter(lines)
        found = {"name": name, **_meaning(name, runs), "groups": [], "runs": {}}
        for group in groups:
            own = [next(ahead) for _ in group.runs]
            aligned = curves.align(own, _POINTS)
            edges = stats.band(aligned.y, arguments.statistic) if len(aligned.x) else (aligned.x,) * 3
            found["groups"].append([_rounded(each) for each in (aligned.x, *edges)])
        if single >= 10:
            thin = [curves.thin(line, single) for line in lines]
            found["runs"] = {place[run.key]: [_rounded(line.x), _rounded(line.y)] for run, line in zip(runs, thin)}
        made.append(found)
    return made


def _meaning(name: str, runs: Sequence[Run]) -> dict[str, str]:
    """The documentation of a metric; where the runs' algorithms mean different things by it, all of them."""
    algorithms: dict[metrics.Metric, list[str]] = {}
    for algo in dict.fromkeys(str(run.values.get("algo")) for run in runs if name in run.values):
        if each := metrics.documented(algo).get(name):
            algorithms.setdefault(each, []).append(algo)
    if len(algorithms) == 1:
        return next(iter(algorithms))._asdict()
    told = [f"{', '.join(names)}: {each.meaning}, in {each.unit}" for each, names in algorithms.items()]
    return {"unit": "", "meaning": "; ".join(told)}


def _profiles(result: Result) -> dict[str, Any]:
    """For each environment scores from its worst to its best, and of every group the share of runs above them."""
    made = {}
    for env in dict.fromkeys(_env(row.group) for row in result.rows):
        scores = {at: row.sample.strata for at, row in enumerate(result.rows) if _env(row.group) == env}
        together = np.concatenate([each for strata in scores.values() for each in strata])
        thresholds = np.linspace(together.min(), together.max(), _POINTS)
        shares = {at: _rounded(stats.profile(strata, thresholds)) for at, strata in scores.items()}
        made[env] = {"x": _rounded(thresholds), "y": shares}
    return made


def _run(run: Run) -> dict[str, Any]:
    values = run.values
    told = ("status", "algo", "env", "seed", "steps", "final", "best", "duration", "started_at", "steps_per_second")
    return {"name": run.name, "key": run.key, "note": keys.note(run)} | {key: values.get(key) for key in told}


def _settings(runs: Sequence[Run]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What all runs have alike, and what each has for itself: configuration, code, machine and newest metrics."""
    left_out = {"name", "status", "problem", "final", "best", "steps", "duration", "runs_dir"}
    names = [key for key in query.keys(runs) if key not in left_out]
    first = runs[0].values if runs else {}
    shared = {key: first.get(key) for key in names if all(run.values.get(key) == first.get(key) for run in runs)}
    own = [key for key in names if key not in shared]
    return _plain(shared), [_plain({key: run.values[key] for key in own if key in run.values}) for run in runs]


def _logs(runs: Sequence[Run]) -> dict[int, str]:
    """The end of the log of each run that did not finish, by its place."""
    found = {}
    for at, run in enumerate(runs):
        if run.values.get("status") in ("failed", "killed", "interrupted", "damaged") and len(found) < _LOGS:
            text = reader.end_of(run.path / "log.txt", _LOG_BYTES)
            if text:
                found[at] = text
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if isinstance(value, int | float | str | None) else str(value) for key, value in values.items()}


def _rounded(values: Sequence[float] | np.ndarray) -> list[float | None]:
    """To six digits, which no screen shows; NaN becomes null."""
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in np.asarray(values, dtype=float).tolist()]


def _inert(text: str) -> str:
    """JSON that ends no block of HTML."""
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _closed(script: str) -> str:
    """A script that does not end its own block; in JavaScript both spellings are the same text."""
    return re.sub(r"</(script)", r"<\\/\1", script, flags=re.IGNORECASE).replace("<!--", r"<\!--")
