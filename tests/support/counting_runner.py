"""A runner that counts and learns nothing, for tests of what is around runs: it starts at once, and fails on command.

Chosen with `--config-dir=FOLDER runner=counting`, where FOLDER was made by `folder_with`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import annotated_types
import numpy as np
import tensorflow as tf

sys.modules.setdefault("counting", sys.modules[__name__])  # one module, whichever name it is imported by
YAML = "_target_: counting.Counting\nfault: none\nat: 20\nstep_s: 0.0\nscale: 1.0\n"
# Quick jobs: no evaluation but one short episode at the end.
QUICK = ["algo=q_learning", "env=frozen_lake", "runner=counting", "total_steps=40", "eval.every_steps=null"]
QUICK += ["eval.final_episodes=1", "env.max_episode_steps=3", "logger.every_steps=20", "device=cpu", "tuned=none"]
QUICK += ["compile_cache=false"]


def folder_with(folder: Path) -> Path:
    """A folder for --config-dir that offers `runner=counting`."""
    (folder / "runner").mkdir(parents=True)
    (folder / "runner" / "counting.yaml").write_text(YAML)
    (folder / "counting.py").symlink_to(__file__)
    return folder


class Totals(NamedTuple):
    sums: dict


class State(NamedTuple):
    algo: tf.Tensor
    totals: Totals


@dataclass(frozen=True)
class Counting:
    """fault: what goes wrong at iteration `at`; step_s: seconds that an iteration takes."""

    fault: str = "none"
    at: Annotated[int, annotated_types.Ge(0)] = 20
    step_s: float = 0.0
    scale: float = 1.0
    token: str = "none"

    def check(self, trainer, task):
        pass

    def start(self, trainer, task, seed):
        return CountingRunner(self, task, seed)


class CountingRunner:
    """Its state is the number of iterations, times `scale`."""

    replacements, resumable_here = 0, True

    def __init__(self, settings, task, seed):
        self.members, self.iteration, self.learning_start_iteration = (seed,), 0, 0
        self._settings, self._discrete, self.count = settings, hasattr(task.spaces[1], "n"), 0.0

    def advance(self, iterations, fresh):
        own = self._settings
        for _ in range(iterations):
            time.sleep(own.step_s)
            self.iteration += 1
            self.count += own.scale
            if self.iteration == own.at and own.fault != "none":
                FAULTS[own.fault](self)

    def metrics(self):
        return [{"train/count": self.count}]

    def policy(self, obs):
        return np.zeros(obs.shape[:2], np.int32) if self._discrete else np.zeros((*obs.shape[:2], 1), np.float32)

    def state(self):
        return State(tf.constant(self.count), Totals({}))

    state_unordered = state

    def extra_state(self):
        return {}

    def set_active(self, active):
        pass

    def after_evaluation(self, step, scores):
        return []

    def restore(self, iteration, state, beside):
        self.iteration, self.count = iteration, float(state.algo)

    def close(self):
        pass


def own_run() -> Path:
    """The directory of the run that this process is at."""
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if os.path.lexists(each)]
    return Path(next(link for link in links if link.endswith("metrics.jsonl"))).parent


def _raise(error):
    raise error


def _take_memory(_):
    taken = []
    while True:
        taken.append(np.ones(1 << 24))
        time.sleep(0.01)


def _fill_disk(_):
    limit = (own_run() / "metrics.jsonl").stat().st_size + 1
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def _take_directory_away(_):
    run = own_run()
    run.rename(run.with_name(f"{run.name}.away"))
    run.write_text("a file where a directory was")


def _break_environment(_):
    from gymnasium.envs.toy_text.frozen_lake import FrozenLakeEnv

    FrozenLakeEnv.step = lambda self, action: 1 / 0


def _not_a_number(runner):
    runner.count = float("nan")


FAULTS = {
    "exception": lambda _: _raise(ValueError("planted")),
    "exit": lambda _: os._exit(3),
    "sys_exit": lambda _: sys.exit(4),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda _: ctypes.string_at(0),
    "hang": lambda _: time.sleep(10_000),
    "memory": _take_memory,
    "memory_error": lambda _: _raise(MemoryError("planted")),
    "not_a_number": _not_a_number,
    "disk": _fill_disk,
    "environment": _break_environment,
    "directory": _take_directory_away,
    "abort": lambda _: os.abort(),
}
