"""The console: shows the progress of a run in the terminal, and its end.

Live mode, for a terminal: a panel that rich redraws from its own thread. Plain mode, for a pipe or a batch job: a line
from time to time, without control characters. The display is a `Logger`, so for the run it is another mirror. A row
only updates numbers in memory, and drawing happens in the other thread, so it does not slow training.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from rlresearch.errors import ConfigError, did_you_mean
from rlresearch.loggers.base import Logger
from rlresearch.loggers.formatting import duration, mean_std, number, real, with_spread

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

ConsoleMode = Literal["auto", "live", "plain", "none"]
CONSOLES = get_args(ConsoleMode)

# A redraw holds Python's interpreter lock for about 2 ms, so 4 redraws a second cost training less than 1 %.
_REDRAWS_PER_SECOND = 4
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_COLOURS = {"finished": "green", "pruned": "cyan", "failed": "red", "interrupted": "yellow"}


class Display(Logger):
    """Shows a run in the terminal. console: the mode, which is auto, live, plain or none.

    auto is live where `stream` (default: standard output) is a terminal, otherwise plain. Plain prints a line at most
    every `every_s` seconds and at each evaluation. The display uses train/return, train/episodes, train/length and
    speed/steps_per_second of metrics rows, `returns` of evaluation rows, and the summary of `finish`.
    Errors: ConfigError for another `console`. If the terminal closes, only the display ends.
    """

    def __init__(
        self,
        console: str = "auto",
        *,
        every_s: float = 5.0,
        stream: TextIO | None = None,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if console not in CONSOLES:
            allowed = ", ".join(CONSOLES)
            raise ConfigError(f"console is '{console}', not one of {allowed}{did_you_mean(console, CONSOLES)}.")
        self._stream = sys.stdout if stream is None else stream
        self.kind = console
        if console == "auto":
            self.kind = "plain"
            with contextlib.suppress(AttributeError, ValueError):  # the stream is not a file, or it is closed
                if self._stream.isatty() and os.environ.get("TERM") != "dumb":
                    self.kind = "live"
        self._progress = Progress(clock)
        self._every_s = every_s
        self._printed_at = clock()
        self._clock = clock
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._plus_minus = "±" if "±".encode(encoding, "ignore") else "+/-"
        self._screen: Console | None = _rich_console(self._stream, width) if self.kind == "live" else None
        self._live: Live | None = None
        self._warnings = _Warnings(self)

    def start(self, lines: Sequence[str], total_steps: int, step: int = 0) -> None:
        """Prints `lines` (plain: as one line) and starts the display. step: where a resumed run starts."""
        self._progress = Progress(self._clock, total_steps, step)
        self._printed_at = self._clock()
        if self.kind == "none":
            return
        logging.getLogger("rlresearch").addHandler(self._warnings)
        self._print(" | ".join(lines) if self._screen is None else "\n".join(lines))
        if self._screen is not None:
            self._start_live(self._screen)

    def metrics(self, row: dict[str, Any]) -> None:
        """Receives the newest metrics."""
        self._progress.take_metrics(row)
        if self._clock() - self._printed_at >= self._every_s:
            self._print_progress()

    def evaluation(self, row: dict[str, Any]) -> None:
        """Receives the newest evaluation."""
        self._progress.take_evaluation(row)
        self._print_progress()

    def message(self, text: str) -> None:
        """Prints `text`; in live mode, above the panel."""
        self._print(text)

    def finish(self, summary: dict[str, Any]) -> None:
        """Replaces the panel by a table that says how the run ended; see `Logger.finish` for `summary`."""
        self._stop_live(erase=True)
        status = summary.get("status", "finished")
        table = _end_table(summary, self._plus_minus)
        if self._screen is None:
            width = max((len(label) for label, _ in table), default=0)
            self._print("\n".join([status, *(f"  {label:<{width}}  {value}" for label, value in table)]))
        else:
            self._show(_panel(_two_columns(table), status, _COLOURS.get(status, "cyan")))
        # Printed below the table, without line breaks: a user cannot copy a path or a command out of a frame.
        self._print("\n".join(_what_next(summary)))

    def close(self) -> None:
        """Ends the display; a second call does nothing."""
        logging.getLogger("rlresearch").removeHandler(self._warnings)
        self._stop_live(erase=False)

    def _print_progress(self) -> None:
        if self._screen is None:
            self._print(self._progress.line(self._plus_minus))
            self._printed_at = self._clock()

    def _print(self, text: str) -> None:
        if not text:
            return
        clean = _CONTROL.sub(" ", text)
        if self._screen is not None:
            from rich.text import Text

            self._show(Text(clean), soft_wrap=True)
        elif self.kind == "plain":
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            clean = clean.encode(encoding, "replace").decode(encoding)
            with self._gone_is_none():
                self._stream.write(clean + "\n")
                self._stream.flush()

    def _show(self, renderable: RenderableType, soft_wrap: bool = False) -> None:
        if self.kind == "live" and self._screen is not None:
            with self._gone_is_none():
                self._screen.print(renderable, soft_wrap=soft_wrap)

    def _start_live(self, screen: Console) -> None:
        from rich.live import Live

        self._live = Live(
            get_renderable=lambda: self._progress.panel(self._plus_minus),
            console=screen,
            refresh_per_second=_REDRAWS_PER_SECOND,
        )
        with self._gone_is_none():
            self._live.start(refresh=True)

    def _stop_live(self, erase: bool) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.transient = erase
            with self._gone_is_none():
                live.stop()

    @contextlib.contextmanager
    def _gone_is_none(self) -> Iterator[None]:
        """Turns the display off where the pipe or terminal has been closed; this is not an error of the run."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: "I/O operation on closed file"
            self.kind = "none"


