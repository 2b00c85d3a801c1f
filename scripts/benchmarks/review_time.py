"""How long does reading runs take, from ten runs to ten thousand, and of one run of ten million rows?

    python scripts/benchmarks/review_time.py [--runs 10 100 1000 10000] [--rows 1000] [--long 10000000] [--folder DIR]

Makes run directories as training leaves them, without the training: half DDPG, half TD3, four learning rates, twenty
evaluations each, rows that are noise around a learning curve. Then times commands, each in a process of its own, from
its start to its end: seconds on the wall, and in brackets those of all processors, which other programs do not change.
The page is timed in Chromium (with playwright, from `pip install '.[browser]'`), once `serve` has read the runs, from
its address to the rows of its table and to its first curves. FOLDER is kept; without it the runs go to a temporary
folder (2.6 GB for ten thousand, as much for the long one).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import yaml
from rich.console import Console
from rich.table import Table

from rlresearch.config.compose import compose
from rlresearch.storage.run_directory import RunDirectory, timestamp

METRICS = ("train/return", "train/length", "train/episodes", "loss/critic", "loss/actor", "value/q")
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
EVALUATIONS, EPISODES, VARIANTS = 20, 10, 50
COMMANDS = {
    "first `ls`": ["ls"],
    "`ls` with a filter": ["ls", "algo=ddpg", "final>-150"],
    "`compare`": ["compare"],
    "first `plot` of a metric": ["plot", "--metric", "loss/critic"],
    "`plot` of a metric": ["plot", "--metric", "loss/critic"],
    "`compare` of a metric at a step": ["compare", "--metric", "train/return", "--at", "500000"],
}


def main() -> int:
    """Makes, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="*", default=[10, 100, 1_000, 10_000])
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--long", type=int, default=10_000_000, metavar="ROWS", help="of a single run; 0 for none")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    table = Table("", *(f"{count:,} runs" for count in arguments.runs), title="seconds (of the processors)")
    with tempfile.TemporaryDirectory() as temporary:
        measured = []
        for count in arguments.runs:
            folder = (arguments.folder or Path(temporary)) / str(count)
            if not folder.exists():
                make(folder, count, arguments.rows)
            measured.append(measure(folder, Path(temporary) / f"cache{count}"))
        for name in measured[0] if measured else ():
            table.add_row(name, *(each[name] for each in measured))
        Console(soft_wrap=True).print(table)
        if arguments.long:
            folder = (arguments.folder or Path(temporary)) / f"long{arguments.long}"
            if not folder.exists():
                make(folder, 1, 1_000)
                lengthen(folder, arguments.long)
            told = long_run(folder, Path(temporary) / "cachelong")
            print(f"`plot` of one run of {arguments.long:,} rows: {told}")
    return 0


def measure(folder: Path, cache: Path) -> dict[str, str]:
    """Each command's time by its name. The first finds no cache."""
    times = {name: timed(words, folder, cache)[0] for name, words in COMMANDS.items()}
    return times | page(folder, cache)


def timed(words: Sequence[str], folder: Path, cache: Path) -> tuple[str, float]:
    """A command's seconds, and the most memory that one of its processes had, in GiB."""
    command = _command(words, folder) + (["-o", str(cache.with_suffix(".png"))] if words[0] == "plot" else [])
    started = time.perf_counter()
    process = subprocess.Popen(command, env=_environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    seconds = time.perf_counter() - started
    return f"{seconds:.1f} ({used.ru_utime + used.ru_stime:.1f})", used.ru_maxrss / 2**20


def long_run(folder: Path, cache: Path) -> str:
    """Seconds and memory of its plot, which is the first time that anything reads it."""
    seconds, memory = timed(["plot", "--metric", "loss/critic"], folder, cache)
    return f"{seconds} s, {memory:.2f} GiB"


def page(folder: Path, cache: Path) -> dict[str, str]:
    """How soon the page of `serve` shows its table and its first curves; no figure without Chromium and playwright."""
    names = "page: table", "page: curves"
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or importlib.util.find_spec("playwright") is None:
        return dict.fromkeys(names, "-")
    from playwright.sync_api import sync_playwright

    serve = subprocess.Popen(_command(["serve"], folder), env=_environment(cache), stdout=subprocess.PIPE, text=True)
    try:
        address = serve.stdout.readline().strip()
        with sync_playwright() as started:
            flags = ["--headless=new", "--no-sandbox", "--disable-gpu"]
            browser = started.chromium.launch(executable_path=chromium, args=flags)
            context = browser.new_context()
            first = context.new_page()  # waits until the runs are read
            first.goto(address)
            first.wait_for_selector("#panels .main-svg", timeout=120_000)
            first.close()
            looked, times = context.new_page(), []
            began = time.perf_counter()
            looked.goto(address, wait_until="commit")
            for place in ("#table tbody tr", "#panels .main-svg"):
                looked.wait_for_selector(place, timeout=120_000)
                times.append(f"{time.perf_counter() - began:.1f}")
            browser.close()
    finally:
        serve.terminate()
        serve.wait()
    return dict(zip(names, times))


def _command(words: Sequence[str], folder: Path) -> list[str]:
    return [sys.executable, "-m", "rlresearch.review", *words, "--runs-dir", str(folder)]


def _environment(cache: Path) -> dict[str, str]:
    return os.environ | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}


