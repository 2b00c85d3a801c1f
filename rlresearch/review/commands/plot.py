"""`plot`: draws learning curves, scores with intervals, or performance profiles, into a file or the terminal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch import stats
from rlresearch.errors import ConfigError, allowed_hint
from rlresearch.loggers.formatting import number
from rlresearch.optional import import_optional
from rlresearch.review import files, tables
from rlresearch.review.commands.compare import EVALUATED
from rlresearch.review.runs import curves, groups, query
from rlresearch.review.runs.curves import Curve
from rlresearch.review.runs.groups import Group
from rlresearch.review.runs.index import Index

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which colour-blind readers can distinguish; from the ninth group on, lines are dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_NAMED_COLOURS = ("bright_blue", "bright_red", "green", "magenta", "yellow", "cyan", "white", "bright_green")
_DASHES = ("-", "--", ":", "-.")
_AXES = {"step": "environment steps", "time": "seconds"}
_PROFILED = 200
_PANELS_ACROSS = 3


class Line(NamedTuple):
    """The curve of a group. x, centre, low, high: float64[points]. runs: the curves of its single runs."""

    group: Group
    x: np.ndarray
    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray
    runs: list[Curve]

    @property
    def label(self) -> str:
        return f"{self.group.label} ({len(self.runs)})"


def plot(arguments: argparse.Namespace) -> int:
    """Draws the groups into a file or the terminal."""
    if arguments.output and arguments.output.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--output={arguments.output}: must end in {', '.join(SUFFIXES)}.")
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
        metric = metric_of(index, runs, arguments.metric)
        grouped = groups.group(_unfinished_too(runs, arguments), arguments.by, unfinished=True)
        lines, notes = group_curves(index, grouped.groups, metric, arguments)
    notes = [*grouped.notes, *notes]
    if not lines:
        raise ConfigError(f"{arguments.runs_dir}: no run has {metric} to plot{allowed_hint(metric, [])[1:]}")
    if arguments.output:
        _save(lines, metric, arguments)
        print(f"wrote {arguments.output}")
    else:
        if arguments.kind != "curves":
            raise ConfigError(f"--kind={arguments.kind}: needs --output=FILE; the terminal shows curves.")
        for own in by_env(lines).values():
            _print(own, metric, arguments)
    for note in notes:
        print(f"note: {tables.text(note)}", file=sys.stderr)
    return 0


def metric_of(index: Index, runs: Sequence[Any], asked: str | None) -> str:
    """Returns the full name of the metric `asked`; by default, evaluated returns. Errors: ConfigError."""
    known = index.metric_names(runs)
    if asked is None:
        return EVALUATED if EVALUATED in known or not known else known[0]
    ends = [name for name in known if name == asked or name.endswith(f"/{asked}")]
    if asked in known:
        return asked
    if len(ends) == 1:
        return ends[0]
    raise ConfigError(f"--metric={asked}: no run has such a metric{allowed_hint(asked, known)}")


def group_curves(
    index: Index, made: Sequence[Group], metric: str, arguments: argparse.Namespace
) -> tuple[list[Line], list[str]]:
    """Returns the curve and band of each group, and notes about runs without the metric or with an early end."""
    lines, notes = [], []
    found = iter(index.columns([run for group in made for run in group.runs], [metric], drawn=True))
    for group in made:
        own = [curves.curve(columns, metric, arguments.x) for _, columns in zip(group.runs, found)]
        own = [curves.smooth(line, arguments.smooth) for line in own if len(line.x)]
        if len(own) < len(group.runs):
            notes.append(f"{group.label}: {len(group.runs) - len(own)} of {len(group.runs)} runs have no {metric}")
        if not own:
            continue
        aligned = curves.align(own, stats.points_of_a_band(len(own)))
        if aligned.cut:
            end = f"{aligned.x[-1]:,.0f}" if len(aligned.x) else "nowhere"
            notes.append(f"{group.label}: {aligned.cut} of {len(own)} runs end early; drawn as far as all go, {end}")
        if len(aligned.x):
            centre, low, high = stats.band(aligned.y, arguments.statistic, arguments.band)
            lines.append(Line(group, aligned.x, centre, low, high, own))
    notes += [f"{key}: drawn from a sample of about {rows:,} rows" for key, rows in index.samples.items()]
    few = [line.group.label for line in lines if stats.too_few([len(line.runs)]) and len(line.runs) > 1]
    if few and arguments.band == "interval":
        notes.append(f"{', '.join(few)}: too few seeds for a 95 % interval; the band goes from worst to best")
    return lines, notes


def by_env(lines: Sequence[Line]) -> dict[str, list[Line]]:
    """Groups lines by environment, one panel each, because returns of two environments cannot be compared."""
    panels: dict[str, list[Line]] = {}
    for line in lines:
        panels.setdefault(query.written(line.group.values.get("env")), []).append(line)
    return panels


def _unfinished_too(runs: Sequence[Any], arguments: argparse.Namespace) -> list[Any]:
    """Returns the finished and the running runs; a single run always; with --all, every run."""
    wanted = ("finished", "running")
    return [run for run in runs if arguments.all or run.values.get("status") in wanted or len(runs) == 1]


def _save(lines: Sequence[Line], metric: str, arguments: argparse.Namespace) -> None:
    figure_of = import_optional("matplotlib.figure", "plot --output")
    panels = by_env(lines)
    across = min(_PANELS_ACROSS, len(panels))
    down = -(-len(panels) // across)
    size = arguments.size[0] * across, arguments.size[1] * down
    figure = figure_of.Figure(figsize=size, layout="constrained")
    places = figure.subplots(down, across, squeeze=False).flat
    kinds = {"curves": _draw_curves, "scores": _draw_scores, "profile": _draw_profile}
    for axes, (env, own) in zip(places, panels.items()):
        kinds[arguments.kind](axes, own, metric, arguments)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(_plain(env) if len(panels) > 1 else _plain(arguments.title or ""))
    for axes in places:
        axes.set_visible(False)
    if arguments.title and len(panels) > 1:
        figure.suptitle(_plain(arguments.title))
    path: Path = arguments.output
    date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    settings = import_optional("matplotlib", "plot --output").rc_context({"svg.hashsalt": "rlresearch"})
    with settings, files.atomic_path(path) as fresh:
        figure.savefig(fresh, dpi=150, metadata=date)  # without a date, the same runs give the same file


def _draw_curves(axes: Any, lines: Sequence[Line], metric: str, arguments: argparse.Namespace) -> None:
    for place, line in enumerate(lines):
        style = {"color": COLOURS[place % len(COLOURS)]}
        dash = _DASHES[place // len(COLOURS) % len(_DASHES)]
        if arguments.each:
            for each in line.runs:
                thin = curves.thin(each)
                axes.plot(thin.x, thin.y, linewidth=0.6, alpha=0.35, **style)
        axes.plot(line.x, line.centre, linewidth=1.8, linestyle=dash, label=_plain(line.label), **style)
        if arguments.band != "none" and len(line.runs) > 1:
            axes.fill_between(line.x, line.low, line.high, alpha=0.18, linewidth=0, **style)
    if arguments.log:
        axes.set_yscale("symlog" if min(line.centre.min() for line in lines) <= 0 else "log")
    told = _plain(metric), _of_seeds(lines, arguments)
    axes.set(xlabel=_AXES[arguments.x], ylabel="\n".join(filter(None, told)))
    axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
    axes.legend(frameon=False, fontsize="small")


def _draw_scores(axes: Any, lines: Sequence[Line], metric: str, arguments: argparse.Namespace) -> None:
    """Draws the estimate of each group with its interval, and a dot for every run."""
    for place, line in enumerate(reversed(lines)):
        scores = _last(line)
        made = stats.estimate(stats.sample([scores], arguments.statistic))
        colour = COLOURS[(len(lines) - 1 - place) % len(COLOURS)]
        axes.plot([made.low, made.high], [place, place], color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt")
        axes.plot(scores, np.full(len(scores), place), "o", color=colour, markersize=3, alpha=0.7)
        axes.plot([made.value, made.value], [place - 0.3, place + 0.3], color=colour, linewidth=2.2)
    axes.set_yticks(range(len(lines)), [_plain(line.label) for line in reversed(lines)])
    axes.set(xlabel=f"{_plain(metric)} at the end\n{_of_seeds(lines, arguments)}", ylim=(-0.6, len(lines) - 0.4))


def _draw_profile(axes: Any, lines: Sequence[Line], metric: str, arguments: argparse.Namespace) -> None:
    scores = [_last(line) for line in lines]
    together = np.concatenate(scores)
    thresholds = np.linspace(together.min(), together.max(), _PROFILED)
    for place, (line, each) in enumerate(zip(lines, scores)):
        colour = COLOURS[place % len(COLOURS)]
        share = stats.profile([each], thresholds)
        axes.plot(thresholds, 100 * share, color=colour, linewidth=1.8, label=_plain(line.label))
        if arguments.band != "none":
            low, high = stats.share_interval(share, len(each))
            axes.fill_between(thresholds, 100 * low, 100 * high, alpha=0.12, linewidth=0, color=colour)
    axes.set(xlabel=f"{_plain(metric)} at the end", ylabel="runs above, %", ylim=(-2, 102))
    axes.legend(frameon=False, fontsize="small")


def _print(lines: Sequence[Line], metric: str, arguments: argparse.Namespace) -> None:
    """Draws curves in the terminal, with braille characters. Errors: ConfigError where the terminal has none."""
    try:
        "⠿".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        raise ConfigError(
            f"plot: this terminal's encoding, {sys.stdout.encoding}, has no signs to draw with; --output=FILE makes a "
            "picture, PYTHONIOENCODING=utf-8 says that it has them."
        ) from None
    figure = import_optional("plotille", "plot without --output").Figure()
    figure.with_colors = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    size = shutil.get_terminal_size((100, 30))
    figure.width, figure.height = max(20, size.columns - 24), max(8, min(24, size.lines - 10 - len(lines)))
    figure.x_label, figure.y_label = _AXES[arguments.x], metric
    figure.register_label_formatter(float, _axis_number)
    figure.color_mode = "names"
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    right = _room(first, last, 0.03)  # for the letters
    figure.set_x_limits(float(first - (right if first == last else 0)), float(last + right))
    heights = [_signed_log(line.centre) if arguments.log else line.centre for line in lines]
    low, high = min(y.min() for y in heights), max(y.max() for y in heights)
    room = _room(low, high, 0.04)  # plotille fails on a letter in the last line
    figure.set_y_limits(float(low - room), float(high + room))
    for place, (line, y) in enumerate(zip(lines, heights)):
        colour, letter = _NAMED_COLOURS[place % len(_NAMED_COLOURS)], chr(ord("a") + place % 26)
        figure.plot(line.x.tolist(), y.tolist(), lc=colour, label=f"{letter} {tables.text(line.label)}")
        figure.text([float(line.x[-1])], [float(y[-1])], [letter], lc=colour)
    print(figure.show(legend=len(lines) > 1))
    for line in lines:
        told = f"{number(line.low[-1])} to {number(line.high[-1])}" if len(line.runs) > 1 else "one run"
        where = f"{_AXES[arguments.x]} {line.x[-1]:,.0f}"
        print(f"{tables.text(line.label)}: {number(line.centre[-1])} ({told}) at {where}")


def _room(low: float, high: float, share: float) -> float:
    """A share of what is drawn; where that is one value, enough to draw it in."""
    return share * (high - low) or max(1.0, share * abs(high))


def _signed_log(values: np.ndarray) -> np.ndarray:
    return np.sign(values) * np.log10(1 + abs(values))


def _last(line: Line) -> np.ndarray:
    return np.array([each.y[-1] for each in line.runs])


def _of_seeds(lines: Sequence[Line], arguments: argparse.Namespace) -> str:
    """Returns a label that says what line and band mean; with few seeds the band is different, see `stats.band`."""
    statistic = "IQM" if arguments.statistic == "iqm" else arguments.statistic
    several = [len(line.runs) for line in lines if len(line.runs) > 1]
    if not several or arguments.band == "none":
        return f"{statistic} of seeds" if several else ""
    few = [stats.too_few([runs]) for runs in several]
    interval = "worst to best" if all(few) else f"95 % interval{' (few seeds: range)' if any(few) else ''}"
    bands = {"interval": interval, "range": "worst to best", "std": "one standard deviation"}
    return f"{statistic} of seeds, {bands[arguments.band]}"


def _plain(text: str) -> str:
    """Escapes dollar signs, which matplotlib would read as mathematics."""
    return tables.text(text).replace("$", r"\$")


def _thousands(value: float) -> str:
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{sign}"
    return f"{value:g}"


def _axis_number(value: float, chars: int, delta: Any = None, left: bool = False) -> str:
    text = f"{value:.4g}" if abs(value) < 1e4 else _thousands(float(f"{value:.3g}"))
    return text.ljust(chars) if left else text.rjust(chars)
