"""Kills the controller of a sweep at random moments, goes on with it, and looks whether anything was lost.

    python scripts/reliability/sweep_kills.py  10 kills of basic, fused, local, optuna and ray each
    python scripts/reliability/sweep_kills.py --kills 3 --launchers basic,fused,local

Each round starts a sweep of quick jobs, sends SIGKILL to its controller after a random time, resumes, and kills again,
until the sweep has finished; then every job must have finished exactly once, in a directory that nothing else was
written to, with every row once, and no process may be left. `optuna` is a search whose trials are pruned and fused: it
must have proposed, pruned and found what it does undisturbed. `ray` needs a cluster, which is started on the loopback
address.
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
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import tensorflow as tf  # noqa: E402, F401 (loaded once; each controller is forked)
from support.counting_runner import QUICK, folder_with  # noqa: E402
from sweep_ray import LOOPBACK, cluster  # noqa: E402

from rlresearch.storage.jsonl import parsed_rows, read_rows  # noqa: E402
from rlresearch.sweeps import ledger  # noqa: E402
from rlresearch.sweeps.search.driver import SEARCH_FILE  # noqa: E402

LAKE = ["algo=q_learning", "env=frozen_lake", "total_steps=3000", "eval.every_steps=1000", "eval.episodes=5"]
LAKE += ["eval.final_episodes=1", "logger.every_steps=500", "checkpoint.every_steps=500", "device=cpu", "tuned=none"]
COUNTED = [*QUICK, "runner.step_s=0.02", "checkpoint.every_steps=10"]
SEARCH = ["algo.gamma=interval(0.9,0.999)", "algo.alpha=0.1,0.3", "hydra/sweeper=optuna"]
SEARCH += ["hydra.sweeper.n_trials=9", "hydra.sweeper.n_jobs=3", "hydra.sweeper.pruner=median"]
SEARCH += ["hydra.sweeper.pruner_options={n_startup_trials:2}", "hydra/launcher=fused"]
JOBS = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="of each launcher")
    parser.add_argument("--launchers", default="basic,fused,local,optuna,ray")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    wrong = 0
    for launcher in options.launchers.split(","):
        with ExitStack() as stack:
            words = commanded(launcher, stack)
            wrong += killed(launcher, words, options.kills)
    print("nothing was lost" if not wrong else f"{wrong} problems")
    return int(wrong > 0)


def commanded(launcher: str, stack: ExitStack) -> list[str]:
    """What the sweep is, for its command line; a cluster that it needs is there until the stack is closed."""
    if launcher == "optuna":
        return [*LAKE, *SEARCH]
    own = folder_with(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweep-kills-"))) / "own")
    jobs = LAKE if launcher == "fused" else COUNTED
    words = [f"--config-dir={own}", *jobs, f"seed=range(0,{JOBS})", f"hydra/launcher={launcher}"]
    if launcher == "local":
        words.append("hydra.launcher.workers=2")
    if launcher == "ray":
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True)))
        address, environment, _ = stack.enter_context(cluster(folder, LOOPBACK[:2]))
        os.environ |= environment
        words.append(f"hydra.launcher.address='{address}'")
    return words


def killed(launcher: str, words: list[str], most: int) -> int:
    """Sweeps of one kind, until there have been so many kills. Returns how many problems there are, after telling."""
    kills = sweeps = wrong = 0
    began, undisturbed = time.monotonic(), None
    if launcher == "optuna":
        with tempfile.TemporaryDirectory(prefix="sweep-kills-") as folder:
            killed_sweep(words, Path(folder), 0)
            undisturbed = findings_of(found(Path(folder) / "runs"))
    while kills < most:
        folder = Path(tempfile.mkdtemp(prefix="sweep-kills-"))
        more, code = killed_sweep(words, folder, most - kills)
        kills, sweeps = kills + more, sweeps + 1
        time.sleep(0.5)
        problems = [f"exit code {code}"] if code else []
        if found(folder / "runs") is not None:
            problems += problems_of(folder / "runs", undisturbed)
        if left := processes_of(folder):
            problems.append(f"processes are left: {left}")
        for problem in problems:
            print(f"  {launcher}: {problem} ({folder})", flush=True)
        wrong += len(problems)
        if not problems:
            shutil.rmtree(folder)
    print(f"{launcher}: {kills} kills in {sweeps} sweeps, {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def killed_sweep(words: list[str], folder: Path, most: int) -> tuple[int, int]:
    """Runs one sweep to its end, with at most so many kills on the way. Returns their number and the exit code."""
    runs = folder / "runs"
    said_again = [word for word in words if word.startswith(("--config-dir", "hydra.launcher.address"))]
    begin = ["-m", *words, f"runs_dir={runs}"]
    kills, command, usual = 0, begin, 12.0
    while True:
        pid, started = forked(command, folder / "log"), time.monotonic()
        code = waited(pid, random.uniform(0.0, usual) if kills < most else 600.0)
        if code is not None:
            return kills, code if found(runs) else 1
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        usual = max(2.0, min(usual, 1.2 * (time.monotonic() - started) + 4.0))
        sweep = found(runs)
        if sweep is not None and (sweep / SEARCH_FILE).exists():
            command = [f"resume={sweep}"]
        elif sweep is not None and (sweep / ledger.LEDGER).exists() and ledger.read(sweep).planned:
            command = [*said_again, f"resume={sweep}"]
        elif sweep is not None:
            shutil.rmtree(sweep)  # killed before anything ran: it is started again


def forked(command: list[str], log: Path) -> int:
    """A controller, as `python -m rlresearch` would be."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.setsid()
    from rlresearch.cli.main import main as rlresearch

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


def problems_of(runs: Path, undisturbed: list[Any] | None) -> list[str]:
    """What is not as it must be. undisturbed: what a search found that nobody killed."""
    if undisturbed is not None:
        found_out = findings_of(found(runs))
        pairs = zip(undisturbed, found_out, strict=False)
        return [f"trial {n}: {theirs}, not {ours}" for n, (ours, theirs) in enumerate(pairs) if ours != theirs] + (
            [] if len(found_out) == len(undisturbed) else [f"{len(found_out)} trials"]
        )
    problems = []
    account = ledger.read(found(runs))
    events = [event for file in found(runs).glob("ledger*.jsonl") for event in parsed_rows(file.read_bytes())]
    ends = Counter(event["job"] for event in events if event["event"] == "ended" and event["status"] == "finished")
    if len(account.jobs) != JOBS or any(job.status != ledger.FINISHED for job in account.jobs):
        problems.append(f"jobs are {[job.status for job in account.jobs]}")
    if any(ends[job.number] != 1 for job in account.jobs):
        problems.append(f"finished so many times: {dict(ends)}")
    whole = Counter()
    for path in runs.glob("20*/*/run.json"):
        record = json.loads(path.read_text())
        if record["sweep"] is not None:  # else it was killed while the directory was made
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
    return problems


def findings_of(search: Path) -> list[Any]:
    """Of each trial what was proposed, and what came of it."""
    rows = [json.loads(line) for line in (search / "trials.jsonl").read_text().splitlines()]
    return [[row[name] for name in ("params", "state", "values", "evaluations")] for row in rows]


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
