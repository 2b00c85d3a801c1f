"""A run that was killed and goes on is the run that was never killed, to the bit."""

import json
import shutil

import pytest
from conftest import without_xla

from rlresearch import training
from rlresearch.__main__ import main
from rlresearch.rundir import read_rows

SMALL = ["network.actor.hidden=[8]", "network.critic.hidden=[8]", "tuned=none", "device=cpu", "compile_cache=false"]
RARELY = ["eval.every_steps=120", "eval.episodes=2", "eval.final_episodes=3", "env.max_episode_steps=50"]
OFTEN = ["logger.every_steps=40", "logger.console=none", "checkpoint.every_steps=100", "total_steps=400"]
REPLAY = ["algo.learning_starts=100", "algo.batch_size=8", "buffer.capacity=150"]
RUNS = {
    "device": [*REPLAY, "noise=ou"],
    "prioritized": ["algo=td3", "buffer=prioritized", "buffer.n_step=3", "env.num_envs=2", *REPLAY],
    "rollouts": ["algo=ppo", "algo.rollout_steps=64", "algo.minibatches=2", "algo.epochs=2", "normalize=running"],
    "host": ["runner=host", "env.num_envs=3", *REPLAY],
    "population": ["runner=population", "runner.seeds=2", "runner.values={algo.gamma:[0.9,0.99]}", *REPLAY],
}
TIMES = {"time", "speed/steps_per_second"}


def command(kind, folder):
    return [*RUNS[kind], *SMALL, *RARELY, *OFTEN, f"runs_dir={folder}"]


def runs_in(folder):
    return sorted(path.parent for path in folder.glob("*/*/run.json"))


def record(run):
    return json.loads((run / "run.json").read_text())


def rows(run, name):
    """As text, since NaN is not itself."""
    return [repr({k: v for k, v in row.items() if k not in TIMES}) for row in read_rows(run / f"{name}.jsonl")]


def copied_when(monkeypatch, folder, copy, iteration, part="advance"):
    """The runs folder as a process leaves it that is killed there: a copy, made while it trains."""
    real = training._Loop._advance

    def advance(self, until):
        if until >= iteration > self._runner.iteration and not copy.exists():
            real(self, iteration)
            self.keeper._finish_writing()
            shutil.copytree(folder, copy)
        real(self, until)

    monkeypatch.setattr(training._Loop, "_advance", advance)


@pytest.fixture(scope="module", params=RUNS)
def both(request, tmp_path_factory):
    """(kind, runs never killed, the same killed at step 270 or so and gone on with)."""
    kind = request.param
    whole, killed = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("killed") / "runs"
    with pytest.MonkeyPatch.context() as patch, without_xla():
        copied_when(patch, whole, killed, 270 // (3 if kind == "host" else 2 if kind == "prioritized" else 1))
        assert main(command(kind, whole)) == 0
    assert killed.exists()
    assert all(record(run)["status"] == "running" for run in runs_in(killed))
    with without_xla():
        assert main([f"resume={runs_in(killed)[-1]}"]) == 0
    return kind, runs_in(whole), runs_in(killed)


def test_the_last_state_is_the_same_to_the_bit(both):
    _, whole, killed = both
    assert [run.name for run in whole] == [run.name for run in killed]
    digests = {record(run)["state_digest"] for run in whole + killed}
    assert len(digests) == 1 and None not in digests


def test_every_row_is_there_once_and_says_the_same(both):
    _, whole, killed = both
    for one, two in zip(whole, killed, strict=True):
        for name in ("metrics", "evaluations"):
            assert rows(one, name) == rows(two, name)
        assert len(rows(one, "metrics")) == 10 and len(rows(one, "evaluations")) == 4
        assert record(two)["nondeterminism"] is None and not list(two.glob("*.cut.jsonl"))


def test_what_was_cut_off_and_where_it_went_on_is_recorded(both):
    _, _, killed = both
    for run in killed:
        ended = record(run)
        (resume,) = ended["resumes"]
        assert resume["step"] in (200, 201) and resume["changed"] == {} and ended["status"] == "finished"
        assert ended["final_evaluation"]["episodes"] == 3
    assert all((run / "config.yaml").read_bytes() for run in killed)
