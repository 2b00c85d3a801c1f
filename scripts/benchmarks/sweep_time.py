"""The wall time of whole sweeps, launcher beside launcher, and of fused ones against the number of members.

    python scripts/benchmarks/sweep_time.py  # 16 seeds of DDPG, 20,000 steps: about 30 minutes
    python scripts/benchmarks/sweep_time.py --cold  # nothing compiled before, as on a new machine
    python scripts/benchmarks/sweep_time.py --steps 5000 --rounds 1             # a quicker look
    python scripts/benchmarks/sweep_time.py --members 1,4,16,64,256             # the curve, and the memory of a member

Whole commands are timed, from Python's start to its end, alternately, as other work makes a machine slower at times.
`joblib` is Hydra's own plugin (pip install hydra-joblib-launcher), with as many processes as `local` has workers.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETS = ["network.actor.hidden=[64,64]", "network.critic.hidden=[64,64]", "algo.batch_size=128", "tuned=none"]
LAUNCHERS = {
    "fused": ["hydra/launcher=fused"],
    "basic": ["hydra/launcher=basic"],
    "local": ["hydra/launcher=local", "hydra.launcher.workers={workers}"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs={workers}"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", default="fused,basic,local,joblib")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="each command begins with no compiled programs")
    parser.add_argument("--members", help="in place of launchers: fused sweeps of so many seeds")
    options = parser.parse_args()
    if options.members:
        curve([int(each) for each in options.members.split(",")], options.steps, options.cold)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    names = options.launchers.split(",")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            words = [word.format(workers=options.workers) for word in LAUNCHERS[name]]
            took, _ = timed(words, options.seeds, options.steps, options.cold)
            seconds[name].append(took)
            print(f"round {number + 1}: {name:<7} {took:7.1f} s", flush=True)
    first = names[0]
    print("each command began with no compiled programs" if options.cold else "programs compiled before were at hand")
    print(f"{options.seeds} seeds, {options.steps:,} steps; medians, and times as long as {first} (of each round)")
    for name in names:
        ratios = [own / reference for own, reference in zip(seconds[name], seconds[first], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:<7} {statistics.median(seconds[name]):7.1f} s   {statistics.median(ratios):.2f} ({spread})")


def curve(members: list[int], steps: int, cold: bool) -> None:
    print(f"{'members':>7} {'seconds':>8} {'member-steps/s':>15} {'peak MB':>8} {'MB a member more':>17}")
    before: tuple[int, float] | None = None
    for count in members:
        seconds, peak = timed(LAUNCHERS["fused"], count, steps, cold)
        each = "" if before is None else f"{(peak - before[1]) / (count - before[0]):.2f}"
        print(f"{count:7} {seconds:8.1f} {count * steps / seconds:15,.0f} {peak:8,.0f} {each:>17}", flush=True)
        before = count, peak


def timed(words: list[str], seeds: int, steps: int, cold: bool) -> tuple[float, float]:
    """Seconds of one whole command, and the most memory that one of its processes took so far, in MB."""
    folder = tempfile.mkdtemp(prefix="sweep-time-")
    command = [sys.executable, "-c", _MEASURED, "-m", "algo=ddpg", "env=pendulum", *NETS, *words]
    command += [f"seed=range(0,{seeds})", f"total_steps={steps}", f"runs_dir={folder}", "logger.console=none"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if cold:
        environment["XDG_CACHE_HOME"] = f"{folder}/cache"
    began = time.monotonic()
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - began
        runs = len(list(Path(folder).glob("20*/*/run.json")))
        if done.returncode or runs != seeds:
            raise SystemExit(f"{' '.join(words)}: {runs} runs, exit code {done.returncode}\n{done.stderr[-2000:]}")
        return seconds, int(done.stderr.rpartition("peak ")[2]) / 1e3
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_MEASURED = f"""
import resource, sys
from rlresearch.cli.main import main
code = main()
peak = max(resource.getrusage(who).ru_maxrss for who in ({resource.RUSAGE_SELF}, {resource.RUSAGE_CHILDREN}))
print("peak", peak, file=sys.stderr)
sys.exit(code)
"""

if __name__ == "__main__":
    main()
