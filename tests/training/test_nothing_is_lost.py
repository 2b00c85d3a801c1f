"""Whatever fails once training is done, or beside it: the last state lies on the disk, and `resume` goes on from it."""

import json

import gymnasium as gym
import numpy as np
import pytest
from conftest import few_operations, without_xla
from gymnasium import spaces
from support import random_actions

from rlresearch.cli.main import main
from rlresearch.errors import RunError
from rlresearch.evaluation.evaluator import Evaluator, evaluation_seeds
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.storage import checkpoint
from rlresearch.storage.jsonl import read_rows

STEPS, EPISODE, FINAL = 60, 10, 50


class Trying(gym.Env):
    """Steps to the right. fault: what fails, by name; most: how many there can be at once."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Box(-2, 2, (1,), np.float32)
    fault, most, alive = None, 1_000, 0

    def __init__(self):
        if Trying.alive >= Trying.most:
            raise RuntimeError("port 5005 is in use")
        Trying.alive += 1
        self.seed = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.seed = 0, seed
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 4 and Trying.fault in FAILING and self.seed == FAILING[Trying.fault]():
            raise ValueError("the arm is stuck")
        return np.full(2, self.steps, np.float32), 1.0, False, self.steps == EPISODE, {}

    def close(self):
        Trying.alive -= 1
        if Trying.fault == "close":
            raise OSError("the port is gone")


# The seed of the episode that fails.
FAILING = {
    "episode 37": lambda: evaluation_seeds(0, STEPS, FINAL)[36],
    "at step 20": lambda: evaluation_seeds(0, 20, 1)[0],
}
gym.register("Trying-v0", Trying, disable_env_checker=True, max_episode_steps=1_000)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command line with random actions; (exit code, lines of standard error)."""
    folder = random_actions.folder_with(tmp_path / "own")
    Trying.fault, Trying.most, Trying.alive = None, 1_000, 0

    def run(*words, resume=None, runs="runs"):
        own = ["algo=random_actions", "buffer.capacity=100", "env=gym", "env.id=Trying-v0", f"total_steps={STEPS}"]
        own += ["logger.every_steps=10", "eval.every_steps=20", "eval.episodes=1", f"eval.final_episodes={FINAL}"]
        own += ["logger.console=none", "compile_cache=false", "device=cpu", f"runs_dir={tmp_path / runs}"]
        words = [f"resume={resume}", "packages=[support]", *words] if resume else [*own, *words]
        with without_xla(), few_operations():
            code = main([f"--config-dir={folder}", *words])
        return code, capsys.readouterr().err.splitlines()

    return run


def run_in(tmp_path, runs="runs"):
    (path,) = (tmp_path / runs).glob("*/*")
    return path


def record(path):
    return json.loads((path / "run.json").read_text())


def last_step(path):
    return checkpoint.newest(path)[0].about.step


def evaluated(path):
    return [(row["step"], len(row["returns"])) for row in read_rows(path / "evaluations.jsonl")]


@pytest.mark.parametrize(("fault", "reached"), [("episode 37", STEPS), ("at step 20", 20)])
def test_an_evaluation_that_fails_costs_nothing_that_was_trained(fault, reached, run, tmp_path):
    Trying.fault = fault
    code, (line,) = run()
    path = run_in(tmp_path)
    assert code == 1 and f"in the evaluation at step {reached}, environment 'Trying-v0' raised at step 4" in line
    assert record(path)["status"] == "failed" and last_step(path) == reached
    Trying.fault = None
    assert run(resume=path) == (0, [])
    assert run(runs="whole") == (0, [])
    whole = run_in(tmp_path, "whole")
    assert record(path)["status"] == "finished" and record(path)["resumes"][0]["step"] == reached
    assert record(path)["state_digest"] == record(whole)["state_digest"]
    assert evaluated(path) == evaluated(whole) == [(20, 1), (40, 1), (60, FINAL)]


def test_the_last_state_lies_there_before_the_last_evaluation_begins(run, tmp_path, monkeypatch):
    """So that what kills the process in an evaluation costs nothing; afterwards one checkpoint is left of the two."""
    seen, real = [], Evaluator.run

    def watching(self, policy, episodes, step, active=None):
        seen.append((step, checkpoint.newest(run_in(tmp_path))[0]))
        return real(self, policy, episodes, step, active)

    monkeypatch.setattr(Evaluator, "run", watching)
    assert run("checkpoint.keep_best=false") == (0, [])
    step, before = seen[-1]
    assert step == before.about.step == STEPS and before.about.position["evaluation"] == 40
    assert checkpoint.names(run_in(tmp_path)) == [f"{STEPS:012d}"]
    assert checkpoint.newest(run_in(tmp_path))[0].about.position["evaluation"] == STEPS


