"""An environment that fails ends the run as failed, with its name, the step and its words; what was logged stays."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from conftest import few_operations, without_xla
from gymnasium import spaces
from support import random_actions

from rlresearch.cli.main import main
from rlresearch.envs.host import CheckedEnv
from rlresearch.runtime import heartbeat
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory

EPISODE = 10  # steps


REWARDS = {"inf": np.inf, "none": None, "vector": np.ones(2), "large": 1e39, "long": -(10**40), "complex": 1j}


class Faulty(gym.Env):
    """Steps to the right for EPISODE steps; in the given episode and step of the instance the fault happens.

    where: `training`, the instance that is reset first in a run, or `evaluation`, any other.
    """

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)
    trained_in = None

    def __init__(self, fault="none", episode=1, step=1, where="training"):
        self.fault, self.at, self.where = fault, (episode, step), where
        self.episode = self.steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Faulty.trained_in = Faulty.trained_in or self
        self.episode, self.steps = self.episode + 1, 0
        if self._now() and self.fault == "reset":
            raise ValueError("the arm\nis stuck")
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        obs, reward = np.full(2, self.steps, np.float32), 1.0
        if self._now():
            if self.fault == "raise":
                raise ValueError("the arm\nis stuck")
            if self.fault == "interrupt":
                raise KeyboardInterrupt
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "flags":
                return obs, reward, np.array([True, False]), False, {}
            obs = {"nan": np.array([np.nan, 0.0]), "shape": np.zeros(3), "text": "far away"}.get(self.fault, obs)
            reward = REWARDS.get(self.fault.removesuffix(" reward"), reward)
        return obs, reward, False, self.steps == EPISODE, {}

    def _now(self):
        role = "training" if self is Faulty.trained_in else "evaluation"
        return (self.episode, self.steps) == self.at and role == self.where


gym.register("Faulty-v0", Faulty, disable_env_checker=True, max_episode_steps=1_000)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command line with random actions; (exit code, lines of standard error, run directory)."""
    folder = random_actions.folder_with(tmp_path / "own")

    def run(fault, *overrides, **kwargs):
        Faulty.trained_in = None
        kwargs = ",".join(f"{key}:{value}" for key, value in {"fault": f"'{fault}'", **kwargs}.items())
        small = [f"--config-dir={folder}", "algo=random_actions", "buffer.capacity=100"]
        rows = ["total_steps=60", "logger.every_steps=10", "eval.every_steps=20", "eval.episodes=1"]
        own = [
            "env=gym",
            "env.id=Faulty-v0",
            f"env.kwargs={{{kwargs}}}",
            "eval.final_episodes=2",
            "logger.console=none",
        ]
        with without_xla(), few_operations():
            code = main(
                [*small, *own, *rows, "compile_cache=false", "device=cpu", f"runs_dir={tmp_path / 'runs'}", *overrides]
            )
        (path,) = (tmp_path / "runs").glob("*/*")
        return code, capsys.readouterr().err.splitlines(), path

    return run


def _ended(path):
    return json.loads((path / "run.json").read_text())


def _steps(path, name):
    return [row["step"] for row in read_rows(path / name)]


