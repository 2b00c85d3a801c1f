"""What `deterministic=true` costs: speed with it beside speed without it, in turn.

    python scripts/deterministic_cost.py                  five rounds of every case
    python scripts/deterministic_cost.py --rounds 3 --only device host

TensorFlow's switch holds for a whole process, so every run has one of its own. Speed is that of the fastest row of
metrics.jsonl, of some tens of milliseconds in which no other program may have disturbed it, without compilation and
evaluation; the ratio is taken within rounds.
On a CPU two runs with the same seed are equal without the switch as well, see `tests/test_determinism.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
for each in (ROOT, ROOT / "scripts"):
    if str(each) not in sys.path:
        sys.path.insert(0, str(each))

from kill_test import PRELOAD, life  # noqa: E402
from planted_bugs import FORKS, start_forking  # noqa: E402

QUIET = ["device=cpu", "logger.console=none", "eval=final", "eval.final_episodes=1", "checkpoint=none"]
CASES = {
    "device": ["algo=ddpg", "total_steps=20000", "logger.every_steps=250"],
    "host": ["algo=ddpg", "runner=host", "total_steps=5000", "logger.every_steps=50"],
    "population": ["algo=ddpg", "runner=population", "runner.seeds=8", "total_steps=8000", "logger.every_steps=50"],
    "rollouts": ["algo=ppo", "env=cartpole", "total_steps=200000", "logger.every_steps=2048"],
}


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory(prefix="deterministic_cost_") as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        start_forking(PRELOAD)
        for round_ in range(options.rounds):
            for name in options.only:
                pair = {}
                for value in sorted(("false", "true"), reverse=bool(round_ % 2)):
                    pair[value] = speed(name, value, Path(folder) / f"{name}_{round_}_{value}")
                speeds[name].append((pair["false"], pair["true"]))
                print(f"{name}, round {round_ + 1}: {pair['false']:,.0f} without, {pair['true']:,.0f} with", flush=True)
    show(speeds)
    return 0


def speed(name: str, deterministic: str, folder: Path) -> float:
    """Steps per second of one run."""
    from rlresearch.rundir import read_rows

    command = [*CASES[name], *QUIET, f"deterministic={deterministic}", f"runs_dir={folder}"]
    child = FORKS.Process(target=life, args=[command, None, f"{folder}.log"])
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(Path(f"{folder}.log").read_text())
    (rows,) = folder.glob("*/*_s0_*/metrics.jsonl")
    every = [row["speed/steps_per_second"] for row in read_rows(rows)]
    return max(every[len(every) // 2 :])


def show(speeds: dict[str, list[tuple[float, float]]]) -> None:
    table = Table(title="environment steps per second, medians")
    for column in ("case", "without", "with", "with / without", "of the rounds"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, pairs in speeds.items():
        without, with_it = (f"{statistics.median(column):,.0f}" for column in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.add_row(name, without, with_it, f"{statistics.median(ratios):.2f}", spread)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
