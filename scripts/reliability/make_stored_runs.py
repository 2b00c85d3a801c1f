"""Makes the stored runs of `tests/compat`: small run directories, a sweep and a search, by any checkout.

    git worktree add ../old COMMIT
    python scripts/reliability/make_stored_runs.py ../old NAME    tests/compat/NAME.tar.xz and NAME.json

What a version has stored must be loaded by every later one, and act as it did. So these files are made once, by the
version that they are named after, and stay. NAME.json says of each run directory which digest its newest checkpoint
has, and how its policy acts on some observations.

Loops run as plain graphs: they need not be fast, and compiling would take longer than they do. The runs are made in
WORK, since a sweep's ledger holds the folder that it was started in; no file names anything else of this machine. Begun
again after it was stopped, the script makes what is missing there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from small_runs import QUIET, commands, use

ROOT = Path(__file__).resolve().parents[2]
WORK, HOST = Path("/tmp/compat"), "host"
OBSERVATIONS = 8
LENGTH = ["total_steps=160", "eval.every_steps=80", "eval.episodes=1", "eval.final_episodes=2", "logger.every_steps=40"]
LENGTH += ["checkpoint.every_steps=80", "checkpoint.keep_last=2", "checkpoint.every_minutes=null"]

_RUNS = commands()
MORE = {  # parts with a state, or a shape of it, that the algorithms' own commands have not
    "ddpg_ou_spectral": [*_RUNS["ddpg_device"], "noise=ou", "network.critic.spectral_norm=true", "optimizer=adamw"],
    "dqn_prioritized": [*_RUNS["dqn_device"], "buffer=prioritized", "buffer.n_step=3", "env.num_envs=2"],
    "dqn_noisy": [*_RUNS["dqn_device"], "network=noisy", "noise=greedy"],
    "dqn_dueling": [*_RUNS["dqn_population"], "network=dueling", "network.q.noisy=true", "noise=boltzmann"],
    "dqn_frames": [*_RUNS["dqn_host"], "env.frame_stack=2", "env.time_aware=true", "buffer.n_step=2", "optimizer=sgd"],
    "ppo_normalize": [*_RUNS["ppo_device"], "normalize=running", "env.num_envs=2"],
    "sac_normalize": [*_RUNS["sac_host"], "normalize=running", "env.num_envs=2", "network.actor.layer_norm=true"],
    "sac_pbt": [*_RUNS["sac_device"], "runner=pbt", "runner.seeds=4"],
    "td3_member_values": [*_RUNS["td3_population"], "runner.values={algo.gamma:[0.9,0.95]}"],
}
LONG, MIDDLE = "total_steps=20000", "total_steps=2000"  # what is told to stop must not end before
STOPPED = {
    "ddpg_stopped": [*_RUNS["ddpg_device"], *LENGTH, LONG],
    "sweep_basic": ["-m", "algo=q_learning", "env=frozen_lake", *QUIET, *LENGTH, "seed=3,4", MIDDLE],
    "search": ["-m", "algo=q_learning", "env=frozen_lake", *QUIET, *LENGTH, MIDDLE]
    + ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "algo.alpha=interval(0.1,0.9)"],
}
SWEEPS = {
    "sweep_fused": ["-m", *_RUNS["td3_device"], *LENGTH, "hydra/launcher=fused", "seed=1,2", "algo.gamma=0.9,0.95"],
}


CASES = {name: [*own, *LENGTH] for name, own in (_RUNS | MORE).items()} | SWEEPS | STOPPED


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="whose code makes them")
    parser.add_argument("name", help="of the two files")
    parser.add_argument("--folder", type=Path, default=ROOT / "tests" / "compat", help="where they are written")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=CASES, help="some of the cases")
    parser.add_argument("--jobs", type=int, default=2, help="made at a time (default: 2)")
    options = parser.parse_args(argv)
    checkout, folder = options.checkout.resolve(), options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    own_host = socket.gethostname()
    WORK.mkdir(exist_ok=True)
    missing = [name for name in options.only or CASES if not _is_made(name)]
    with multiprocessing.get_context("spawn").Pool(options.jobs, _prepare, (checkout,)) as pool:
        for told in pool.imap_unordered(_make, missing, chunksize=1):
            print(told, flush=True)
    _prepare(checkout)
    manifest = {"commit": _commit(checkout), "work": str(WORK), **_described()}
    _check_neutral([str(checkout), str(ROOT), str(Path.home())], own_host)
    (folder / f"{options.name}.json").write_text(json.dumps(manifest) + "\n")
    _pack(folder / f"{options.name}.tar.xz")
    shutil.rmtree(WORK)
    return 0


def _is_made(name: str) -> bool:
    """Whether an earlier command, which was stopped, made all of a case; what it made of others is removed."""
    records = [json.loads(path.read_text()) for path in (WORK / name).glob("*/*/run.json")]
    if name not in STOPPED and records and all(record["status"] == "finished" for record in records):
        return True
    shutil.rmtree(WORK / name, ignore_errors=True)
    return False


def _prepare(checkout: Path) -> None:
    """Makes this process one that trains with the checkout's code, in WORK, without XLA."""
    os.chdir(WORK)
    use(checkout, plain=True)
    socket.gethostname = lambda: HOST


