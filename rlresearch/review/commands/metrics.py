"""`metrics`: prints the meaning and the unit of every metric, from the source of the algorithms.

The package's source is parsed and not imported, because importing an algorithm would import its libraries. For an
algorithm of the user, its runs say it in run.json. A line of documentation ends with its unit: "mean squared TD error
over the batch, in squared units of return".
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

from rlresearch.errors import ConfigError, RunError, allowed_hint, format_value, one_line
from rlresearch.review import tables
from rlresearch.review.runs import reader
from rlresearch.review.runs.index import Index
from rlresearch.review.tables import Column, Grid

EVALUATION_METRICS = {
    "eval/return": "undiscounted, mean of the deterministic policy's episodes in an evaluation, in units of return",
    "eval/return_std": "standard deviation of these returns over the episodes, in units of return",
    "eval/length": "mean length of these episodes, in steps",
    "eval/episodes": "how many episodes an evaluation has, in episodes",
}
_PACKAGE = Path(__file__).resolve().parents[2]
_EVERYWHERE = {"runners/metrics.py": "EPISODE_METRICS", "training/loop.py": "SPEED_METRICS"}


class Metric(NamedTuple):
    """The documentation of a metric. unit: of its values. meaning: one line."""

    unit: str
    meaning: str


def metrics(arguments: argparse.Namespace) -> int:
    """Prints a line for each metric; a name with several meanings has a line for each meaning."""
    known = list(algorithms())
    runs = _runs_by_algorithm(arguments) if set(arguments.algorithms) - set(known) else {}
    for name in arguments.algorithms:
        if name not in [*known, *runs]:
            why = f"there is no such algorithm, and no run of it in {arguments.runs_dir}"
            raise ConfigError(f"{format_value(name)}: {why}{allowed_hint(name, [*known, *runs])}")
    chosen = arguments.algorithms or known
    lines: dict[tuple[str, Metric], list[str]] = {(name, each): [] for name, each in everywhere().items()}
    for algorithm in chosen:
        for name, each in documented(algorithm, runs.get(algorithm)).items():
            if (name, each) not in lines or lines[name, each]:
                lines.setdefault((name, each), []).append(algorithm)
    columns = [Column("metric"), Column("unit"), Column("meaning"), Column("algorithms")]
    first = list(everywhere())
    rows = [[name, *each, ", ".join(names) or "all"] for (name, each), names in lines.items()]
    rows.sort(key=lambda row: (first.index(row[0]) if row[0] in first else len(first), row[0]))
    tables.write(Grid(columns, rows), arguments.format)
    return 0


def documented(algorithm: str | None, run: Path | None = None) -> dict[str, Metric]:
    """Returns the metrics of an algorithm by name. run: one of its runs, which says it of an algorithm that is not the
    package's; without one, such an algorithm has those of all runs.
    """
    own = algorithms().get(algorithm or "")
    return everywhere() | (_parsed(own, "METRICS") if own else _recorded(run) if run is not None else {})


def _recorded(run: Path) -> dict[str, Metric]:
    """What a run says of its metrics; what is no text, in a run of anybody's, is left out."""
    try:
        found = reader.read_record(run).get("metrics")
    except RunError:
        return {}
    lines = found.items() if isinstance(found, dict) else ()
    return {name: _split(one_line(line)) for name, line in lines if isinstance(line, str)}


def _runs_by_algorithm(arguments: argparse.Namespace) -> dict[str, Path]:
    """The newest run of each algorithm."""
    if not Path(arguments.runs_dir).is_dir():
        return {}
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = index.runs()
    return {str(run.values.get("algo")): run.path for run in reversed(runs)}


@cache
def everywhere() -> dict[str, Metric]:
    """Returns the metrics that every run has, by name."""
    found = {name: _split(line) for name, line in EVALUATION_METRICS.items()}
    for file, name in _EVERYWHERE.items():
        found |= _parsed(_PACKAGE / file, name)
    return found


@cache
def algorithms() -> dict[str, Path]:
    """Returns the source file of each option of the group `algo`."""
    folder = next(each for each in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if each.is_dir())
    found = {}
    for option in sorted((folder / "algo").glob("*.yaml")):
        target = (yaml.safe_load(option.read_text()).get("algo") or {}).get("_target_", "")
        file = _PACKAGE.parent / Path(*target.split(".")[:-1]).with_suffix(".py")
        if target.startswith("rlresearch.") and file.is_file():
            found[option.stem] = file
    return found


@cache
def _parsed(file: Path, name: str) -> dict[str, Metric]:
    """Returns the dictionary `name` in a source file, in the module or in a class. Errors: KeyError without one."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        targets: Sequence[ast.expr] = ()
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.value
        if value is not None and any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return {key: _split(line) for key, line in ast.literal_eval(value).items()}
    raise KeyError(f"{file} has no {name}")


def _split(line: str) -> Metric:
    """Splits a line of documentation into meaning and unit; the unit is `-` where the line has none."""
    meaning, found, unit = line.rpartition(", in ")
    return Metric(unit, meaning) if found else Metric("-", line)
