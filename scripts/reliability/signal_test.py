"""Tells training to stop, with every signal in every phase, and looks at what it leaves.

    python scripts/reliability/signal_test.py  SIGTERM, SIGINT and SIGUSR1 in eight phases, ten times each
    python scripts/reliability/signal_test.py --times 1 --phases compiling saving
    python scripts/reliability/signal_test.py --json

The phases are composing, importing (TensorFlow), compiling, silent (filling the replay), training, evaluating, saving
and ending (of the first of two jobs). In the first five the signal comes from outside, at a random moment of the phase;
in the others the process sends it to itself, at a random call of the policy or a random call that changes the disk.
Each time the process must end within 5 s (where there is more work than cores, as many times longer), with a code that
tells the signal (128 + its number, or by the signal itself while there is nothing to tell), leave no other process, no
error and no traceback, and say in run.json what happened. Where it was learning there must be a checkpoint of the very
step that run.json names; for each signal and phase the last one is gone on with, and must end in the state of a run
that nobody stopped.

Exit code 0 where all that is so, 1 where it is not.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
for folder in (ROOT, ROOT / "scripts" / "reliability"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from kill_test import PRELOAD, of_session  # noqa: E402
from planted_bugs import FORKS, start_forking  # noqa: E402

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")
SMALL = ["algo=dqn", "env=cartpole", "network.q.hidden=[8]", "optimizer=sgd", "algo.batch_size=8", "tuned=none"]
SMALL += ["device=cpu", "logger.console=none", "buffer.capacity=2000", "eval.final_episodes=4"]
SHORT = [*SMALL, "algo.learning_starts=500", "total_steps=4000", "eval.every_steps=1000", "eval.episodes=4"]
SHORT += ["checkpoint.every_steps=400"]
LONG = [*SMALL, "algo.learning_starts=500", "total_steps=60000", "eval=final", "eval.final_episodes=4"]
SILENT = [*LONG[:-4], "algo.learning_starts=1000000", "total_steps=1000500", "eval=final", "eval.final_episodes=4"]
# For each phase the command, and for how many seconds of it a signal may come.
PHASES = {
    "composing": (LONG, 0.4),
    "importing": (LONG, 2.0),
    "compiling": ([*LONG, "compile_cache=false"], 1.5),
    "silent": ([*SILENT, "logger.every_steps=250000"], 0.5),
    "training": (LONG, 0.4),
    "evaluating": (SHORT, None),
    "saving": (SHORT, None),
    "ending": (["-m", "seed=0,1", *SHORT], None),
}
ADVANCING = {"compiling": (0, 1), "silent": (1, 1_000_000), "training": (550, 60_000)}  # from and to which iteration
CALLS = {"evaluating": 20, "saving": 60, "ending": 4}  # of the policy, or changing the disk: at which of so many
EXACT = ("silent", "training", "evaluating", "saving")  # phases after which there is something to go on from
FRESH = ("composing", "importing")  # for which a forked process would be too old
MOST_SECONDS, LONGEST_LIFE_S, MISSES = 5.0, 600.0, 6


class Outcome(NamedTuple):
    """One process that was told to stop. seconds: from the signal to its end; in_phase: whether it came in time."""

    code: int
    seconds: float
    in_phase: bool
    orphans: list[int]
    said: str


# What a process does.


class Pipe:
    """Where a process tells what it is at: `b` and `e`, the phase begins and ends; `k`, it signals itself now."""

    def __init__(self, path: str, number: int) -> None:
        self._file, self._number = os.open(path, os.O_WRONLY), number

    def begins(self) -> None:
        os.write(self._file, b"b")

    def ends(self) -> None:
        os.write(self._file, b"e")

    def kill(self) -> None:
        os.write(self._file, b"bk")
        os.kill(os.getpid(), self._number)


def fresh(command: list[str], phase: str, pipe: str) -> None:
    """In a process of its own, from a moment at which nothing is loaded."""
    from rlresearch.cli import main as __main__
    from rlresearch.runtime import devices

    pipe = Pipe(pipe, 0)
    if phase == "importing":
        around(devices, "prepare", pipe.begins, pipe.ends)
    else:
        pipe.begins()
        around(devices, "prepare", pipe.ends)
    sys.exit(__main__.main(command))


def forked(command: list[str], phase: str | None, number: int, at: int, pipe: str, log: str) -> None:
    """In a process that has TensorFlow already. at: for phases in which it signals itself, at which call."""
    from rlresearch.cli.main import main

    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if phase is not None:
        prepare(phase, at, Pipe(pipe, number))
    sys.argv = ["rlresearch"]
    code = main(command)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def prepare(phase: str, at: int, pipe: Pipe) -> None:
    """Has the phase announced, or the signal sent in it."""
    from rlresearch.runners.device import DeviceRunner
    from rlresearch.storage.checkpoint import Writer
    from rlresearch.training.outcome import RunRecorder

    if phase in ADVANCING:
        announce_advance(DeviceRunner, *ADVANCING[phase], pipe)
    elif phase == "evaluating":
        around(DeviceRunner, "policy", once_at(at, pipe.kill))
    elif phase == "saving":
        within(Writer, "save", once_at(at, pipe.kill))
    elif phase == "ending":
        within(RunRecorder, "finish", once_at(at, pipe.kill))


def around(owner: Any, name: str, before: Callable[[], Any], after: Callable[[], Any] = lambda: None) -> None:
    """Something happens before every call of a function, and after it."""
    real = getattr(owner, name)

    def call(*arguments: Any, **more: Any) -> Any:
        before()
        try:
            return real(*arguments, **more)
        finally:
            after()

    setattr(owner, name, call)


def once_at(at: int, happens: Callable[[], None]) -> Callable[[], None]:
    """`happens` with the call of that number, from 0, and never again."""
    calls = itertools.count()
    return lambda: happens() if next(calls) == at else None


def announce_advance(runner: type, begin: int, end: int, pipe: Pipe) -> None:
    """The phase begins with the first call of `advance` from iteration `begin` on, and ends with the one to `end`."""
    real, told = runner.advance, []

    def advance(self: Any, iterations: int, fresh: bool) -> None:
        if self.iteration >= begin and not told:
            told.append(pipe.begins())
        real(self, iterations, fresh)
        if told and self.iteration >= end:
            pipe.ends()

    runner.advance = advance


def within(owner: Any, name: str, happens: Callable[[], None]) -> None:
    """Something happens before every call that changes the disk, made within a function by the same thread."""
    here = threading.local()

    def enter() -> None:
        here.inside = True

    def leave() -> None:
        here.inside = False

    around(owner, name, enter, leave)
    for changes in ("open", "write", "fsync", "mkdir", "rename", "replace"):
        around(os, changes, lambda: happens() if getattr(here, "inside", False) else None)


# What is done to it.


def stopped(command: list[str], phase: str, number: int, draw: random.Random, folder: Path) -> Outcome:
    """Starts a process, and sends it a signal in a phase, or has it sent."""
    log, pipe = folder / "log", folder / "pipe"
    os.mkfifo(pipe)
    told = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    if phase in FRESH:
        process = start_fresh(command, phase, pipe, log)
    else:
        process = start_forked(command, phase, number, draw.randrange(CALLS.get(phase, 1)), pipe, log)
    in_phase = heard(told, process, LONGEST_LIFE_S) == b"b"
    if (window := PHASES[phase][1]) is not None:
        time.sleep(draw.uniform(0.0, window))
        in_phase = in_phase and heard(told, process, 0.0) == b""
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
    else:
        in_phase = in_phase and heard(told, process, LONGEST_LIFE_S) == b"k"
    sent = time.monotonic()
    code = ended(process)
    seconds = time.monotonic() - sent
    os.close(told)
    time.sleep(0.05)
    return Outcome(code, seconds, in_phase, of_session(process.pid), log.read_text(errors="replace"))


def start_fresh(command: list[str], phase: str, pipe: Path, log: Path) -> subprocess.Popen:
    code = f"import sys; sys.path[:0] = {sys.path[:2]}; import signal_test; "
    code += f"signal_test.fresh({command}, {phase!r}, {str(pipe)!r})"
    said = log.open("w")
    return subprocess.Popen([sys.executable, "-c", code], stdout=said, stderr=said, start_new_session=True)


def start_forked(command: list[str], phase: str | None, number: int, at: int, pipe: Path, log: Path) -> Any:
    process = FORKS.Process(target=forked, args=[command, phase, number, at, str(pipe), str(log)])
    process.start()
    return process


def heard(pipe: int, process: Any, seconds: float) -> bytes:
    """The next byte that a process tells; nothing where it ends first, or says nothing for so long."""
    until = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            if byte := os.read(pipe, 1):
                return byte
        if time.monotonic() >= until or not running(process):
            return b""
        time.sleep(0.002)


def running(process: Any) -> bool:
    return process.poll() is None if isinstance(process, subprocess.Popen) else process.is_alive()


def ended(process: Any) -> int:
    """The exit code; a process that does not end is ended."""
    until = time.monotonic() + LONGEST_LIFE_S
    while running(process):
        if time.monotonic() > until:
            process.kill()
        time.sleep(0.002)
    return process.returncode if isinstance(process, subprocess.Popen) else process.exitcode


# What is expected of it.


def wrong(outcome: Outcome, phase: str, number: int, runs: list[Path]) -> list[str]:
    """What is not as it must be."""
    found, name = [], signal.Signals(number).name
    by_signal = phase in FRESH and outcome.code == -number
    if outcome.code != 128 + number and not by_signal:
        found.append(f"ended with code {outcome.code}: {outcome.said.strip().splitlines()[-1:]}")
    if outcome.seconds > MOST_SECONDS * max(1.0, os.getloadavg()[0] / os.cpu_count()):
        found.append(f"took {outcome.seconds:.1f} s")
    if outcome.orphans:
        found.append(f"left processes {outcome.orphans}")
    if "Traceback" in outcome.said:
        found.append("showed a traceback")
    for run in runs:
        record, log = json.loads((run / "run.json").read_text()), (run / "log.txt").read_text()
        if phase == "ending":
            if record["status"] != "finished" or len(runs) != 1:
                found.append(f"is {record['status']}, of {len(runs)} runs")
        elif (record["status"], (record["reason"] or {}).get("error")) != ("interrupted", name):
            found.append(f"run.json says {record['status']}, {record['reason']}")
        if "Traceback" in log or " ERROR " in log:
            found.append("log.txt tells of an error")
        if phase in EXACT:
            found += not_exact(run, record, outcome.said)
    if phase in EXACT and len(runs) != 1:
        found.append(f"{len(runs)} runs")
    return found


def not_exact(run: Path, record: dict[str, Any], said: str) -> list[str]:
    """Whether the newest checkpoint is of the step at which the run was stopped."""
    from rlresearch.storage import checkpoint

    loaded, damaged = checkpoint.newest(run)
    step = loaded.about.step if loaded else None
    if damaged or step is None or step != record["total_steps"] or f"at step {step};" not in said:
        return [f"stopped at step {record['total_steps']}, the checkpoint is of {step}, damaged: {damaged}"]
    return []


def goes_on(run: Path, whole: dict[str, Any], folder: Path) -> list[str]:
    """Whether what goes on from there is the run that nobody stopped."""
    code = lived([f"resume={run}"], folder)
    record = json.loads((run / "run.json").read_text())
    if code != 0:
        return [f"going on ended with code {code}: {(folder / 'log').read_text().strip().splitlines()[-1:]}"]
    keys = ("state_digest", "final_evaluation")
    return [f"went on to another {key}" for key in keys if record[key] != whole[key]]


def lived(command: list[str], folder: Path) -> int:
    """The exit code of a process that nobody stops."""
    return ended(start_forked(command, None, 0, 0, folder / "none", folder / "log"))


def runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/*/run.json"))


# The command.


def main() -> int:
    """Runs the trials; see above for the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="of each signal in each phase (default: 10)")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--signals", nargs="+", choices=SIGNALS, default=list(SIGNALS))
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    draw, reports = random.Random(options.seed), []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have it ignored by what runs in the background
    with tempfile.TemporaryDirectory(prefix="signal_test_") as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        start_forking([*PRELOAD, "signal_test"])
        for phase in options.phases:
            reports += [report for report in tried(phase, options, draw, Path(folder))]
    if options.json:
        print(json.dumps(reports))
    else:
        show(reports)
    return 1 if any(report["wrong"] for report in reports) else 0


