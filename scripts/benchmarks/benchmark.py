"""Compares the speed of rlresearch with Stable-Baselines3, sbx and compiled JAX loops, all in one run.

    python scripts/benchmarks/benchmark.py                                  every case, about 55 minutes on two cores
    python scripts/benchmarks/benchmark.py --cases device-64 --rounds 3     one case, about 6 minutes
    python scripts/benchmarks/benchmark.py --list

The tasks are DDPG on Pendulum-v1, PPO on CartPole-v1 and DQN on CartPole-v1, on the CPU; `peers/work.py` holds
their settings, which all sides read. The figure is environment steps per second once learning has started and
everything is compiled, with what is learned from those steps.

Machines are noisy and differ, so figures from two runs say little. Therefore:

- every measurement is a process of its own, started with the same cleaned environment, nothing beside it;
- the sides take turns within each round, starting with another one in each, so that a slow minute falls on all of them;
- a ratio is taken within a round, and its median over the rounds is what counts against the target;
- each side, ours too, gets the thread count that was fastest for it in a short calibration before the rounds.

The peers live in an environment of their own, since their versions are no business of ours: it is built on first use in
the user's cache folder with exactly the versions of `PEERS`. Where pip offers only a build of torch with CUDA, point
pip's own settings (such as PIP_FIND_LINKS) at a CPU build first, or pass an environment with `--peers-env`.

To add a case, add a line to `CASES` in `benchmark_cases.py`; a new kind of work is described in `peers/work.py`
and done by each side's script there, which takes `--seconds` and `--threads` and ends its output with one line of JSON
(`rlresearch_loop.py` says what is in it).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import venv
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from benchmark_cases import CASES, Case, Side
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).resolve().parent / "peers"

PEERS = (
    "torch==2.13.0",
    "stable-baselines3==2.9.2",
    "sbx-rl==0.28.0",
    "tfp-nightly==0.26.0.dev20261027",
    "jax==0.10.2",
    "jaxlib==0.10.2",
    "flax==0.12.8",
    "optax==0.2.8",
    "gymnasium==1.4.0",
    "numpy==2.4.6",
)
"""What pip installs into the peers' environment, in one resolution; torch comes first, alone (see `build_peers`)."""

