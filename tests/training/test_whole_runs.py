"""Whole runs through the command line, in this process: the same command twice, and what it gives back."""

import json
import re

import pytest
from conftest import few_operations, without_xla

from rlresearch.cli.main import main
from rlresearch.storage.jsonl import read_rows
from rlresearch.training.run import Run

COMMAND = [
    "total_steps=400", "tuned=none", "algo.learning_starts=0", "algo.batch_size=8", "network.actor.hidden=[8]",
    "network.critic.hidden=[8]", "buffer.capacity=300", "eval.every_steps=200", "eval.episodes=2",
    "eval.final_episodes=3", "logger.every_steps=100", "device=cpu", "compile_cache=false",
]  # fmt: skip
# What two runs of one command may differ in: when, how long, and where.
TIMES = {"started_at", "finished_at", "training_time_s", "wall_time_s", "steps_per_second", "pid"}


def ran(folder, *overrides):
    """The run directories of one command, by seed."""
    with without_xla(), few_operations():
        assert main([*overrides, *COMMAND, f"runs_dir={folder}"]) == 0
    runs = [path.parent for path in folder.glob("*/*/run.json")]
    return sorted(runs, key=lambda run: json.loads((run / "run.json").read_text())["seed"])


def without(row, keys):
    return {key: value for key, value in row.items() if key not in keys}


def returns(run):
    """Of every episode of every evaluation."""
    return [row["returns"] for row in read_rows(run / "evaluations.jsonl")]


@pytest.fixture(scope="module")
def given():
    """What runs gave back, in their order."""
    given, real = [], Run.execute
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "execute", lambda run: given.append(real(run)) or given[-1])
        yield given


@pytest.fixture(scope="module")
def twice(tmp_path_factory, given):
    return [ran(tmp_path_factory.mktemp("runs"))[0] for _ in range(2)]


def test_the_same_command_twice_writes_the_same_files_apart_from_times(twice):
    one, two = twice
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [[without(row, {"time", "speed/steps_per_second"}) for row in read_rows(run / name)] for run in twice]
        assert repr(rows[0]) == repr(rows[1]) and len(rows[0]) >= 2  # repr: NaN is not itself
    configs = [re.sub(r"^runs_dir: .*$", "", (run / "config.yaml").read_text(), flags=re.MULTILINE) for run in twice]
    assert configs[0] == configs[1]
    records = [json.loads((run / "run.json").read_text()) for run in twice]
    for record in records:
        assert record.keys() >= TIMES - {"pid"}
        record["command"] = record["overrides"] = None  # they name runs_dir
    assert without(records[0], TIMES) == without(records[1], TIMES)


def test_what_is_given_back_is_the_final_evaluations_mean(twice, given):
    assert given[:2] == [json.loads((run / "run.json").read_text())["final_evaluation"]["mean"] for run in twice]
    assert [len(each) for each in returns(twice[0])] == [2, 3]
    assert given[0] == pytest.approx(sum(returns(twice[0])[-1]) / 3)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """The runs of a sweep in one process, of seed 0 and of seed 1, of which 1 ran first."""
    return ran(tmp_path_factory.mktemp("jobs"), "-m", "seed=1,0")


def test_several_jobs_in_one_process_have_a_directory_each_and_know_nothing_of_each_other(twice, jobs):
    assert [json.loads((run / "run.json").read_text())["seed"] for run in jobs] == [0, 1]
    assert returns(jobs[0]) == returns(twice[0])


def test_another_seed_writes_other_numbers(twice, jobs):
    assert returns(jobs[1]) != returns(twice[0])
