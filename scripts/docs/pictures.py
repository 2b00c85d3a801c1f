"""Draws docs/pictures/terminal.svg: a run as a terminal shows it, trained here and now by the default command.

    python scripts/docs/pictures.py                                              docs/pictures/terminal.svg
    python scripts/quality/quality.py --plot docs/pictures/learning_curves.png       the other picture, some minutes

Everything in it is the run's own output. The panel of the training half done, which a terminal erases at the end,
is kept above the one that takes its place.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI

from rlresearch.cli.main import main as rlresearch
from rlresearch.loggers.console import Display
from rlresearch.training import run

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "pictures" / "terminal.svg"
COLUMNS = 80
# As rich's own, without the font that it would fetch from a network.
SVG = """<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
 font-size: {char_height}px; line-height: {line_height}px; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


class Recorded(Display):
    """The live display, of which a second console keeps what it prints, and one panel from within the training."""

    recorder = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False, markup=False)

    def __init__(self, console: str = "live") -> None:
        super().__init__("live", stream=io.StringIO(), width=COLUMNS)
        self._total = 0
        self._shown = False

    def start(self, lines: Sequence[str], total_steps: int, step: int = 0) -> None:
        self._total = total_steps
        super().start(lines, total_steps, step)

    def evaluation(self, row: dict[str, Any]) -> None:
        super().evaluation(row)
        if not self._shown and 2 * row["step"] >= self._total:
            self._shown = True
            self.recorder.print(self._progress.panel(self._plus_minus))

    def _show(self, renderable: Any, soft_wrap: bool = False) -> None:
        super()._show(renderable, soft_wrap)
        self.recorder.print(renderable, soft_wrap=False)


def main() -> int:
    """Trains and draws; the run's exit code."""
    Recorded.recorder.print("$ python -m rlresearch", style="bold")
    run.Display = Recorded
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the picture shows relative paths
        code = rlresearch([])
    if code == 0:
        PICTURE.parent.mkdir(exist_ok=True)
        svg = Recorded.recorder.export_svg(title="", theme=MONOKAI, code_format=SVG, unique_id="terminal")
        PICTURE.write_text(re.sub(r"[ \t]+\n", "\n", svg))
    return code


if __name__ == "__main__":
    sys.exit(main())
