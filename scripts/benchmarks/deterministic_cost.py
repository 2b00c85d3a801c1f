"""What `deterministic=true` costs: the processor's time for a step with it, beside that without it, in turn.

    python scripts/benchmarks/deterministic_cost.py                  five rounds of every case
    python scripts/benchmarks/deterministic_cost.py --rounds 3 --only device host

TensorFlow's switch holds for a whole process, so each measurement has one of its own. Time is the process' own, of all
its threads, so that other programs matter little: the median of some calls, after the program is compiled and learning.
On a CPU two runs with the same seed are equal without the switch as well, see `tests/training/test_determinism.py`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
for each in (ROOT, ROOT / "scripts" / "reliability"):
    if str(each) not in sys.path:
        sys.path.insert(0, str(each))

from kill_test import PRELOAD  # noqa: E402
from planted_bugs import FORKS, start_forking  # noqa: E402

# For each case the command, and how many iterations a call has.
CASES = {
    "device": (["algo=ddpg"], 1_000),
    "host": (["algo=ddpg", "runner=host"], 250),
    "population": (["algo=ddpg", "runner=population", "runner.seeds=8"], 200),
    "rollouts": (["algo=ppo", "env=cartpole"], 2_000),
}
CALLS = 15


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    with tempfile.TemporaryDirectory(prefix="deterministic_cost_") as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        start_forking([*PRELOAD, "deterministic_cost"])
        for round_ in range(options.rounds):
            for name in options.only:
                pair = {value: forked(name, value) for value in sorted((False, True), reverse=bool(round_ % 2))}
                times[name].append((pair[False], pair[True]))
                print(f"{name}, round {round_ + 1}: {told(pair[False])} without, {told(pair[True])} with", flush=True)
    show(times)
    return 0


def forked(name: str, deterministic: bool) -> float:
    """Seconds of the processor for one iteration."""
    ours, theirs = FORKS.Pipe(duplex=False)
    child = FORKS.Process(target=measured, args=[name, deterministic, theirs])
    child.start()
    theirs.close()
    seconds = ours.recv()
    child.join()
    return seconds


def measured(name: str, deterministic: bool, pipe: Connection) -> None:
    """What a process does."""
    from rlresearch.config.compose import compose
    from rlresearch.runtime import devices
    from rlresearch.training.experiment import plan

    command, iterations = CASES[name]
    made = plan(compose(command).config)
    devices.prepare("cpu", None, deterministic, True)
    runner = made.runner.start(made.trainer, made.task, 0)
    runner.advance(runner.learning_start_iteration + 1, True)
    runner.advance(iterations, False)
    seconds = []
    for _ in range(CALLS):
        began = time.process_time()
        runner.advance(iterations, False)
        seconds.append((time.process_time() - began) / iterations)
    pipe.send(statistics.median(seconds))
    os._exit(0)  # a forked copy of TensorFlow need not be taken down in good order


def told(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us"


def show(times: dict[str, list[tuple[float, float]]]) -> None:
    table = Table(title="processor time of one iteration, medians")
    for column in ("case", "without", "with", "with / without", "of the rounds"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, pairs in times.items():
        without, with_it = (told(statistics.median(column)) for column in zip(*pairs, strict=True))
        ratios = sorted(b / a for a, b in pairs)
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        table.add_row(name, without, with_it, f"{statistics.median(ratios):.2f}", spread)
    Console().print(table)


if __name__ == "__main__":
    import deterministic_cost  # what is forked must find its functions there by name

    sys.exit(deterministic_cost.main())