def _make(name: str) -> str:
    """Runs one case; SIGTERM comes to some."""
    from rlresearch.__main__ import main as rlresearch

    began, words = time.perf_counter(), CASES[name]
    if name in STOPPED:
        threading.Thread(target=_stop_when, args=(_has_run_for(Path(name), 2 if "-m" in words else 1),)).start()
    code = rlresearch([*words, f"runs_dir={name}"])
    if code != (128 + signal.SIGTERM if name in STOPPED else 0):
        raise RuntimeError(f"{name}: exit code {code}")
    return f"{name}: {time.perf_counter() - began:.1f} s"


def _has_run_for(folder: Path, runs: int) -> Callable[[], bool]:
    """Whether the last of so many runs has written rows."""
    return lambda: len([path for path in folder.glob("*/*/metrics.jsonl") if path.stat().st_size]) == runs


def _stop_when(reached: Callable[[], bool]) -> None:
    while not reached():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGTERM)


def _described() -> dict[str, Any]:
    """Of every run directory what it holds, and the observations by environment and shape."""
    from stored_states import actions_of, digest_of, space_of

    runs: dict[str, Any] = {}
    observations: dict[str, list] = {}
    for path in sorted(Path(".").glob("**/run.json")):
        run, record = path.parent, json.loads(path.read_text())
        env, shape = space_of(run)
        seen = f"{env} {list(shape)}"
        if seen not in observations:
            drawn = np.random.default_rng(0).normal(size=(OBSERVATIONS, *shape)).astype(np.float32)
            if env.startswith("FrozenLake"):
                drawn = np.eye(shape[0], dtype=np.float32)
            observations[seen] = drawn.tolist()
        population = record.get("population")
        told: dict[str, Any] = {"status": record["status"], "observations": seen}
        if not population or population["index"] == 0:
            told["digest"] = digest_of(run)
            alone = not population and "fused" not in str(run)  # a member's record has a digest of its own part
            if alone and record["status"] == "finished" and told["digest"] != record["state_digest"]:
                raise SystemExit(f"{run}: what is loaded is not what was trained")
        told["actions"] = actions_of(run, observations[seen]).tolist()
        runs[str(run)] = told
    return {"observations": observations, "runs": runs}


def _check_neutral(paths: list[str], host: str) -> None:
    """SystemExit where a file names the machine that it was made on."""
    for path in Path(".").glob("**/*"):
        content = path.read_bytes() if path.is_file() else b""
        # In arrays two letters, as a host's name may be, stand by chance.
        for word in (*paths, *(() if path.suffix in (".rows", ".safetensors") else (host,))):
            if re.search(rf"(?<!\w){re.escape(word)}(?!\w)".encode(), content):
                raise SystemExit(f"{path} names {word}")


def _pack(path: Path) -> None:
    """Everything in the working folder, without times and owners."""

    def plain(about: tarfile.TarInfo) -> tarfile.TarInfo:
        about.mtime, about.uid, about.gid, about.uname, about.gname = 0, 0, 0, "", ""
        return about

    with tarfile.open(path, "w:xz", preset=9) as archive:
        for each in sorted(Path(".").iterdir()):
            archive.add(each, filter=plain)


def _commit(checkout: Path) -> str:
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