FAULTS = {
    "raise": ("ValueError", "environment 'Faulty-v0' raised at step 4 of its episode: ValueError: the arm"),
    "nan": ("RunError", "returned the observation [nan 0.], expected finite numbers at step 4 of its episode"),
    "shape": ("RunError", "returned an observation of shape (3,), expected (2,) at step 4 of its episode"),
    "text": ("RunError", "returned str as observation, expected numbers at step 4 of its episode"),
    "inf reward": ("RunError", "returned reward inf, expected one finite number at step 4 of its episode"),
    "none reward": ("RunError", "returned reward None, expected one finite number at step 4 of its episode"),
    "large reward": ("RunError", "returned reward 1e+39, expected a number that float32 holds, at most 3.4e+38"),
    "long reward": ("RunError", f"returned reward {-(10**40)}, expected a number that float32 holds"),
    "complex reward": ("RunError", "returned reward 1j, expected one finite number"),
    "flags": ("RunError", "returned terminated array([ True, False]) and truncated False, expected true or false"),
    "vector reward": ("RunError", "returned reward array([1., 1.]), expected one finite number at step 4"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_training_ends_the_run_with_its_step_and_words(fault, run):
    code, lines, path = run(fault, episode=3, step=4)
    kind, words = FAULTS[fault]
    assert code == 1
    assert len(lines) == 1 and lines[0].startswith("rlresearch: environment 'Faulty-v0'")
    assert re.search(r"\(episode seed \d+, action \[-?[\d.]+\]\)", _ended(path)["reason"]["error"])
    assert words in lines[0] and str(path) in lines[0] and "Traceback" not in lines[0]
    ended = _ended(path)
    assert ended["status"] == "failed" and ended["finished_at"] is not None
    assert ended["total_steps"] == 23  # two episodes of ten steps and three steps of the third
    reason = ended["reason"]
    assert words in " ".join(reason["error"].split())
    assert (reason["kind"], reason["environment"], reason["step"]) == (kind, "Faulty-v0", 23)
    assert _steps(path, "metrics.jsonl") == [10, 20]
    assert _steps(path, "evaluations.jsonl") == [20]
    log = (path / "log.txt").read_text()
    assert "Traceback" in log and "failed" in log and ("the arm" in log) == (fault == "raise")


@pytest.mark.parametrize("episode, rows", [(1, []), (3, [10])], ids=["first", "third"])
def test_a_fault_in_reset_is_told_as_one(episode, rows, run):
    code, lines, path = run("reset", episode=episode, step=0)
    assert code == 1 and len(lines) == 1 and "raised in reset" in lines[0] and "the arm is stuck" in lines[0]
    reason = _ended(path)["reason"]
    assert (reason["kind"], reason["environment"]) == ("ValueError", "Faulty-v0")
    assert reason["step"] == max(episode - 1, 0) * EPISODE - (
        episode > 1
    )  # the step that led there is not learned from
    metrics = path / "metrics.jsonl"
    assert (_steps(path, "metrics.jsonl") if metrics.exists() else []) == rows


def test_the_step_counts_all_copies(run):
    _, _, path = run("raise", "env.num_envs=2", episode=2, step=4)
    assert _ended(path)["reason"]["step"] == 2 * (10 + 3)
    assert _steps(path, "metrics.jsonl") == [10, 20]


@pytest.mark.filterwarnings("ignore:.*ERROR:UserWarning")  # Gymnasium repeats the worker's traceback
def test_a_fault_in_a_copys_own_process_is_told_the_same_way(run):
    code, lines, path = run("raise", "env.vectorization=async", episode=2, step=4)
    assert code == 1 and len(lines) == 1 and "ValueError: the arm is stuck" in lines[0]
    reason = _ended(path)["reason"]
    assert (reason["environment"], reason["step"]) == ("Faulty-v0", 13)
    assert _steps(path, "metrics.jsonl") == [10]


def test_a_copys_process_that_is_killed_is_told_and_leaves_none_behind(run):
    code, lines, path = run("kill", "env.vectorization=async", "env.num_envs=2", episode=2, step=4)
    assert code == 1 and len(lines) == 1
    assert "environment 'Faulty-v0': a process that steps one of its copies is gone" in lines[0]
    reason = _ended(path)["reason"]
    assert (reason["environment"], reason["step"]) == ("Faulty-v0", 2 * 13) and "(actions [[" in reason["error"]
    assert _steps(path, "metrics.jsonl") == [10, 20]
    assert multiprocessing.active_children() == []


def test_a_fault_in_the_final_evaluation_keeps_all_training(run):
    code, lines, path = run("raise", where="evaluation", episode=3, step=4)
    assert code == 1 and len(lines) == 1
    assert "in the evaluation at step 60, environment 'Faulty-v0' raised at step 4" in lines[0]
    ended = _ended(path)
    assert ended["status"] == "failed" and ended["final_evaluation"] is None
    assert (ended["reason"]["kind"], ended["reason"]["step"]) == ("ValueError", 60)
    assert "the arm" in ended["reason"]["error"]
    assert _steps(path, "metrics.jsonl") == [10, 20, 30, 40, 50, 60]
    assert _steps(path, "evaluations.jsonl") == [20, 40]
    assert "the arm" in (path / "log.txt").read_text()


def test_ctrl_c_keeps_what_was_logged(run):
    code, lines, path = run("interrupt", episode=3, step=4)
    assert code == 130 and lines == ["interrupted"]
    ended = _ended(path)
    assert ended["status"] == "interrupted" and ended["reason"]["step"] == 23
    assert _steps(path, "metrics.jsonl") == [10, 20]
    assert _steps(path, "evaluations.jsonl") == [20]


def test_without_a_fault_the_same_run_finishes(run):
    code, lines, path = run("none at all")
    assert code == 0 and lines == []
    ended = _ended(path)
    assert ended["status"] == "finished" and ended["reason"] is None
    assert ended["final_evaluation"]["mean"] == EPISODE
    assert _steps(path, "metrics.jsonl") == [10, 20, 30, 40, 50, 60]
    assert _steps(path, "evaluations.jsonl") == [20, 40, 60]


# Environments that do not come back.

STUCK = """
import ctypes, os, sys, time
from pathlib import Path
from rlresearch.runtime import heartbeat, watchdog
run, how = Path(sys.argv[1]), sys.argv[2]
with watchdog.watched(1.0, "Stuck-v0", [run]):
    heartbeat.total(123)
    for step in range(3):
        heartbeat.enter(77, step, [0.5, -1.0])
        heartbeat.leave()
    child = os.fork()
    if child == 0:
        time.sleep(60)
    print(os.getpid(), child, flush=True)
    heartbeat.enter(77, 3, [0.5, -1.0])
    if how == "asleep":
        time.sleep(60)
    elif how == "holds the interpreter":
        ctypes.PyDLL(None).sleep(60)
    else:
        time.sleep(0.2)
    heartbeat.leave()
    if how == "between steps":
        time.sleep(2.5)
    os.kill(child, 9)
"""


def stuck(tmp_path, how):
    """A process of its own, which says its number and that of one that it forked; its run directory."""
    run = RunDirectory.create(tmp_path, "ddpg", "stuck", 0)
    run.close()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", STUCK, str(run.path), how]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return process, [int(each) for each in process.stdout.readline().split()], run.path


def _alive(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.parametrize("how", [pytest.param("asleep", marks=pytest.mark.slow), "holds the interpreter"])
def test_an_environment_that_does_not_come_back_ends_the_run_with_its_place_and_traceback(how, tmp_path):
    process, (parent, child), path = stuck(tmp_path, how)
    assert process.wait(300) == -signal.SIGKILL  # by itself it would end, with 0, after a minute
    (line,) = process.stderr.read().splitlines()
    place = "did not come back within 1 s from step 3 of its episode (seed 77, action [0.5, -1.0])"
    assert line.startswith(f"rlresearch: environment 'Stuck-v0' {place}") and str(path) in line
    ended = _ended(path)
    assert ended["status"] == "failed" and ended["finished_at"] is not None and ended["total_steps"] == 123
    assert ended["reason"]["environment"] == "Stuck-v0" and place in ended["reason"]["error"]
    log = (path / "log.txt").read_text()
    assert place in log and re.search(r'File "<string>", line 1[79]', log)  # where it hangs
    while _alive(parent) or _alive(child):  # the kernel takes a moment
        time.sleep(0.01)
    assert [file.name for file in path.iterdir() if file.name.startswith(".")] == []


@pytest.mark.parametrize("how", [pytest.param("between steps", marks=pytest.mark.slow), "stopped"])
def test_a_run_that_learns_for_long_or_was_stopped_is_not_overdue(how, tmp_path):
    process, (parent, _), path = stuck(tmp_path, how)
    if how == "stopped":
        os.kill(parent, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(parent, signal.SIGCONT)
    assert process.wait(300) == 0 and process.stderr.read() == ""
    assert _ended(path)["status"] == "running"


def test_a_unit_tells_where_it_is_before_it_steps_and_that_it_came_back():
    block = np.zeros(heartbeat.NUMBERS)
    seen = []

    class Telling(Faulty):
        def step(self, action):
            seen.append(block.copy())
            return super().step(action)

    unit = CheckedEnv(Telling("nothing"), "Telling-v0")
    heartbeat.tell(block)
    try:
        unit.reset(seed=5)
        unit.step(np.array([0.25], np.float32))
        assert (
            seen[0][[heartbeat.INSIDE, heartbeat.STEP, heartbeat.SEED, heartbeat.WIDTH, heartbeat.ACTION]]
            == [1, 1, 5, 1, 0.5]
        ).all()
        assert block[heartbeat.INSIDE] == 0 and block[heartbeat.COUNT] == 4
        with pytest.raises(Exception, match="raised at step 2"):
            unit.env.fault, unit.env.at = "raise", (1, 2)
            unit.env.where = "training" if Faulty.trained_in is unit.env else "evaluation"
            unit.step(np.zeros(1, np.float32))
        assert block[heartbeat.INSIDE] == 0
    finally:
        heartbeat.tell(None)


HANGING = """
import ctypes
import gymnasium as gym
import numpy as np
from gymnasium import spaces
from support import random_actions

class Hanging(gym.Env):
    observation_space, action_space = spaces.Box(-100, 100, (2,), np.float32), spaces.Box(-2, 2, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 50:
            ctypes.PyDLL(None).sleep(600)  # holds the interpreter
        return np.zeros(2, np.float32), 0.0, False, False, {}

gym.register("Hanging-v0", Hanging, disable_env_checker=True, max_episode_steps=100)
"""


@pytest.mark.slow
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_training_run_whose_environment_hangs_is_ended_and_says_where(vectorization, tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "rlresearch", f"--config-dir={tmp_path}", "env=gym", "env.id=hanging:Hanging-v0"]
    command += [f"env.vectorization={vectorization}", "env.timeout_s=3", "algo.learning_starts=1000", "logger=quiet"]
    command += [f"runs_dir={tmp_path / 'runs'}", "device=cpu", "logger.every_steps=10", "env.num_envs=2"]
    command += ["total_steps=2000"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "environment 'hanging:Hanging-v0' did not come back within 3 s from" in done.stderr
    (path,) = (tmp_path / "runs").glob("*/*")
    ended = _ended(path)
    assert ended["status"] == "failed" and ended["reason"]["step"] == 98  # of two copies
    assert "hanging.py" in (path / "log.txt").read_text()  # where it hangs, also in a process of its own
    where = "step 50 of its episode (seed " if vectorization == "sync" else "a step of its copies (action [["
    assert where.removesuffix("[[") in ended["reason"]["error"]
    assert _steps(path, "metrics.jsonl")[-1] == 90
    others = [each.read_bytes() for each in Path("/proc").glob("[0-9]*/cmdline") if each.exists()]
    assert not any(os.fsencode(tmp_path) in each for each in others)