def test_a_full_disk_at_the_last_evaluations_row_costs_that_row(run, tmp_path, monkeypatch):
    real = FileLogger.evaluation

    def full(self, row):
        if row["step"] == STEPS:
            raise RunError("evaluations.jsonl cannot be written: No space left on device")
        real(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(FileLogger, "evaluation", full)
        code, (line,) = run()
    path = run_in(tmp_path)
    assert code == 1 and "No space left" in line and last_step(path) == STEPS
    assert run(resume=path) == (0, [])
    assert evaluated(path) == [(20, 1), (40, 1), (60, FINAL)]


def test_an_environment_that_raises_when_it_is_closed_costs_a_warning(run, tmp_path):
    Trying.fault = "close"
    assert run("eval.every_steps=null") == (0, [])
    path = run_in(tmp_path)
    assert record(path)["status"] == "finished" and last_step(path) == STEPS
    assert (
        "environment 'Trying-v0' raised OSError: the port is gone when it was closed" in (path / "log.txt").read_text()
    )


# Simulators of which there can be few at once.


@pytest.mark.parametrize("most", [1, 2, 3])
def test_with_one_copy_for_evaluations_a_run_is_the_run_with_as_many_as_it_likes(most, run, tmp_path):
    """With one in all, that which is trained in is closed for an evaluation, and brought back after it."""
    assert run("eval.final_episodes=3", "eval.every_steps=15", runs="whole") == (0, [])
    Trying.most = most
    assert run("eval.final_episodes=3", "eval.every_steps=15", "eval.copies=1") == (0, [])
    path, whole = run_in(tmp_path), run_in(tmp_path, "whole")
    assert record(path)["state_digest"] == record(whole)["state_digest"]
    assert evaluated(path) == evaluated(whole) == [(15, 1), (30, 1), (45, 1), (60, 3)]
    assert Trying.alive == 0


@pytest.mark.parametrize(("most", "could"), [(20, 19), (1, 0)])
def test_too_few_copies_are_told_before_the_first_step(most, could, run, tmp_path):
    Trying.most = most
    code, (line,) = run()
    assert code == 2 and f"an evaluation needs {FINAL} of Trying-v0 beside those that are trained in" in line
    assert f"{could} could be made (port 5005 is in use); set eval.copies={could or 1}" in line
    assert record(run_in(tmp_path))["total_steps"] == 0 and Trying.alive == 0


# Environments that cannot be brought back into an episode.


class Keeping(Trying):
    """Pays by the number of episodes before, which a new one knows nothing of."""

    def __init__(self):
        super().__init__()
        self.episodes = -1

    def reset(self, *, seed=None, options=None):
        self.episodes += 1
        return super().reset(seed=seed)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self.episodes), *rest


gym.register("Keeping-v0", Keeping, disable_env_checker=True, max_episode_steps=1_000)


def test_a_newer_place_that_cannot_be_come_back_to_is_offered_when_a_run_goes_on_from_before_it(run, tmp_path):
    few = ["env.id=Keeping-v0", "eval.every_steps=null", "eval.final_episodes=1", "checkpoint.every_steps=10"]
    assert run(*few, "total_steps=35") == (0, [])
    path = run_in(tmp_path)
    assert checkpoint.newest(path)[0].about.step == 30
    assert run("total_steps=45", resume=path) == (0, [])
    told = (
        "cannot be brought back to step 35; the run goes on from step 30. checkpoint.episodes=fresh goes on from there"
    )
    assert told in (path / "log.txt").read_text()
    assert record(path)["resumes"][0]["step"] == 30


def test_memory_over_episodes_is_named_and_resume_goes_on_with_fresh_episodes_when_asked(run, tmp_path, monkeypatch):
    few = ["env.id=Keeping-v0", "eval.every_steps=null", "eval.final_episodes=1"]
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "run", lambda *_: (_ for _ in ()).throw(RunError("the evaluation fails")))
        assert run(*few, "total_steps=35")[0] == 1
    path = run_in(tmp_path)
    found = record(path)["nondeterminism"]
    assert (found["environment"], found["kind"], found["episode"]) == ("Keeping-v0", "memory", 1)
    assert record(path)["warnings"] == [found["message"]] and found["message"] in (path / "log.txt").read_text()
    assert checkpoint.newest(path)[0] is None and checkpoint.newest(path, exact=False)[0].about.step == 35
    code, (line,) = run(resume=path)
    assert code == 2 and "environment 'Keeping-v0' cannot be brought back to step 35" in line
    assert "checkpoint.episodes=fresh goes on from there with new episodes" in line
    assert run("checkpoint.episodes=fresh", "total_steps=50", resume=path) == (0, [])
    ended = record(path)
    assert ended["status"] == "finished" and ended["total_steps"] == 50
    assert [(each["step"], each["fresh_episodes"]) for each in ended["resumes"]] == [(35, True)]
