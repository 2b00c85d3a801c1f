"""What a checkpoint costs: how long training stands still, how long the writing takes beside it, and how many bytes.

    python scripts/benchmarks/checkpoint_cost.py  DDPG on Pendulum, a full replay of 1,000,000 rows
    python scripts/benchmarks/checkpoint_cost.py --rows 200000 --every 10000 --buffers prioritized
    python scripts/benchmarks/checkpoint_cost.py --json

A replay is filled without learning, which costs time and changes nothing here; then checkpoints are saved every so many
rows. `pause`: what the loop waits, and what the step after it takes longer than others (where a saved tensor was still
held, XLA would copy the whole replay there); `own`: the processor's part of the pause, all of it on a machine that does
nothing else; `beside`: until the checkpoint is on the disk, while training goes on;
`bytes`: written for one checkpoint, and how many times those of its new rows and of the state, which are parameters,
moments and, of a prioritized replay, its priorities, as they change anywhere; `share`: of the time, at one checkpoint a
minute, as if pause and writing were lost altogether. Medians of the saves, the longest pause beside them.

Exit code 0 where after the first save a pause has at most 50 ms of its own, bytes are at most 1.2 times what is new,
and the share is below 2 %; 1 where not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from rlresearch.config.compose import compose  # noqa: E402
from rlresearch.runtime import devices  # noqa: E402
from rlresearch.training.experiment import Plan, plan  # noqa: E402

SAVES = 9
A_MINUTE = 700_000  # rows, at the speed that README's table has for DDPG with networks of [64, 64]
MOST_PAUSE_S, MOST_BYTES, MOST_SHARE = 0.05, 1.2, 0.02


class Save(NamedTuple):
    """One checkpoint; seconds and bytes. new: of its rows and the state."""

    pause: float
    own: float
    beside: float
    written: int
    new: int


class NoLogs:
    """Stands for the files of rows."""

    def sizes(self) -> dict[str, int]:
        return {}

    def sync(self) -> None:
        pass


def main() -> int:
    """Measures and prints; see above for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="that the replay holds (default: 1,000,000)")
    parser.add_argument("--every", type=int, nargs="+", default=[5_000, A_MINUTE], help="rows between checkpoints")
    parser.add_argument("--buffers", nargs="+", choices=("uniform", "prioritized"), default=["uniform", "prioritized"])
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    reports = [report for buffer in options.buffers for report in measured(buffer, options)]
    if options.json:
        print(json.dumps(reports))
    else:
        show(reports, options.rows)
    return 0 if all(not too_much(report) for report in reports) else 1


def measured(buffer: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A report of the first save, and one for each number of rows between two."""
    sizes = [f"buffer.capacity={options.rows}", "algo.learning_starts=1000000000", "total_steps=1000000001"]
    made = plan(compose([f"buffer={buffer}", *sizes, "checkpoint.if_it_fails=stop"]).config)
    devices.prepare("cpu", None, False, True)
    with tempfile.TemporaryDirectory(prefix="checkpoint_cost_") as folder:
        bench = Bench(made, Path(folder))
        reports = [summed(buffer, options.rows, list(bench.saves(options.rows, 1))) | {"first": True}]
        for every in options.every:
            reports.append(summed(buffer, every, list(bench.saves(every, SAVES))) | {"first": False})
        bench.close()
    return reports


class Bench:
    """A runner whose checkpoints are timed."""

    def __init__(self, made: Plan, folder: Path) -> None:
        from rlresearch.training.checkpointing import Checkpointer, CheckpointFacts

        self._folder, self._number = folder, 0
        self._runner = made.runner.start(made.trainer, made.task, 0)
        replay = self._runner.state().buffer
        columns = getattr(replay, "rows", replay).columns.values()
        self._row_bytes = sum(column.shape[-1] * column.dtype.size for column in columns)
        facts = CheckpointFacts(made.trainer.buffer, [NoLogs()])
        self._checkpointer = Checkpointer(self._runner, made.task, made.checkpoint, folder, facts)

    def saves(self, rows: int, times: int) -> Iterator[Save]:
        """So many checkpoints, with so many new rows each."""
        for _ in range(times):
            yield self._save(rows)

    def close(self) -> None:
        self._checkpointer.close()

    def _save(self, rows: int) -> Save:
        from rlresearch.training.callbacks import LoopPosition, Milestone

        self._runner.advance(rows - 2, True)
        began = time.perf_counter()
        self._runner.advance(1, False)
        step = time.perf_counter() - began
        files = self._rows_files()
        self._number += 1
        began, worked = time.perf_counter(), time.thread_time()
        self._checkpointer.at_milestone(LoopPosition(row=self._number), Milestone(0, False, False, save=True), [])
        own = time.thread_time() - worked
        self._runner.advance(1, False)
        pause = time.perf_counter() - began - step
        self._checkpointer.wait()
        beside = time.perf_counter() - began
        newest = max((self._folder / "checkpoints").glob("0*"))
        state = sum(path.stat().st_size for path in newest.iterdir())
        grown = sum(size - files.get(path, 0) for path, size in self._rows_files().items())
        return Save(pause, own, beside, grown + state, rows * self._row_bytes + state)

    def _rows_files(self) -> dict[Path, int]:
        return {path: path.stat().st_size for path in self._folder.rglob("*.rows")}


def summed(buffer: str, rows: int, saves: list[Save]) -> dict[str, Any]:
    """The medians of some saves."""
    middle = {name: statistics.median(getattr(each, name) for each in saves) for name in Save._fields}
    return {
        "buffer": buffer,
        "rows": rows,
        "pause_s": middle["pause"],
        "own_s": middle["own"],
        "longest_pause_s": max(each.pause for each in saves),
        "beside_s": middle["beside"],
        "bytes": middle["written"],
        "times_the_new": max(each.written / each.new for each in saves),
        "share": (middle["pause"] + middle["beside"]) / 60.0,
    }


def too_much(report: dict[str, Any]) -> str:
    """What is beyond its bound; the first save writes the whole replay, and may take its time."""
    if report["first"]:
        return ""
    bounds = {"own_s": MOST_PAUSE_S, "times_the_new": MOST_BYTES, "share": MOST_SHARE}
    return ", ".join(name for name, most in bounds.items() if report[name] > most)


def show(reports: list[dict[str, Any]], rows: int) -> None:
    table = Table(title=f"checkpoints of a run with a replay of {rows:,} rows")
    names = ("replay", "new rows", "pause ms", "longest", "own", "beside ms", "bytes", "of what is new", "share", "")
    for column in names:
        table.add_column(column, justify="left" if column in ("replay", "") else "right")
    for each in reports:
        times = [f"{1e3 * each[name]:,.1f}" for name in ("pause_s", "longest_pause_s", "own_s", "beside_s")]
        sizes = (f"{each['bytes']:,.0f}", f"{each['times_the_new']:.3f}", f"{each['share']:.2%}")
        said = "the first" if each["first"] else too_much(each) or "within bounds"
        table.add_row(each["buffer"], f"{each['rows']:,}", *times, *sizes, said)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    sys.exit(main())
