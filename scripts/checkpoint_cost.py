"""What a checkpoint costs: how long training stands still, how long the writing takes beside it, and how many bytes.

    python scripts/checkpoint_cost.py                            DDPG on Pendulum, a full replay of 1,000,000 rows
    python scripts/checkpoint_cost.py --rows 200000 --buffer prioritized

The replay is filled without learning; then a checkpoint is saved every so many rows. `pause`: what the loop waits;
`beside`: until the checkpoint is on the disk, while training goes on; `bytes`: written for one checkpoint, and how many
times those of its new rows and the state. `share`: pause and writing, as if all of both were lost, at one a minute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from rlresearch import hardware  # noqa: E402
from rlresearch.compose import compose  # noqa: E402
from rlresearch.plan import plan  # noqa: E402

SAVES = 8


class NoLogs:
    """Stands for the files of rows."""

    def sizes(self) -> dict[str, int]:
        return {}

    def sync(self) -> None:
        pass


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="that the replay holds (default: 1,000,000)")
    parser.add_argument("--every", type=int, default=5_000, help="rows between checkpoints (default: 5,000)")
    parser.add_argument("--buffer", choices=("uniform", "prioritized"), default="uniform")
    options = parser.parse_args()
    sizes = [f"buffer.capacity={options.rows}", f"algo.learning_starts={options.rows}"]
    sizes += [f"total_steps={3 * options.rows}", "checkpoint.if_it_fails=stop"]
    made = plan(compose([f"buffer={options.buffer}", *sizes]).config)
    hardware.prepare("cpu", None, False, True)
    with tempfile.TemporaryDirectory(prefix="checkpoint_cost_") as folder:
        show(list(measured(made, Path(folder), options)), options)
    return 0


def measured(made, folder: Path, options: argparse.Namespace):
    """(rows added, pause, time beside, bytes, those of state and manifest, those of one row) of each checkpoint."""
    from rlresearch.saving import Saver
    from rlresearch.training import Position

    runner = made.runner.start(made.trainer, made.task, 0)
    columns = getattr(runner.state().buffer, "rows", runner.state().buffer).columns.values()
    row_bytes = sum(column.shape[-1] * column.dtype.size for column in columns)
    saver = Saver(runner, made, folder, [NoLogs()])
    runner.advance(options.rows, True)
    for save in range(SAVES + 1):
        if save:
            runner.advance(options.every, False)
        before = {path: path.stat().st_size for path in folder.rglob("*.rows")}
        began = time.perf_counter()
        saver._save(Position(row=save))
        pause = time.perf_counter() - began
        runner.advance(1, False)
        saver._finish_writing()
        beside = time.perf_counter() - began
        newest = sorted((folder / "checkpoints").glob("0*"))[-1]
        state = sum(path.stat().st_size for path in newest.iterdir())
        rows = sum(path.stat().st_size - before.get(path, 0) for path in folder.rglob("*.rows"))
        yield options.every + 1 if save else options.rows, pause, beside, rows + state, state, row_bytes
    saver.close()


def show(saves: list[tuple], options: argparse.Namespace) -> None:
    row_bytes = saves[0][5]
    table = Table(title=f"checkpoints with a {options.buffer} replay of {options.rows:,} rows of {row_bytes} bytes")
    for column in ("", "new rows", "pause ms", "beside ms", "bytes", "of rows + state", "share"):
        table.add_column(column, justify="right")
    for number, (rows, pause, beside, size, state, _) in enumerate(saves):
        share = f"{(pause + beside) / 60:.3%}" if number else ""
        numbers = (f"{rows:,}", f"{pause * 1e3:,.1f}", f"{beside * 1e3:,.1f}", f"{size:,}")
        ratio = f"{size / (rows * row_bytes + state):.3f}"
        table.add_row("first" if not number else str(number), *numbers, ratio, share)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