def tried(phase: str, options: argparse.Namespace, draw: random.Random, folder: Path) -> list[dict[str, Any]]:
    """A report for each signal in one phase."""
    command, whole, reports = PHASES[phase][0], None, []
    if phase in EXACT:
        lived([*command, f"runs_dir={folder / phase / 'whole'}"], make(folder / phase))
        whole = json.loads((runs_in(folder / phase / "whole")[0] / "run.json").read_text())
    for name in options.signals:
        number, outcomes, found, missed = signal.Signals[name].value, [], [], 0
        while len(outcomes) < options.times and missed < MISSES * options.times:
            place = make(folder / phase / f"{name}{len(outcomes)}_{missed}")
            outcome = stopped([*command, f"runs_dir={place}"], phase, number, draw, place)
            missed += not outcome.in_phase
            if outcome.in_phase:
                outcomes.append(outcome)
                found += wrong(outcome, phase, number, runs_in(place))
        if len(outcomes) < options.times:
            found.append(f"only {len(outcomes)} of {options.times} came in the phase")
        elif whole is not None and not found:
            found += goes_on(runs_in(place)[0], whole, place)
        seconds = sorted(outcome.seconds for outcome in outcomes)
        codes = sorted({outcome.code for outcome in outcomes})
        reports.append({"phase": phase, "signal": name, "seconds": seconds, "codes": codes, "wrong": found})
        if not options.json:
            print(f"{phase} {name}: {len(outcomes)} times, {codes}: {'; '.join(found) or 'as it must be'}", flush=True)
    return reports


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def show(reports: list[dict[str, Any]]) -> None:
    table = Table(title="told to stop")
    for column in ("phase", "signal", "times", "code", "median s", "longest s", ""):
        table.add_column(column, justify="left" if column in ("phase", "signal", "") else "right")
    for each in reports:
        seconds = each["seconds"] or [float("nan")]
        codes = " ".join(map(str, each["codes"]))
        middle, most = f"{seconds[len(seconds) // 2]:.2f}", f"{seconds[-1]:.2f}"
        said = "; ".join(each["wrong"]) or "as it must be"
        table.add_row(each["phase"], each["signal"], str(len(each["seconds"])), codes, middle, most, said)
    Console().print(table)


if __name__ == "__main__":
    import signal_test  # what is forked must find its functions there by name

    sys.exit(signal_test.main())
