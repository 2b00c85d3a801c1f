"""Kills training with SIGKILL, over and over, and looks whether what goes on is the run that was never killed.

    python scripts/reliability/kill_test.py                   60 kills, spread over algorithms and runners
    python scripts/reliability/kill_test.py --kills 200       the longer one
    python scripts/reliability/kill_test.py --kills 4 --only ddpg_device ppo_device
    python scripts/reliability/kill_test.py --json

Each case trains once without disturbance. Then the same command is started again and killed; `resume=RUN` goes on, and
is killed in turn, until the case has had its kills, and the last one may finish. Every other kill strikes in a save:
the process dies at a call that changes the disk, drawn among those of its first saves (before it, after it, or in the
middle of what it writes). Of the others one half strikes so among the rows, run.json and what resuming cuts off, the
other half at any moment, from outside. Then the digest of the last state (parameters, moments, replay, simulators,
keys, counters), every row of metrics.jsonl and evaluations.jsonl, and the arrays of the last checkpoint are compared
with the undisturbed run's; no half-made file and no process may be left. Processes are forked from one that has loaded
TensorFlow, so that a life costs seconds; they run on the CPU, with a compile cache of their own.

Exit code 0 where everything was equal, 1 where anything was not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
for each in (ROOT, ROOT / "scripts" / "reliability"):
    if str(each) not in sys.path:
        sys.path.insert(0, str(each))

from planted_bugs import FORKS, start_forking  # noqa: E402

STEPS = 6_000
SMALL = [f"total_steps={STEPS}", "tuned=none", "device=cpu", "logger.console=none", "logger.every_steps=250"]
SMALL += ["eval.every_steps=1500", "eval.episodes=2", "eval.final_episodes=4", "checkpoint.every_steps=400"]
REPLAY = ["algo.learning_starts=500", "algo.batch_size=16", "buffer.capacity=2000"]
ACTOR = ["network.actor.hidden=[16]", "network.critic.hidden=[16]"]
CARTPOLE = ["env=cartpole", "network.q.hidden=[16]", *REPLAY]
CASES = {
    "ddpg_device": [*ACTOR, *REPLAY, "noise=ou"],
    "ddpg_host": ["runner=host", "env.num_envs=2", *ACTOR, *REPLAY],
    "td3_population": ["algo=td3", "runner=population", "runner.seeds=3", *ACTOR, *REPLAY],
    "td3_gymnasium": ["algo=td3", "env=gym", "env.id=MountainCarContinuous-v0", *ACTOR, *REPLAY],
    "sac_device": ["algo=sac", *ACTOR, *REPLAY],
    "sac_workers": ["algo=sac", "runner=host", "env.num_envs=2", "env.vectorization=async", *ACTOR, *REPLAY],
    "discrete_sac_device": ["algo=discrete_sac", "env=cartpole", *ACTOR, *REPLAY],
    "ppo_device": ["algo=ppo", "env=cartpole", "env.num_envs=4", "algo.rollout_steps=64", "normalize=running", *ACTOR],
    "a2c_host": ["algo=a2c", "env=cartpole", "runner=host", "env.num_envs=2", *ACTOR],
    "dqn_device": ["algo=dqn", *CARTPOLE, "buffer=prioritized", "buffer.n_step=3"],
    "c51_population": ["algo=c51", "algo.v_min=0", "algo.v_max=200", "runner=population", "runner.seeds=2", *CARTPOLE],
    "sarsa_device": ["algo=sarsa", "env=cliff_walking"],
}
TIMES = {"time", "speed/steps_per_second"}
PRELOAD = ["tensorflow", "keras", "gymnasium", "rlresearch.__main__", "rlresearch.training.checkpointing"]
LONGEST_LIFE_S = 900.0
MOST_ROWS_OF_A_LIFE = 10  # of 24
AIMS = ("save", "moment", "save", "files")  # in turn
MOST_CALLS = {"save": 150, "files": 60}  # a save with what it removes takes some 25 calls, a start and a row 30 and 1
CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "truncate", "ftruncate")


def main() -> int:
    """Runs the cases; see above for the exit code."""
    options = arguments()
    draw = random.Random(options.seed)
    names = options.only or list(CASES)
    reports = []
    with tempfile.TemporaryDirectory(prefix="kill_test_") as folder:
        os.environ |= {"XDG_CACHE_HOME": folder, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        os.environ["PYTHONWARNINGS"] = "ignore::UserWarning:multiprocessing.resource_tracker"  # who was killed leaks
        start_forking(PRELOAD)
        for index, name in enumerate(names):
            kills = options.kills // len(names) + (index < options.kills % len(names))
            report = Case(name, Path(folder) / name, draw).tried(kills)
            reports.append(report)
            if not options.json:
                print(f"{name}: {report['kills']} kills, {report['seconds']:.0f} s: {verdict(report)}", flush=True)
    if options.json:
        print(json.dumps(reports))
    else:
        show(reports)
    return 0 if all(verdict(report) == "equal" for report in reports) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="in all cases together (default: 60)")
    parser.add_argument("--only", nargs="+", choices=CASES, help="some of the cases")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    return parser.parse_args()


class Case:
    """One command, in a folder of its own: never killed, then killed so many times, then compared."""

    def __init__(self, name: str, folder: Path, draw: random.Random) -> None:
        folder.mkdir()
        self._name, self._folder, self._draw = name, folder, draw
        self._command = [*CASES[name], *SMALL]
        self._whole, self._killed = folder / "whole", folder / "killed"
        self._log = folder / "log"
        self._kills: Counter[str] = Counter()
        self._differences: list[str] = []

    def tried(self, kills: int) -> dict[str, Any]:
        """What came of it."""
        began, aims = time.monotonic(), 0
        self._lived([*self._command, f"runs_dir={self._whole}"])
        while self._kills.total() < kills and not self._differences:
            if self._ended():  # before it could be killed: begin another
                self._differences += compared(self._whole, self._killed)
                self._killed = self._folder / f"killed{aims}"
            self._live_and_die(AIMS[aims % len(AIMS)])
            aims += 1
        if not self._differences:
            if not self._ended():
                self._lived(self._next_command(self._draw))
            self._differences += compared(self._whole, self._killed)
        done = {"case": self._name, "kills": self._kills.total(), "aims": dict(self._kills)}
        return done | {"seconds": round(time.monotonic() - began, 1), "differences": self._differences}

    def _live_and_die(self, aim: str) -> None:
        command = self._next_command(self._draw)
        doom = (aim, self._draw.randrange(MOST_CALLS[aim]), self._draw.random()) if aim in MOST_CALLS else None
        child = self._started(command, doom)
        if doom is None:
            wait_for_the_moment(child, self._killed, self._draw)
            if child.is_alive():
                os.kill(child.pid, signal.SIGKILL)
        child.join(LONGEST_LIFE_S)
        if child.exitcode == -signal.SIGKILL:
            self._kills[aim] += 1
        elif child.exitcode != 0:
            self._say(f"a process ended with code {child.exitcode}", command)
        self._look_for_orphans(child.pid, command)

    def _lived(self, command: list[str]) -> None:
        """A process that nobody kills."""
        child = self._started(command, None)
        child.join(LONGEST_LIFE_S)
        if child.exitcode != 0:
            self._say(f"a process that nobody killed ended with code {child.exitcode}", command)
            child.kill()
        self._look_for_orphans(child.pid, command)

    def _started(self, command: list[str], doom: tuple | None) -> Any:
        child = FORKS.Process(target=life, args=[command, doom, str(self._log)])
        child.start()
        return child

    def _next_command(self, draw: random.Random) -> list[str]:
        runs = runs_in(self._killed)
        return [f"resume={draw.choice(runs)}"] if runs else [*self._command, f"runs_dir={self._killed}"]

    def _ended(self) -> bool:
        runs = runs_in(self._killed)
        return bool(runs) and all(finished(run) for run in runs)

    def _look_for_orphans(self, session: int, command: list[str]) -> None:
        until = time.monotonic() + 15.0
        while (left := of_session(session)) and time.monotonic() < until:
            time.sleep(0.02)
        if left:
            self._say(f"processes {left} are left", command)

    def _say(self, what: str, command: list[str]) -> None:
        said = self._log.read_text(errors="replace").strip().splitlines()[-1:]
        self._differences.append(f"{what}: {' '.join(command)}: {said}")


def wait_for_the_moment(child: Any, runs: Path, draw: random.Random) -> None:
    """Once in five lives while it starts, else some rows later, and a bit."""
    until = time.monotonic() + LONGEST_LIFE_S
    starting = draw.random() < 0.2
    target = 0 if starting else rows_in(runs) + draw.randrange(1, MOST_ROWS_OF_A_LIFE)
    while child.is_alive() and rows_in(runs) < target and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 3.0 if starting else 0.1))


def rows_in(runs: Path) -> int:
    """The metrics rows that the first member has."""
    files = sorted(runs.glob("*/*/metrics.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


def of_session(number: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(session) == number and state not in "ZX":
            found.append(int(path.parent.name))
    return found


def life(command: list[str], doom: tuple[str, int, float] | None, log: str) -> None:
    """What a process does. doom: (aim, number of the call at which it dies, how far into it)."""
    from rlresearch.cli.main import main as train

    os.setsid()
    said = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if doom is not None:
        doom_at(*doom)
    sys.argv = ["rlresearch"]
    os._exit(train(command))  # a forked copy of TensorFlow need not be taken down in good order


def doom_at(aim: str, at: int, how_far: float) -> None:
    """This process dies at one of the calls that change the disk: those of saves, or all others that Python sees.

    how_far: below 1/3 before the call, below 2/3 after it, else in the middle of what it writes.
    """
    counted = iter(range(at))

    def doomed(name: str, real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            in_save = threading.current_thread().name.startswith("checkpoint")
            if in_save != (aim == "save") or next(counted, None) is not None:
                return real(*arguments, **more)
            if how_far > 2 / 3 and name == "write":
                real(arguments[0], memoryview(arguments[1])[: int(3 * (how_far - 2 / 3) * len(arguments[1]))])
            elif how_far > 1 / 3:
                real(*arguments, **more)
            os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, doomed(name, getattr(os, name)))


def runs_in(folder: Path) -> list[Path]:
    """The runs that can be gone on with: those whose configuration was written before they were killed."""
    return sorted(path.parent for path in folder.glob("*/*/config.yaml") if (path.parent / "run.json").exists())


def compared(whole: Path, killed: Path) -> list[str]:
    """What differs between the members of two runs; nothing where they are equal."""
    from rlresearch.storage.jsonl import read_rows

    one, two = runs_in(whole), runs_in(killed)
    if [seed(run) for run in one] != [seed(run) for run in two]:
        return [f"{len(one)} and {len(two)} runs"]
    differences = []
    for a, b in zip(one, two, strict=True):
        for file in ("metrics.jsonl", "evaluations.jsonl"):
            before, now = (list(map(without_times, read_rows(run / file))) for run in (a, b))
            if before != now:
                differences.append(f"{b.name}: {file} has {len(now)} rows, {len(before)} before, not all equal")
        ours, theirs = (json.loads((run / "run.json").read_text()) for run in (a, b))
        for key in ("state_digest", "status", "total_steps", "final_evaluation"):
            if ours[key] != theirs[key]:
                differences.append(f"{b.name}: {key} is {theirs[key]}, was {ours[key]}")
        if theirs["nondeterminism"] is not None:
            differences.append(f"{b.name}: {theirs['nondeterminism']}")
    left = [path.name for path in killed.rglob(".tmp-*")]
    return differences + [f"{name} was left behind" for name in left] + arrays_compared(one[0], two[0])


def without_times(row: dict[str, Any]) -> str:
    """As text, since NaN is not itself."""
    return repr({key: value for key, value in row.items() if key not in TIMES})


def arrays_compared(one: Path, two: Path) -> list[str]:
    """The arrays of the last checkpoints, without a tolerance."""
    from rlresearch.storage import checkpoint

    found = [checkpoint.newest(run)[0] for run in (one, two)]
    if None in found:
        return ["a run has no checkpoint"]
    a, b = (each.arrays for each in found)
    return [f"array {name} differs" for name in a if name not in b or a[name].tobytes() != b[name].tobytes()]


def finished(run: Path) -> bool:
    return json.loads((run / "run.json").read_text())["status"] == "finished"


def seed(run: Path) -> int:
    return json.loads((run / "run.json").read_text())["seed"]


def verdict(report: dict[str, Any]) -> str:
    return "; ".join(report["differences"]) or "equal"


def show(reports: list[dict[str, Any]]) -> None:
    table = Table(title="killed, gone on with, and compared with the run that was never killed")
    for column in ("case", "kills", *dict.fromkeys(AIMS), "seconds", ""):
        table.add_column(column, justify="left" if column in ("case", "") else "right")
    total: Counter[str] = Counter()
    for each in reports:
        own = [str(each["aims"].get(aim, 0)) for aim in dict.fromkeys(AIMS)]
        table.add_row(each["case"], str(each["kills"]), *own, f"{each['seconds']:,.0f}", verdict(each))
        total.update(each["aims"])
    seconds = f"{sum(each['seconds'] for each in reports):,.0f}"
    table.add_row("all", str(total.total()), *(str(total[aim]) for aim in dict.fromkeys(AIMS)), seconds, "")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
