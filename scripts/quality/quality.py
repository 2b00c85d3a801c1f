"""Does it learn as well as is published? Final evaluations of many seeds beside known scores.

    python scripts/quality/quality.py [--cases ddpg td3 sac tiny] [--seeds 10] [--runs-dir runs/quality] [--plot FILE]

Each case is one population: ten seeds in one program, each with a run directory of its own; where the environment is
not compiled, ten runs one after the other (LunarLander needs the extra `box2d`). Printed are the interquartile
mean of the seeds' final evaluations (100 episodes each, deterministic policy, Gymnasium's own environment) with
a 95 % bootstrap interval over seeds, and whether it reaches the published score. Exit code 1 where a case does not.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from rlresearch.storage.jsonl import read_rows


class Case(NamedTuple):
    """command: what is trained. published: the score to reach, its source, and the worst seed allowed.
    evaluate_every: transitions. host: trained in Gymnasium, one seed after the other, as nothing else is compiled.
    """

    command: tuple[str, ...]
    published: float
    source: str
    worst: float = -np.inf
    evaluate_every: int = 1_000
    host: bool = False


ZOO = "RL Baselines3 Zoo, one run"

CASES = {
    "ddpg": Case(("algo=ddpg", "env=pendulum"), -152.1, f"{ZOO}, 20k steps", -250.0),
    "td3": Case(("algo=td3", "env=pendulum"), -151.9, f"{ZOO}, 20k steps", -250.0),
    "sac": Case(("algo=sac", "env=pendulum"), -157.0, f"{ZOO}, 20k steps", -250.0),
    "tiny": Case(("experiment=pendulum_tiny_networks", "eval.final_episodes=10"), -250.0, "10 episodes by episode 50"),
    "ppo": Case(("algo=ppo", "env=pendulum"), -172.2, f"{ZOO}, 100k steps", evaluate_every=5_000),
    "dqn-cartpole": Case(("algo=dqn", "env=cartpole"), 500.0, f"{ZOO}, 50k steps", evaluate_every=5_000),
    "qr_dqn-cartpole": Case(("algo=qr_dqn", "env=cartpole"), 500.0, f"{ZOO}, 50k steps", evaluate_every=5_000),
    "c51-cartpole": Case(("algo=c51", "env=cartpole"), 500.0, "the largest there is, 50k steps", evaluate_every=5_000),
    "ppo-cartpole": Case(("algo=ppo", "env=cartpole"), 500.0, f"{ZOO}, 100k steps", evaluate_every=5_000),
    "dqn-mountain_car": Case(("algo=dqn", "env=mountain_car"), -100.8, f"{ZOO}, 120k steps", evaluate_every=5_000),
    "dqn-lunar_lander": Case(
        ("algo=dqn", "env=lunar_lander"), 154.4, f"{ZOO}, 100k steps", evaluate_every=10_000, host=True
    ),
    "ppo-lunar_lander": Case(
        ("algo=ppo", "env=lunar_lander"), 242.1, f"{ZOO}, 1M steps", evaluate_every=100_000, host=True
    ),
}
TINY_BY_STEP, TINY_SEEDS = 10_000, 7  # 50 episodes of 200 steps; so many of ten seeds


def main() -> int:
    """Trains, measures, prints; 0 where every case holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/quality"))
    parser.add_argument("--plot", type=Path, help="save learning curves, a panel a case")
    arguments = parser.parse_args()

    table = Table("case", "IQM", "95 % interval", "worst seed", "to reach", "holds", title=f"{arguments.seeds} seeds")
    curves, held = {}, True
    for name in arguments.cases:
        runs = trained(CASES[name], arguments.seeds, arguments.runs_dir / name)
        finals = np.array([json.loads((run / "run.json").read_text())["final_evaluation"]["mean"] for run in runs])
        curves[name] = [curve(run) for run in runs]
        if name == "tiny":
            reached = [
                max(mean for step, mean in each if step <= TINY_BY_STEP) >= CASES[name].published
                for each in curves[name]
            ]
            holds, goal = (
                sum(reached) >= TINY_SEEDS * len(runs) / 10,
                f"-250 by episode 50: {sum(reached)} of {len(runs)} seeds",
            )
        else:
            low, high = interval(finals)
            holds, goal = (
                high >= CASES[name].published and finals.min() >= CASES[name].worst,
                f"{CASES[name].published}",
            )
        held &= bool(holds)
        low, high = interval(finals)
        table.add_row(
            name,
            f"{iqm(finals):.1f}",
            f"[{low:.1f}, {high:.1f}]",
            f"{finals.min():.1f}",
            goal,
            "yes" if holds else "NO",
        )
    Console(soft_wrap=True).print(table)
    if arguments.plot:
        plot(curves, arguments.plot)
    return 0 if held else 1


def trained(case: Case, seeds: int, folder: Path) -> list[Path]:
    """The run directories of all seeds, by seed."""
    before = set(folder.glob("*/*"))
    many = ["-m", f"seed=range({seeds})"] if case.host else ["runner=population", f"runner.seeds={seeds}"]
    command = [sys.executable, "-m", "rlresearch", *case.command, *many]
    command += [f"runs_dir={folder}", f"eval.every_steps={case.evaluate_every}", "logger.console=plain"]
    subprocess.run(command, check=True)
    runs = [run for run in set(folder.glob("*/*")) - before if (run / "run.json").exists()]
    return sorted(runs, key=lambda run: json.loads((run / "run.json").read_text())["seed"])


def curve(run: Path) -> list[tuple[int, float]]:
    """(step, mean return) of every evaluation."""
    return [(row["step"], float(np.mean(row["returns"]))) for row in read_rows(run / "evaluations.jsonl")]


def iqm(values: np.ndarray) -> float:
    """The mean of the middle half (Agarwal et al. 2021)."""
    return float(stats.trim_mean(values, 0.25))


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap over seeds."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(stats.trim_mean(drawn, 0.25, axis=1), [2.5, 97.5])
    return float(low), float(high)


def plot(curves: dict[str, list[list[tuple[int, float]]]], file: Path) -> None:
    """Every seed's evaluations, thin, and their interquartile mean, thick."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(curves), figsize=(4.5 * len(curves), 3.2), squeeze=False, layout="constrained")
    for panel, (name, runs) in zip(panels[0], curves.items(), strict=True):
        steps = [step for step, _ in runs[0]]
        means = np.array([[mean for _, mean in run] for run in runs])
        panel.plot(steps, means.T, color="tab:blue", alpha=0.25, linewidth=0.8)
        panel.plot(steps, stats.trim_mean(means, 0.25, axis=0), color="tab:blue", linewidth=2, label="IQM")
        panel.axhline(CASES[name].published, color="tab:gray", linestyle="--", linewidth=1, label=CASES[name].source)
        panel.set(title=f"{' '.join(CASES[name].command)}\n{len(runs)} seeds", xlabel="environment steps")
        panel.title.set_fontsize(8)
        panel.legend(fontsize=7, loc="lower right")
    panels[0][0].set_ylabel("evaluation return")
    figure.savefig(file, dpi=130)


if __name__ == "__main__":
    sys.exit(main())
