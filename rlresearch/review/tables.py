"""Tables for people and for programs: one grid of plain values, and five formats.

A run directory may come from an unknown person. So control characters are removed, and markup of rich, Markdown and
LaTeX is escaped.
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
    """name: the heading. show: formats a value for people. right: whether to align to the right. style: of rich."""

    name: str
    show: Callable[[Any], str] = lambda value: text(value)
    right: bool = False
    style: str = ""


class Grid(NamedTuple):
    """Columns and rows of values. JSON and CSV contain the values themselves, other formats contain `show(value)`."""

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
    """Returns a JSON list of objects; NaN and infinity become null."""
    names = [column.name for column in grid.columns]
    return to_json([dict(zip(names, row)) for row in grid.rows])


def to_json(value: Any, indent: bool = True) -> str:
    """Returns plain values and NumPy numbers as JSON with a newline at the end."""
    import orjson

    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=str, option=options).decode() + "\n"


def as_csv(grid: Grid) -> str:
    """Returns CSV with a header; an absent value is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in grid.columns])
    for row in grid.rows:
        writer.writerow(["" if absent(value) else cell(value) for value in row])
    return out.getvalue()


def as_markdown(grid: Grid) -> str:
    """Returns a Markdown table with aligned columns."""
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
    """Returns a LaTeX tabular for the package booktabs."""
    spec = "".join("r" if column.right else "l" for column in grid.columns)
    head = " & ".join(_latex(column.name) for column in grid.columns)
    body = [" & ".join(_latex(c.show(value)) for c, value in zip(grid.columns, row)) + r" \\" for row in grid.rows]
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", rf"{head} \\", r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def column_of(key: str) -> Column:
    """Returns a column with the right format for a key of a run."""
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
    """Formats integers with separated thousands, everything else as in a filter; `-` for None and NaN."""
    if absent(value):
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else text(value)


def duration_or_none(value: Any) -> str:
    """Formats seconds as in 0:03; `-` for None and NaN."""
    return "-" if absent(value) else duration(value)


def text(value: Any) -> str:
    """Returns one line without control characters, at most 200 long; `-` for None and NaN."""
    if absent(value):
        return "-"
    line = clean(written(value))
    return line if len(line) <= _LONGEST_CELL else f"{line[: _LONGEST_CELL - 1]}…"


def clean(line: str) -> str:
    """Replaces control characters, and marks that change the direction of text, by spaces."""
    return _CONTROL.sub(" ", line)


def absent(value: Any) -> bool:
    """Returns whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def display(*parts: Any, stream: TextIO | None = None) -> None:
    """Prints objects of rich. Lines fit a terminal; in a pipe they have no limit and no trailing spaces."""
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
    """Returns a value for CSV. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    if isinstance(value, str):
        line = clean(value)
        return f"'{line}" if line[:1] in ("=", "+", "-", "@") else line
    return value


def _markdown(cell: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", cell)


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in cell)
