"""Reports a search: its best trials in the terminal, all trials in a file, and a page with charts."""

from __future__ import annotations

import html
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlresearch.storage.atomic import write_file
from rlresearch.storage.jsonl import encodable

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "queued"}
_SHOWN = 5
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 70rem; padding: 0 1rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .15rem .8rem .15rem 0; text-align: left }}</style>
<h1>{title}</h1>{body}</html>
"""


def short(value: Any) -> str:
    """Formats a value for people; a float gets four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def outcome(trial: Any, objectives: Sequence[str]) -> str:
    """Returns a trial's values with the names of the objectives; "" where it has none."""
    if trial.values:
        return ", ".join(f"{name} {short(value)}" for name, value in zip(objectives, trial.values))
    if trial.state.name == "PRUNED" and trial.intermediate_values:
        step, score = max(trial.intermediate_values.items())
        return f"{objectives[0]} {short(score)} at step {step:,}"
    return ""


def show(
    counts: dict[str, int], best: Sequence[Any], objectives: Sequence[str], command: str | None, folder: Path
) -> None:
    """Prints the result of a search: counts of trials, the best trials, and `command`, which trains the best again."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(best[0].params) if best else []
    for column in ("best", *objectives, *names):
        table.add_column(column, overflow="fold")
    for trial in best[:_SHOWN]:
        values = [short(each) for each in trial.values]
        table.add_row(f"trial {trial.number}", *values, *(short(trial.params[name]) for name in names))
    named = {name.lower(): word for name, word in STATES.items()}
    console.print(f"\nsearch over: {', '.join(f'{count} {named[name]}' for name, count in counts.items())}")
    if best:
        console.print(table)
        console.print(
            f"run of trial {best[0].number}  {_runs(best[0])[0]}", soft_wrap=True, markup=False, highlight=False
        )
    console.print(f"charts and all trials  {folder}", soft_wrap=True, markup=False)
    if command:
        console.print(f"train the best again\n  {command}", soft_wrap=True, markup=False, highlight=False)


def write(study: Any, objectives: Sequence[str], folder: Path) -> None:
    """Writes trials.jsonl to `folder`; also study.html, if plotly is installed and at least two trials are complete."""
    rows = (_row(trial, objectives) for trial in study.get_trials(deepcopy=False))
    lines = [json.dumps(encodable(row), separators=(",", ":"), allow_nan=False) + "\n" for row in rows]
    _replace(folder / "trials.jsonl", "".join(lines).encode())
    try:
        import plotly  # noqa: F401
    except ImportError:
        return
    page = study_page(study, objectives, folder)
    if page is not None:
        _replace(folder / "study.html", page.encode())


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    write_file(fresh, content)
    fresh.replace(path)


def _row(trial: Any, objectives: Sequence[str]) -> dict[str, Any]:
    values = dict(zip(objectives, trial.values)) if trial.values else {}
    parts = [each for name, each in trial.user_attrs.items() if name.startswith("part ")]
    return {
        "number": trial.number,
        "state": STATES[trial.state.name],
        "params": trial.params,
        "values": values,
        "evaluations": {str(step): score for step, score in sorted(trial.intermediate_values.items())},
        "steps": sum(each.get("step", 0) for each in parts),
        "runs": _runs(trial),
        "reason": trial.user_attrs.get("reason"),
    }


def _runs(trial: Any) -> list[str]:
    """Returns the run directories of a trial, one for each part that was trained."""
    parts = {name: each for name, each in trial.user_attrs.items() if name.startswith("part ")}
    return [each["run"] for _, each in sorted(parts.items())]


def study_page(study: Any, objectives: Sequence[str], folder: Path) -> str | None:
    """Returns an HTML page of charts, or None for fewer than two complete trials. It contains plotly's JavaScript,
    so it needs no network.
    """
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < 2:
        return None
    charts: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns about experimental functions
        for title, figure in _figures(study, objectives):
            figure.update_layout(title=title, template="plotly_white")
            charts.append(figure.to_html(full_html=False, include_plotlyjs=not charts))
    return _PAGE.format(title=html.escape(f"Search {folder.parent.name}"), body="\n".join(charts))


def _figures(study: Any, objectives: Sequence[str]) -> Iterator[tuple[str, Any]]:
    from optuna import visualization

    several = len(objectives) > 1
    for index, name in enumerate(objectives):
        target: dict[str, Any] = {}
        if several:
            target = {"target": lambda trial, i=index: trial.values[i], "target_name": name}
        named = target or {"target_name": name}
        yield f"History: {name}", visualization.plot_optimization_history(study, **named)
        importance = _importance(study, target)
        if importance is not None:
            yield f"What mattered for {name}", importance
        yield f"{name} by setting", visualization.plot_slice(study, **named)
        yield f"Trials by {name}", visualization.plot_parallel_coordinate(study, **named)
    if several:
        yield "What no trial beats in everything", visualization.plot_pareto_front(study, target_names=list(objectives))
    elif any(trial.intermediate_values for trial in study.get_trials(deepcopy=False)):
        yield "Evaluations of each trial", visualization.plot_intermediate_values(study)


def _importance(study: Any, target: dict[str, Any]) -> Any | None:
    """Draws the importance of each setting by PED-ANOVA (Watanabe et al. 2023).

    Returns None where it cannot be computed, for example where all trials have the same value.
    """
    from optuna import importance, visualization

    evaluator = importance.PedAnovaImportanceEvaluator()
    try:
        return visualization.plot_param_importances(study, evaluator=evaluator, **target)
    except (ValueError, RuntimeError, ZeroDivisionError):
        return None