def make(folder: Path, runs: int, rows: int) -> None:
    """So many run directories of so many rows."""
    configs = {algo: compose([f"algo={algo}", f"runs_dir={folder}"]).config for algo in ("ddpg", "td3")}
    template = record_template(folder)
    files = [metrics_file(rows, seed) for seed in range(VARIANTS)]
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(runs):
        write(folder, number, configs, template, files[number % VARIANTS], start + timedelta(minutes=number))


def lengthen(folder: Path, rows: int) -> None:
    """Writes the only run's rows again, so many of them."""
    (file,) = folder.glob("*/*/metrics.jsonl")
    block = 100_000
    with open(file, "wb") as long:
        for first in range(0, rows, block):
            long.write(metrics_file(min(block, rows - first), seed=0, first=first))


def record_template(folder: Path) -> dict:
    """A run.json as the package writes it."""
    with RunDirectory.create(folder, "made", "pendulum", 0) as made:
        record = made.recorded()
    shutil.rmtree(made.path.parent)
    return record


def metrics_file(rows: int, seed: int, first: int = 0) -> bytes:
    """So many rows of six metrics, with as many digits as real ones have; `first` were before them."""
    draw = np.random.default_rng(seed + first).normal(size=(rows, len(METRICS)))
    lines = []
    for row in range(rows):
        named = dict(zip(METRICS, (draw[row] + first + row).tolist()))
        when = {"step": 1000 * (first + row + 1), "time": (first + row) / 4}
        lines.append({**when, **named, "speed/steps_per_second": 4000.0})
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


def write(folder: Path, number: int, configs: dict, template: dict, rows: bytes, when: datetime) -> None:
    """Run number `number`, of an algorithm, learning rate and seed of its own."""
    algo, rate, seed = ("ddpg", "td3")[number % 2], RATES[number // 2 % 4], number // 8
    draw = np.random.default_rng(number)
    means = -1500 + 1350 * (1 - np.exp(-np.arange(1, EVALUATIONS + 1) / 5)) + draw.normal(0, 40, EVALUATIONS)
    path = folder / f"{when:%Y-%m-%d}" / f"{when:%H%M%S}_{algo}_pendulum_s{seed}_{number:06x}"
    path.mkdir(parents=True)
    config = configs[algo] | {"seed": seed, "optimizer": configs[algo]["optimizer"] | {"lr": rate}}
    (path / "config.yaml").write_text(yaml.dump(config, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    (path / "metrics.jsonl").write_bytes(rows)
    lines = []
    for at, mean in enumerate(means, start=1):
        returns = (mean + draw.normal(0, 80, EPISODES)).tolist()
        lines.append({"step": 50_000 * at, "time": 12.5 * at, "returns": returns, "lengths": [200] * EPISODES})
    (path / "evaluations.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    (path / "log.txt").write_text("")
    final = np.asarray(lines[-1]["returns"])
    record = template | {
        **{"status": "finished", "algo": algo, "seed": seed, "started_at": timestamp(when), "device": "cpu"},
        **{"finished_at": timestamp(when + timedelta(seconds=250)), "wall_time_s": 250.0, "training_time_s": 240.0},
        **{"total_steps": 1_000_000, "steps_per_second": 4166.7},
        "final_evaluation": {
            **{"step": 1_000_000, "mean": final.mean(), "std": final.std(), "episodes": EPISODES},
            "mean_length": 200.0,
        },
    }
    (path / "run.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