class Progress:
    """Keeps the newest numbers of a run, and shows them as a line or as a panel."""

    def __init__(self, clock: Callable[[], float], total_steps: int = 0, step: int = 0) -> None:
        self._clock = clock
        self._started = clock()
        self._total_steps = total_steps
        self._step = step
        self._metrics: dict[str, Any] = {}
        self._evaluation: tuple[float, float, str, int] | None = None  # mean, std, number of episodes as text, step

    def take_metrics(self, row: dict[str, Any]) -> None:
        """Keeps the newest value of every metric."""
        self._step = max(self._step, int(row.get("step", 0)))
        # A new dictionary, because the drawing thread may be reading the old one.
        self._metrics = self._metrics | row

    def take_evaluation(self, row: dict[str, Any]) -> None:
        """Keeps the returns of the newest evaluation."""
        step = int(row.get("step", 0))
        self._step = max(self._step, step)
        returns = list(row.get("returns", ()))
        # A population has a list of returns for each member; each member counts once, with its mean.
        noun = "members" if any(isinstance(value, list | tuple) for value in returns) else "episodes"
        self._evaluation = (*mean_std(returns), f"{len(returns)} {noun}", step)

    def line(self, plus_minus: str = "±") -> str:
        """Returns text as in `step 5,000/20,000  25%  6,212 steps/s  return -812.3  eval -201.4 ± 80.2  left 0:03`."""
        parts = [f"step {self._steps()}", f"{self._percent():.0f}%", f"{self._speed()} steps/s"]
        parts.append(f"return {number(self._metrics.get('train/return'))}")
        if self._evaluation is not None:
            parts.append(f"eval {with_spread(*self._evaluation[:2], plus_minus)}")
        return "  ".join([*parts, f"left {self._left()}"])

    def panel(self, plus_minus: str = "±") -> RenderableType:
        """Returns the numbers of `line` and the elapsed time in a frame, at most 80 columns wide."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        bar = Table.grid(expand=True, padding=(0, 1))
        bar.add_column(ratio=1)
        bar.add_column(justify="right", no_wrap=True)
        bar.add_row(ProgressBar(total=100, completed=self._percent()), f"{self._percent():.0f}%  {self._steps()}")
        numbers = Table.grid(padding=(0, 2, 0, 0))
        for style, width in (("dim", 7), ("", 17), ("dim", 6), ("", None)):
            numbers.add_column(style=style, min_width=width, no_wrap=True)
        evaluated, of_what = self._evaluated(plus_minus)
        numbers.add_row("speed", f"{self._speed()} steps/s", "return", number(self._metrics.get("train/return")))
        numbers.add_row("elapsed", duration(self._clock() - self._started), "", Text(self._trained(), style="dim"))
        numbers.add_row("left", self._left(), "eval", evaluated)
        numbers.add_row("", "", "", Text(of_what, style="dim"))
        return _panel(Group(bar, numbers), "training", "cyan")

    def _steps(self) -> str:
        return f"{self._step:,}/{self._total_steps:,}"

    def _percent(self) -> float:
        return min(100.0, math.floor(100.0 * self._step / self._total_steps)) if self._total_steps else 0.0

    def _speed(self) -> str:
        return number(self._metrics.get("speed/steps_per_second"), digits=0)

    def _left(self) -> str:
        speed = real(self._metrics.get("speed/steps_per_second"))
        return duration(max(0, self._total_steps - self._step) / speed) if speed > 0 else "-"

    def _trained(self) -> str:
        parts = (("train/episodes", "{:,.0f} episodes"), ("train/length", "length {:,.0f}"))
        known = [(text, real(self._metrics.get(name))) for name, text in parts]
        return ", ".join(text.format(value) for text, value in known if math.isfinite(value))

    def _evaluated(self, plus_minus: str) -> tuple[str, str]:
        if self._evaluation is None:
            return "-", ""
        mean, std, of_what, step = self._evaluation
        return with_spread(mean, std, plus_minus), f"{of_what}, step {step:,}"


class _Warnings(logging.Handler):
    """Shows the warnings of the package above the panel; log.txt has them too."""

    def __init__(self, display: Display) -> None:
        super().__init__(logging.WARNING)
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.message(f"{record.levelname.lower()}: {record.getMessage()}")


def _end_table(summary: dict[str, Any], plus_minus: str) -> list[tuple[str, str]]:
    """Returns (label, value) for each fact in `summary`."""
    table: list[tuple[str, str]] = []
    if summary.get("reason"):
        table.append(("reason", _reason(summary["reason"])))
    final, members = summary.get("final_evaluation") or {}, summary.get("members") or []
    if members:
        table += _members(members, plus_minus)
    elif final:
        at = f", step {final['step']:,}" if final.get("step") is not None else ""
        over = f" ({final['episodes']} episodes{at})" if final.get("episodes") is not None else ""
        table.append(("evaluation", with_spread(final.get("mean"), final.get("std"), plus_minus) + over))
    if summary.get("total_steps") is not None:
        table.append(("steps", f"{summary['total_steps']:,}"))
    times = {"training": summary.get("training_time_s"), "total": summary.get("wall_time_s")}
    told = [f"{name} {duration(seconds)}" for name, seconds in times.items() if seconds is not None]
    if told:
        table.append(("wall time", ", ".join(told)))
    if summary.get("steps_per_second") is not None:
        table.append(("speed", f"{number(summary['steps_per_second'], digits=0)} steps/s"))
    return table


def _members(members: Sequence[Any], plus_minus: str) -> list[tuple[str, str]]:
    """Returns mean ± std over members, then the best and the worst. Members without a number are only counted."""
    means = [real(member.get("mean") if isinstance(member, dict) else member) for member in members]
    known = [(mean, index) for index, mean in enumerate(means) if math.isfinite(mean)]
    missing = f", {len(means) - len(known)} without a number" if len(known) < len(means) else ""
    mean_with_spread = with_spread(*mean_std([mean for mean, _ in known]), plus_minus)
    table = [("evaluation", f"{mean_with_spread} ({len(means)} members{missing})")]
    for label, pick in (("best", max), ("worst", min)):
        if known:
            mean, index = pick(known)
            name = members[index].get("name", index) if isinstance(members[index], dict) else index
            table.append((label, f"{number(mean)} (member {name})"))
    return table


def _what_next(summary: dict[str, Any]) -> list[str]:
    """Returns the lines after the table: the path of the run directory, and commands to type next."""
    lines = [f"run directory  {summary['run_directory']}"] if summary.get("run_directory") else []
    return lines + (["next", *(f"  {line}" for line in summary["next"])] if summary.get("next") else [])


def _reason(reason: Any) -> str:
    if not isinstance(reason, dict):
        return str(reason)
    where = [f"{name} {reason[name]}" for name in ("environment", "step") if reason.get(name) is not None]
    parts = [reason.get("kind"), ", ".join(where), reason.get("error")]
    return _CONTROL.sub(" ", " ".join(": ".join(str(part) for part in parts if part).split()))


def _rich_console(stream: TextIO, width: int | None) -> Console:
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self) -> None:  # rich's own method ends the process when a pipe closes
            self.quiet = True

    return Quiet(file=stream, width=width, force_terminal=True, highlight=False, markup=False, emoji=False)


def _panel(body: RenderableType, title: str, colour: str) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    return Panel(body, title=Text(title, style=f"bold {colour}"), title_align="left", border_style=colour)


def _two_columns(table: Sequence[tuple[str, str]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in table:
        grid.add_row(label, Text(value))
    return grid
