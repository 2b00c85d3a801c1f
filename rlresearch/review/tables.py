"""Tables for people and for programs: one grid of plain values, written in five ways.

What stands in a run directory may be anybody's: control characters never reach the terminal, and nothing of it is
taken for markup of rich, Markdown or LaTeX.
"""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TextIO

from rlresearch.loggers.formatting import duration, number
from rlresearch.review.runs.query import written

FORMATS = ("table", "json", "csv", "markdown", "latex")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_LATEX = {**{c: f"\\{c}" for c in "#$%&_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": r"\textless{}", ">": r"\textgreater{}"}
_MEASURED = ("final", "best", "final_evaluation.mean", "final_evaluation.std", "final_evaluation.mean_length")
_LONGEST_CELL = 200
_WIDEST = 10_000


class Column(NamedTuple):
    """name: its heading; show: how a value is written for people; right: whether it is set to the right."""

    name: str
    show: Callable[[Any], str] = lambda value: text(value)
    right: bool = False
    style: str = ""


class Grid(NamedTuple):
    """Rows of values under columns; in JSON and CSV the values stay what they are."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    title: str = ""


def write(grid: Grid, form: str = "table", stream: TextIO | None = None) -> None:
    """Writes a grid to `stream` (default: standard output) as one of FORMATS."""
    stream = sys.stdout if stream is None else stream
    if form == "table":
        _write_table(grid, stream)
    else:
        writers = {"json": as_json, "csv": as_csv, "markdown": as_markdown, "latex": as_latex}
        stream.write(writers[form](grid))


def as_json(grid: Grid) -> str:
    """A list of objects; NaN and infinity are null."""
    names = [column.name for column in grid.columns]
    return to_json([dict(zip(names, row)) for row in grid.rows])


def to_json(value: Any, indent: bool = True) -> str:
    """Anything of plain values and NumPy numbers, with a line's end."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=str, option=options).decode() + "\n"


def as_csv(grid: Grid) -> str:
    """With a header; an absent value is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in grid.columns])
    for row in grid.rows:
        writer.writerow(["" if absent(value) else cell(value) for value in row])
    return out.getvalue()


def as_markdown(grid: Grid) -> str:
    """A table with aligned columns."""
    shown = [[_markdown(column.name) for column in grid.columns]]
    shown += [[_markdown(column.show(value)) for column, value in zip(grid.columns, row)] for row in grid.rows]
    widths = [max(len(row[at]) for row in shown) for at in range(len(grid.columns))]
    rule = ["-" * (width - column.right) + ":" * column.right for column, width in zip(grid.columns, widths)]
    shown.insert(1, rule)
    lines = []
    for row in shown:
        cells = [
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, grid.columns)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_latex(grid: Grid) -> str:
    """A tabular of the package booktabs."""
    spec = "".join("r" if column.right else "l" for column in grid.columns)
    head = " & ".join(_latex(column.name) for column in grid.columns)
    body = [" & ".join(_latex(c.show(value)) for c, value in zip(grid.columns, row)) + r" \\" for row in grid.rows]
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", rf"{head} \\", r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def column_of(key: str) -> Column:
    """How the values of a run's key are written."""
    if key in ("duration", "wall_time_s", "training_time_s"):
        return Column(key, duration_or_none, right=True)
    if key in ("started_at", "finished_at"):
        return Column(key, lambda value: text(value)[:16].replace("T", " "))
    if key == "status":
        return Column(key)
    if key in _MEASURED or "/" in key or key == "steps_per_second":
        return Column(key, number, right=True)
    return Column(key, count, right=key in ("steps", "total_steps", "seed", "#"))


def count(value: Any) -> str:
    """Whole numbers with thousands apart, everything else as it is typed."""
    if absent(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text(value)


def duration_or_none(value: Any) -> str:
    """As in 0:03; `-` for nothing."""
    return "-" if absent(value) else duration(value)


def text(value: Any) -> str:
    """One line without control characters, shortened; `-` for nothing."""
    if absent(value):
        return "-"
    line = clean(written(value))
    return line if len(line) <= _LONGEST_CELL else f"{line[: _LONGEST_CELL - 1]}…"


def clean(line: str) -> str:
    """Without what a terminal would obey: control characters, and marks that turn the direction of writing."""
    return _CONTROL.sub(" ", line)


def absent(value: Any) -> bool:
    """None and NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def display(*parts: Any, stream: TextIO | None = None) -> None:
    """Prints what rich can draw: as wide as the terminal; in a pipe as wide as it is, without spaces at line ends."""
    from rich.console import Console

    stream = sys.stdout if stream is None else stream

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            _gone()

    screen = Screen(file=stream, highlight=False, markup=False, emoji=False)
    if screen.is_terminal:
        screen.print(*parts, sep="\n")
        return
    screen.width = _WIDEST
    with screen.capture() as captured:
        screen.print(*parts, sep="\n")
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


COLOURS: Mapping[str, str] = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "killed": "red",
    "damaged": "red",
    "interrupted": "yellow",
    "pruned": "cyan",
}


def _write_table(grid: Grid, stream: TextIO) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", title=Text(grid.title) if grid.title else None)
    table.title_justify = "left"
    for column in grid.columns:
        side: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(Text(column.name), justify=side, style=column.style, overflow="ellipsis", no_wrap=True)
    for row in grid.rows:
        cells = [Text(column.show(value)) for column, value in zip(grid.columns, row)]
        for cell in cells:
            cell.stylize(COLOURS.get(cell.plain, ""))
        table.add_row(*cells)
    display(table, stream=stream)


def _gone() -> None:
    raise BrokenPipeError


def cell(value: Any) -> Any:
    """A value in CSV. Text that a spreadsheet would run as a formula begins with a quote."""
    if isinstance(value, str):
        line = clean(value)
        return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line
    return value


def _markdown(cell: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", cell)


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in cell)
