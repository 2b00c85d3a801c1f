"""Ray for real: a head and two worker nodes on the loopback address, a sweep of 12 jobs, one node killed in the middle.

    python scripts/reliability/sweep_ray.py        # about 3 minutes on 2 cores

All jobs must finish, those of the lost node in a new attempt with a directory of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from support.counting_runner import QUICK, folder_with  # noqa: E402

from rlresearch.sweeps import ledger  # noqa: E402

JOBS, PATIENCE_S = 12, 2400
LOOPBACK = ["127.0.0.2", "127.0.0.3", "127.0.0.4"]  # Ray takes 127.0.0.1 for the machine's outer address


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="sweep-ray-"))
    try:
        with cluster(folder / "ray", LOOPBACK) as (address, environment, nodes):
            return swept(folder, address, environment, nodes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def cluster(folder: Path, places: Sequence[str]) -> Iterator[tuple[str, dict[str, str], list[subprocess.Popen]]]:
    """A Ray cluster with a head at the first of `places` and a node of two CPUs at each other: its address, the
    environment of who joins it, and its nodes, the head first. folder: where Ray puts what is its own.
    """
    address = f"{places[0]}:{free_port()}"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": "-1", "RAY_TMPDIR": str(folder)}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])}
    environment |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    environment |= {"RAY_health_check_initial_delay_ms": "2000"}
    nodes = []
    try:
        begin = ["--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"]
        nodes.append(node(environment, places[0], *begin))
        for own in places[1:]:
            nodes.append(node(environment, own, f"--address={address}", "--num-cpus=2"))
        yield address, environment, nodes
    finally:
        for each in reversed(nodes):
            kill(each)


def swept(folder: Path, address: str, environment: dict[str, str], nodes: list[subprocess.Popen]) -> int:
    runs = folder / "runs"
    command = [sys.executable, "-m", "rlresearch", f"--config-dir={folder_with(folder / 'own')}", "-m", *QUICK]
    command += [f"seed=range(0,{JOBS})", "runner.step_s=0.3", "hydra/launcher=ray", f"runs_dir={runs}"]
    command += [f"hydra.launcher.address='{address}'"]
    began = time.monotonic()
    sweep = subprocess.Popen(command, env=environment)
    jobs = waited(runs, lambda jobs: sum(job.run is not None for job in jobs) >= 4 and ended(jobs) >= 1, sweep)
    lost = [job.number for job in jobs if job.status == ledger.RUNNING]
    kill(nodes.pop())
    print(f"one of two worker nodes killed after {time.monotonic() - began:.0f} s; running: {lost}", flush=True)
    code = sweep.wait(PATIENCE_S)
    jobs = ledger.read(next((runs / "sweeps").iterdir())).jobs
    again = [job for job in jobs if job.attempts > 1]
    directories = {json.loads(path.read_text())["sweep"]["job"] for path in runs.glob("20*/*/run.json")}
    right = code == 0 and all(job.status == ledger.FINISHED for job in jobs) and len({job.run for job in jobs}) == JOBS
    print(f"exit code {code}; {sum(job.status == ledger.FINISHED for job in jobs)} of {JOBS} finished, "
          f"{len(again)} in another attempt, {len(directories)} jobs have directories")  # fmt: skip
    return 0 if right and again else 1


def ended(jobs: list[ledger.Job]) -> int:
    return sum(job.status == ledger.FINISHED for job in jobs)


def waited(runs: Path, condition, sweep: subprocess.Popen) -> list[ledger.Job]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and sweep.poll() is None:
        with contextlib.suppress(StopIteration, FileNotFoundError):
            jobs = ledger.read(next((runs / "sweeps").iterdir())).jobs
            if condition(jobs):
                return jobs
        time.sleep(0.2)
    raise SystemExit("the sweep did not get under way")


def node(environment: dict[str, str], own: str, *arguments: str) -> subprocess.Popen:
    """A node of a cluster, once it has started; one after the other, as they choose the names of their sockets then."""
    ray = Path(sys.executable).with_name("ray")
    command = [str(ray), "start", "--block", f"--node-ip-address={own}", "--object-store-memory=100000000", *arguments]
    folder = Path(environment["RAY_TMPDIR"])
    folder.mkdir(exist_ok=True)
    for number in range(3):  # a busy machine may need several tries
        log = folder / f"{own}.{number}.log"
        with open(log, "w") as told:
            started = subprocess.Popen(command, env=environment, start_new_session=True, stdout=told, stderr=told)
        while started.poll() is None:
            if "Ray runtime started" in log.read_text():
                return started
            time.sleep(0.5)
    raise SystemExit(f"Ray does not start: {log.read_text()[-2000:]}")


def kill(node: subprocess.Popen) -> None:
    """All processes of a node at once, as when a machine loses its power."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    doomed = {node.pid}
    while more := {pid for pid, parent in parents.items() if parent in doomed} - doomed:
        doomed |= more
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind((LOOPBACK[0], 0))
        return taken.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
