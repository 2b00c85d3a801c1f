"""Kills training with SIGKILL, over and over, and looks whether what goes on is the run that was never killed.

    python scripts/kill_test.py                   60 kills, spread over algorithms and runners
    python scripts/kill_test.py --kills 200       the longer one
    python scripts/kill_test.py --kills 4 --only ddpg_device ppo_device
    python scripts/kill_test.py --json

Each case trains once without disturbance. Then the same command is started again and killed: every other time at a
random moment, else while a checkpoint is being written (its half-made folder is seen on the disk). `resume=RUN` goes
on, and is killed in turn, until the case has had its kills; the last one may finish. Then the digest of the last state
(parameters, moments, replay, simulators, keys, counters), every row of metrics.jsonl and evaluations.jsonl, and the
arrays of the last checkpoint are compared with the undisturbed run's. Processes are forked from one that has loaded
TensorFlow, so that a life costs seconds; they run on the CPU.

Exit code 0 where everything was equal, 1 where anything was not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

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
    "ppo_device": ["algo=ppo", "env=cartpole", "env.num_envs=4", "algo.rollout_steps=64", "normalize=running", *ACTOR],
    "a2c_host": ["algo=a2c", "env=cartpole", "runner=host", "env.num_envs=2", *ACTOR],
    "dqn_device": ["algo=dqn", *CARTPOLE, "buffer=prioritized", "buffer.n_step=3"],
    "c51_population": ["algo=c51", "algo.v_min=0", "algo.v_max=200", "runner=population", "runner.seeds=2", *CARTPOLE],
    "sarsa_device": ["algo=sarsa", "env=cliff_walking"],
}
TIMES = {"time", "speed/steps_per_second"}
LONGEST_LIFE_S = 900.0
MOST_ROWS_OF_A_LIFE = 10  # of 24


def main() -> int:
    """Runs the cases; see above for the exit code."""
    options = arguments()
    draw = random.Random(options.seed)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "rlresearch.__main__", "rlresearch.saving"])
    names = options.only or list(CASES)
    reports = []
    with tempfile.TemporaryDirectory(prefix="kill_test_") as folder:
        for index, name in enumerate(names):
            kills = options.kills // len(names) + (index < options.kills % len(names))
            report = tried(name, kills, Path(folder) / name, draw, context)
            reports.append(report)
            if not options.json:
                hit = f"{report['kills']} kills, {report['saves_hit']} in a save"
                print(f"{name}: {hit}: {verdict(report)}", flush=True)
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


def tried(name: str, kills: int, folder: Path, draw: random.Random, context: Any) -> dict[str, Any]:
    """One case: never killed, then killed so many times, then compared."""
    command = [*CASES[name], *SMALL]
    began = time.monotonic()
    whole = lived(context, [*command, f"runs_dir={folder / 'whole'}"])
    done = {"case": name, "kills": 0, "saves_hit": 0, "finished_early": 0, "seconds": 0.0, "differences": []}
    killed_runs = folder / "killed"
    while done["kills"] < kills:
        runs = runs_in(killed_runs)
        if runs and all(finished(run) for run in runs):  # before it could be killed: begin another
            done["differences"] += compared(folder / "whole", killed_runs)
            done["finished_early"] += 1
            killed_runs, runs = folder / f"killed{done['finished_early']}", []
        again = [f"resume={runs[draw.randrange(len(runs))]}"] if runs else [*command, f"runs_dir={killed_runs}"]
        child = started(context, again)
        hit = wait_to_kill(child, killed_runs, done["kills"] % 2 == 1, draw)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            done["kills"] += 1
            done["saves_hit"] += hit
        child.join()
        if child.exitcode not in (0, -signal.SIGKILL):
            done["differences"].append(f"a process ended with code {child.exitcode}: {again}")
            break
    runs = runs_in(killed_runs)
    code = lived(context, [f"resume={runs[0]}"]) if runs and not all(finished(run) for run in runs) else 0
    done["differences"] += [f"exit code {each}" for each in (whole, code) if each != 0]
    done["differences"] += compared(folder / "whole", killed_runs) if runs else []
    return done | {"seconds": round(time.monotonic() - began, 1)}


def wait_to_kill(child: Any, runs: Path, aimed: bool, draw: random.Random) -> bool:
    """Until the moment has come: once in five lives while it starts, else some rows later, and a bit.

    aimed: then until a checkpoint is half made. Returns whether one was.
    """
    half_made = lambda: any(True for _ in runs.glob("*/*/checkpoints/.tmp-*"))  # noqa: E731
    until = time.monotonic() + LONGEST_LIFE_S
    starting = draw.random() < 0.2
    target = 0 if starting else rows_in(runs) + draw.randrange(1, MOST_ROWS_OF_A_LIFE)
    while child.is_alive() and rows_in(runs) < target and time.monotonic() < until:
        time.sleep(0.002)
    time.sleep(draw.uniform(0.0, 3.0 if starting else 0.1))
    while aimed and child.is_alive() and not half_made() and time.monotonic() < until:
        time.sleep(0.0002)
    return half_made()


def rows_in(runs: Path) -> int:
    """The metrics rows that the first member has."""
    files = sorted(runs.glob("*/*/metrics.jsonl"))
    return files[0].read_bytes().count(b"\n") if files else 0


def started(context: Any, command: list[str]) -> Any:
    child = context.Process(target=life, args=[command])
    child.start()
    return child


def lived(context: Any, command: list[str]) -> int:
    """The exit code of a process that nobody kills."""
    child = started(context, command)
    child.join(LONGEST_LIFE_S)
    return child.exitcode


def life(command: list[str]) -> None:
    """What a process does."""
    from rlresearch.__main__ import main as train

    sys.argv = ["rlresearch"]
    os._exit(train(command))  # a forked copy of TensorFlow need not be taken down in good order


def runs_in(folder: Path) -> list[Path]:
    """The runs that can be gone on with: those whose configuration was written before they were killed."""
    return sorted(path.parent for path in folder.glob("*/*/config.yaml") if (path.parent / "run.json").exists())


def compared(whole: Path, killed: Path) -> list[str]:
    """What differs between the members of two runs; nothing where they are equal."""
    from rlresearch.rundir import read_rows

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
    from rlresearch import checkpoint

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
    for column in ("case", "kills", "in a save", "seconds", ""):
        table.add_column(column, justify="left" if column in ("case", "") else "right")
    for each in reports:
        numbers = (str(each["kills"]), str(each["saves_hit"]), f"{each['seconds']:,.0f}")
        table.add_row(each["case"], *numbers, verdict(each))
    total, hit = (sum(each[key] for each in reports) for key in ("kills", "saves_hit"))
    table.add_row("all", str(total), str(hit), f"{sum(each['seconds'] for each in reports):,.0f}", "")
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
