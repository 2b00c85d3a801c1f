"""Makes run directories in numbers, to measure how reading them grows: what a run leaves behind, without the training.

    python scripts/many_runs.py FOLDER [--runs 10000] [--rows 1000]

Half DDPG, half TD3, four learning rates, twenty evaluations each; the rows are noise around a learning curve.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import yaml

from rlresearch.compose import compose
from rlresearch.rundir import RunDirectory, timestamp

METRICS = ("train/return", "train/length", "train/episodes", "loss/critic", "loss/actor", "value/q")
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
EVALUATIONS, EPISODES, VARIANTS = 20, 10, 50


def main() -> int:
    """Writes them; 1 where the folder has anything in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000)
    arguments = parser.parse_args()
    if arguments.folder.exists() and any(arguments.folder.iterdir()):
        print(f"{arguments.folder} is not empty", file=sys.stderr)
        return 1
    configs = {algo: compose([f"algo={algo}", f"runs_dir={arguments.folder}"]).config for algo in ("ddpg", "td3")}
    template = record_template(arguments.folder)
    rows = [metrics_file(arguments.rows, seed) for seed in range(VARIANTS)]
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(arguments.runs):
        write(arguments.folder, number, configs, template, rows[number % VARIANTS], start + timedelta(minutes=number))
    return 0


def record_template(folder: Path) -> dict:
    """A run.json as the package writes it."""
    with RunDirectory.create(folder, "made", "pendulum", 0) as made:
        record = made.recorded()
    shutil.rmtree(made.path.parent)
    return record


def metrics_file(rows: int, seed: int) -> bytes:
    """So many rows of six metrics, with as many digits as real ones have."""
    draw = np.random.default_rng(seed).normal(size=(rows, len(METRICS)))
    lines = []
    for row in range(rows):
        named = dict(zip(METRICS, (draw[row] + row).tolist()))
        lines.append({"step": 1000 * (row + 1), "time": row / 4, **named, "speed/steps_per_second": 4000.0})
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
