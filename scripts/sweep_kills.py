"""Kills the controller of a sweep at random moments, goes on with it, and looks whether anything was lost.

    python scripts/sweep_kills.py --kills 10 --launchers basic,fused,local

Each round starts a sweep of quick jobs, sends SIGKILL to its controller after a random time, resumes, and kills again,
until the sweep has finished; then every job must have finished exactly once, in a directory that nothing else was
written to, with every row once, and no process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf  # noqa: E402, F401 (loaded once; each controller is forked)
from counting import QUICK, folder_with  # noqa: E402

from rlresearch.rundir import parsed_rows, read_rows  # noqa: E402
from rlresearch.sweeps import ledger  # noqa: E402

LAKE = ["algo=q_learning", "env=frozen_lake", "total_steps=3000", "eval.every_steps=1000", "eval.episodes=1"]
LAKE += ["eval.final_episodes=1", "logger.every_steps=500", "checkpoint.every_steps=500", "device=cpu", "tuned=none"]
COUNTED = [*QUICK, "runner.step_s=0.02", "checkpoint.every_steps=10"]
JOBS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each launcher")
    parser.add_argument("--launchers", default="basic,fused,local")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    wrong = 0
    for launcher in options.launchers.split(","):
        kills = sweeps = 0
        began = time.monotonic()
        while kills < options.kills:
            folder = Path(tempfile.mkdtemp(prefix="sweep-kills-"))
            more, problems = killed_sweep(launcher, folder, options.kills - kills)
            kills, sweeps = kills + more, sweeps + 1
            wrong += len(problems)
            for problem in problems:
                print(f"  {launcher}: {problem} ({folder})", flush=True)
            if not problems:
                shutil.rmtree(folder)
        print(f"{launcher}: {kills} kills in {sweeps} sweeps, {time.monotonic() - began:.0f} s", flush=True)
    print("nothing was lost" if not wrong else f"{wrong} problems")
    return int(wrong > 0)


def killed_sweep(launcher: str, folder: Path, most: int) -> tuple[int, list[str]]:
    """Runs one sweep to its end, with at most so many kills on the way. Returns their number and what is wrong."""
    own, runs = folder_with(folder / "own"), folder / "runs"
    jobs = LAKE if launcher == "fused" else COUNTED
    begin = [f"--config-dir={own}", "-m", *jobs, f"seed=range(0,{JOBS})", f"hydra/launcher={launcher}"]
    begin += [f"runs_dir={runs}", *(["hydra.launcher.workers=2"] if launcher == "local" else [])]
    kills, command, usual = 0, begin, 12.0
    while True:
        pid, started = forked(command, folder / "log"), time.monotonic()
        code = waited(pid, random.uniform(0.0, usual) if kills < most else 600.0)
        if code is None:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        elif command is begin and not found(runs):
            return kills, [f"exit code {code} before there was a sweep"]
        else:
            break
        usual = max(2.0, min(usual, 1.2 * (time.monotonic() - started) + 4.0))
        sweep = found(runs)
        planned = sweep is not None and ledger.read(sweep).planned
        if planned:
            command = [f"--config-dir={own}", f"resume={sweep}"]
        elif sweep is not None:
            shutil.rmtree(sweep)  # killed before anything ran: it is started again
    time.sleep(0.5)
    return kills, ([f"exit code {code}"] if code else []) + problems_of(found(runs), runs, folder)


def forked(command: list[str], log: Path) -> int:
    """A controller, as `python -m rlresearch` would be."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.setsid()
    from rlresearch.__main__ import main as rlresearch

    os._exit(rlresearch(command))


def waited(pid: int, seconds: float) -> int | None:
    """The exit code, or None where it has not left by then."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left, status = os.waitpid(pid, os.WNOHANG)
        if left:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def found(runs: Path) -> Path | None:
    return next(iter((runs / "sweeps").glob("*/")), None) if (runs / "sweeps").is_dir() else None


def problems_of(sweep: Path, runs: Path, folder: Path) -> list[str]:
    """What is not as it must be."""
    problems = []
    account = ledger.read(sweep)
    events = [event for file in sweep.glob("ledger*.jsonl") for event in parsed_rows(file.read_bytes())]
    ends = Counter(event["job"] for event in events if event["event"] == "ended" and event["status"] == "finished")
    if len(account.jobs) != JOBS or any(job.status != ledger.FINISHED for job in account.jobs):
        problems.append(f"jobs are {[job.status for job in account.jobs]}")
    if any(ends[job.number] != 1 for job in account.jobs):
        problems.append(f"finished so many times: {dict(ends)}")
    whole = Counter()
    for path in runs.glob("20*/*/run.json"):
        record = json.loads(path.read_text())
        whole[record["sweep"]["job"]] += record["status"] == "finished"
    if any(whole[job.number] != 1 for job in account.jobs):
        problems.append(f"runs that finished, by job: {dict(whole)}")
    if len({job.run for job in account.jobs}) != len(account.jobs):
        problems.append("two jobs share a directory")
    for job in account.jobs:
        for name in ("metrics", "evaluations"):
            steps = [row["step"] for row in read_rows(job.run / f"{name}.jsonl")]
            if steps != sorted(set(steps)) or not steps:
                problems.append(f"job {job.number}: {name} at {steps}")
    left = processes_of(folder)
    return problems + ([f"processes are left: {left}"] if left else [])


def processes_of(folder: Path) -> list[str]:
    """Processes that hold a file below a folder."""
    left = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if any(str(folder) in os.readlink(each) for each in (entry / "fd").iterdir()):
                    left.append(f"{entry.name} {(entry / 'cmdline').read_bytes()[:80]!r}")
            except OSError:
                continue
    return left


if __name__ == "__main__":
    sys.exit(main())