SETTINGS_OF_OTHERS = (
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NPROC",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "PJRT_NPROC",
    "PYTHONHOME",
    "PYTHONPATH",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
"""Variables that would change the speed of one side and not another, so that no process inherits them."""


class MeasurementError(Exception):
    """A side did not end with a figure; the message is its last line."""


@dataclass
class Figures:
    """What was measured of one side."""

    by_threads: dict[int, float] = field(default_factory=dict)
    """Calibration: the better of the tries with each thread count, steps/s."""
    threads: int = 0
    """The count that the rounds use."""
    rounds: dict[int, dict] = field(default_factory=dict)
    """The JSON line of each round."""
    failure: str = ""
    """Why there are no (more) figures, or nothing."""

    def rate(self, number: int) -> float:
        return self.rounds[number]["steps_per_second"]

    @property
    def rates(self) -> list[float]:
        return [self.rate(number) for number in sorted(self.rounds)]

    def ratios_to(self, other: "Figures") -> list[float]:
        """This side's speed over the other's, for each round that both finished."""
        return [self.rate(number) / other.rate(number) for number in sorted(self.rounds.keys() & other.rounds.keys())]


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "rlresearch" / "peers"


def interpreter(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def build_peers(folder: Path, console: Console) -> None:
    """Makes the peers' environment in `folder`, unless it is there with these very pins.

    The pins are written last, so that a build that was broken off is begun again. torch is installed by itself first:
    other packages ask for any torch, and pip would then be free to take the newest with gigabytes of CUDA.
    """
    record = folder / "pins.txt"
    pins = "\n".join(PEERS) + "\n"
    if record.is_file() and record.read_text() == pins:
        return
    console.print(f"Building the peers' environment in {folder} (once, a minute or more, about 2 GB) ...")
    venv.EnvBuilder(clear=True, with_pip=True).create(folder)
    pip = (str(interpreter(folder)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    for packages in (PEERS[:1], PEERS):
        if subprocess.run((*pip, *packages), check=False).returncode:
            raise SystemExit(f"The peers' environment could not be built (pip's message stands above): {folder}")
    record.write_text(pins)


def run_once(side: Side, threads: int, seconds: float, peers_python: Path) -> dict:
    """One measurement in a process of its own: its JSON line, or MeasurementError with its last words."""
    environment = {name: value for name, value in os.environ.items() if name not in SETTINGS_OF_OTHERS}
    # All on the CPU: the peers' environment has no CUDA, and one side on a GPU would be no comparison.
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if side.ours:
        environment["PYTHONPATH"] = str(ROOT)
    command = [sys.executable if side.ours else str(peers_python), str(SCRIPTS / side.script), *side.arguments]
    command += ["--seconds", str(seconds), "--threads", str(threads)]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120 + 10 * seconds,  # a JAX loop that is mapped may stand still for ever with two threads
        )
    except subprocess.TimeoutExpired as late:
        raise MeasurementError(f"no figure after {late.timeout:.0f} s") from late
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise MeasurementError(words[-1])
    try:
        figure = json.loads(lines[-1])
        figure["steps_per_second"] = float(figure["steps_per_second"])
    except (KeyError, TypeError, ValueError) as unread:
        raise MeasurementError(f"its last line is not the expected JSON: {lines[-1][:200]}") from unread
    return figure


def thread_counts() -> list[int]:
    """What calibration tries: one thread, two, and all of the machine's."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({1, min(2, cores), cores})


def calibrate(figures: dict[Side, Figures], seconds: float, peers_python: Path, console: Console) -> None:
    """Chooses each side's thread count: the fastest single try, since noise only ever slows one down.

    Two passes over all sides, so that one busy moment does not decide. A count that fails once is out; a side fails
    when none is left.
    """
    counts = thread_counts()
    left = {side: list(counts) for side, figure in figures.items() if not figure.failure}
    for _ in range(2 if len(counts) > 1 else 1):
        for side, figure in figures.items():
            words = f"  {side.label} {' '.join(side.arguments)}:"
            for threads in list(left.get(side, ())):
                try:
                    rate = run_once(side, threads, seconds, peers_python)["steps_per_second"]
                except MeasurementError as error:
                    left[side].remove(threads)
                    figure.by_threads.pop(threads, None)
                    figure.failure = "" if left[side] else str(error)
                    console.print(f"{words} with {threads} threads: {error}", style="red", markup=False)
                else:
                    figure.by_threads[threads] = max(rate, figure.by_threads.get(threads, 0.0))
            tried = ", ".join(f"{threads}: {rate:,.0f}" for threads, rate in figure.by_threads.items())
            if not figure.failure:
                console.print(f"{words} steps/s by threads {tried}", markup=False)
    for figure in figures.values():
        if not figure.failure:
            figure.threads = max(figure.by_threads, key=figure.by_threads.__getitem__)


def play_rounds(
    figures: dict[Side, Figures], rounds: int, seconds: float, peers_python: Path, console: Console
) -> None:
    sides = list(figures)
    for number in range(rounds):
        console.print(f"Round {number + 1} of {rounds}")
        first = number % len(sides)
        for side in sides[first:] + sides[:first]:
            figure = figures[side]
            if figure.failure:
                continue
            try:
                figure.rounds[number] = run_once(side, figure.threads, seconds, peers_python)
            except MeasurementError as error:
                figure.failure = str(error)
                console.print(f"  {side.label} {' '.join(side.arguments)}: {error}", style="red", markup=False)
            else:
                console.print(
                    f"  {side.label} {' '.join(side.arguments)}: {figure.rate(number):,.0f} steps/s", markup=False
                )


def verdict(ratios: list[float], target: float) -> str:
    if not ratios:
        return "not measured"
    return "pass" if statistics.median(ratios) >= target else "MISS"


def spread(numbers: Iterable[float], form: str) -> str:
    numbers = list(numbers)
    return f"{min(numbers):{form}} - {max(numbers):{form}}" if numbers else ""


def show(case: Case, figures: dict[Side, Figures], console: Console) -> None:
    table = Table(title=f"{case.name}: {case.work}", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("side", no_wrap=True)
    for heading in ("threads", "steps/s", "min - max", "ours / it", "min - max", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    ours, failures = figures[case.ours], []
    for side in (case.ours, *case.targets):
        figure = figures[side]
        if figure.failure:
            failures.append(f"  {side.label}, after {len(figure.rounds)} rounds: {figure.failure}")
        cells = [side.label]
        if figure.rates:
            median = statistics.median(figure.rates)
            cells += [str(figure.threads), f"{median:,.0f}", spread(figure.rates, ",.0f")]
        else:
            cells += [""] * 3
        if side != case.ours:
            ratios = ours.ratios_to(figure)
            result = verdict(ratios, case.targets[side])
            middle = f"{statistics.median(ratios):.2f}" if ratios else ""
            style = {"pass": "green", "MISS": "bold red"}.get(result, "dim")
            cells += [middle, spread(ratios, ".2f"), f">= {case.targets[side]:g}", Text(result, style)]
        table.add_row(*cells)
    console.print(table)
    for failure in failures:
        console.print(failure, style="red", markup=False)


def processor() -> str:
    """The CPU's name, as well as the system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load() -> float | None:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def report(cases: list[Case], figures: dict[Side, Figures], machine: dict) -> dict:
    """Everything that was measured, for `--json`."""

    def entry(case: Case, side: Side) -> dict:
        figure = figures[side]
        out = {
            "side": side.label,
            "script": side.script,
            "arguments": list(side.arguments),
            "threads": figure.threads,
            "calibration": figure.by_threads,
            "rounds": [figure.rounds[number] for number in sorted(figure.rounds)],
            "median_steps_per_second": statistics.median(figure.rates) if figure.rates else None,
            "failure": figure.failure or None,
        }
        if side != case.ours:
            ratios = figures[case.ours].ratios_to(figure)
            out |= {"ratios": ratios, "median_ratio": statistics.median(ratios) if ratios else None}
            out |= {"target": case.targets[side], "verdict": verdict(ratios, case.targets[side])}
        return out

    return {
        "machine": machine,
        "pins": list(PEERS),
        "cases": [
            {"case": case.name, "work": case.work, "sides": [entry(case, side) for side in (case.ours, *case.targets)]}
            for case in cases
        ],
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names, metavar="CASE", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side")
    parser.add_argument("--seconds", type=float, default=10.0, help="about how long each measurement is timed")
    parser.add_argument("--threads", type=int, help="use this count for all sides and skip calibration")
    parser.add_argument("--json", type=Path, help="also write everything that was measured to this file")
    parser.add_argument(
        "--peers-env", type=Path, help="a virtual environment to use as it is, instead of the built one"
    )
    parser.add_argument("--peers-only", action="store_true", help="leave our side out")
    parser.add_argument("--list", action="store_true", help="name the cases and stop")
    options = parser.parse_args()
    if options.rounds < 1 or options.seconds <= 0 or (options.threads is not None and options.threads < 1):
        parser.error("--rounds, --seconds and --threads must be positive")
    return options


def main() -> int:
    """Returns 1 if any side failed to give a figure; a missed target is a result, not a failure."""
    options = arguments()
    console = Console()
    # The tables need this much; a terminal that is narrower wraps lines, which reads better than cut figures.
    console.width = max(console.width, 110)
    if options.list:
        for case in CASES:
            console.print(f"{case.name}: {case.work}", markup=False)
        return 0
    peers_environment = options.peers_env
    if peers_environment is None:
        peers_environment = cache_folder()
        build_peers(peers_environment, console)
    peers_python = interpreter(peers_environment)
    if not peers_python.is_file():
        raise SystemExit(f"--peers-env {peers_environment}: no {peers_python}; name a virtual environment's folder.")

    cases = [case for case in CASES if case.name in options.cases]
    figures = {side: Figures() for case in cases for side in (case.ours, *case.targets)}
    if options.peers_only:
        for side, figure in figures.items():
            if side.ours:
                figure.failure = "left out"
    machine = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "cores": max(thread_counts()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "load_before": load(),
    }
    if options.threads:
        for figure in figures.values():
            figure.threads = options.threads
    else:
        console.print("Calibrating thread counts")
        calibrate(figures, min(2.0, options.seconds), peers_python, console)
    play_rounds(figures, options.rounds, options.seconds, peers_python, console)
    machine["load_after"] = load()

    versions = {}
    for figure in figures.values():
        for line in figure.rounds.values():
            versions |= line.get("versions", {})
    machine["versions"] = dict(sorted(versions.items()))
    for case in cases:
        show(case, figures, console)
    console.print(
        f"{machine['processor']}, {machine['cores']} cores, load {machine['load_before']} before and "
        f"{machine['load_after']} after; {machine['system']}, Python {machine['python']}; "
        f"{options.rounds} rounds of about {options.seconds:g} s; "
        f"{', '.join(f'{name} {version}' for name, version in machine['versions'].items())}",
        markup=False,
        highlight=False,
    )
    if options.json:
        options.json.write_text(json.dumps(report(cases, figures, machine), indent=2) + "\n")
    return int(any(figure.failure and not (side.ours and options.peers_only) for side, figure in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
