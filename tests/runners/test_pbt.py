"""Population-based training: the worst become copies of the best, part from them, and all of it can be resumed."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from rlresearch.config import compose
from rlresearch.errors import ConfigError
from rlresearch.runners import PBT, population
from rlresearch.runners.pbt import choose_sources, explored
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training import resume
from rlresearch.training.experiment import plan
from rlresearch.training.request import RunRequest
from rlresearch.training.run import Run

TINY = ["network.actor.hidden=[4]", "network.critic.hidden=[4]", "algo.batch_size=8", "algo.learning_starts=20"]
TINY += ["eval.every_steps=100", "eval.episodes=1", "eval.final_episodes=1", "total_steps=300", "logger.console=none"]


def test_the_worst_become_copies_of_the_best():
    draws = np.array([0.0, 0.99, 0.6, 0.0, 0.4, 0.0, 0.2, 0.7])
    scores = [5, 1, 7, 3, 2, 6, 8, 4]
    sources = choose_sources(scores, draws, 0.25)
    assert {i for i in range(8) if sources[i] != i} == {1, 4}  # the two worst
    assert sources[1] == 6 and sources[4] == 2  # of the two best, as was drawn
    assert choose_sources([1.0, 1.0], draws, 0.5).tolist() == [0, 1], "nobody is better"
    assert choose_sources([np.nan, 1.0, 2.0], draws, 0.4).tolist() == [2, 1, 2], "NaN is the worst of all"


def test_exploring_stays_within_the_bounds_and_does_what_was_drawn():
    values = np.array([1e-3, 1e-3, 1e-3, 9e-3])
    draws = np.array([[0.9, 0.1], [0.9, 0.9], [0.1, 0.5], [0.9, 0.9]])
    new = explored(values, draws, 1e-5, 1e-2, (0.8, 1.25), 0.25)
    np.testing.assert_allclose(new, [8e-4, 1.25e-3, 10**-3.5, 1e-2])


@pytest.fixture(scope="module")
def runner():
    """Three tables that learn to walk along a cliff: a program that compiles in a second."""
    words = ["algo=q_learning", "env=cliff_walking", "runner=pbt", "runner.seeds=3", "runner.truncation=0.4"]
    made = plan(compose.compose([*words, "runner.explore={algo.alpha:[0.05,0.5],algo.gamma:[0.9,0.99]}"]).config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(population, "SHARE", 1)  # copies then go from one share of members to another
        return made.runner.start(made.trainer, made.task, 0)


def test_a_copy_is_whole_parts_from_its_model_and_learns_with_its_own_values(runner):
    runner.advance(60, True)
    before, values = runner.state(), {path: each.numpy() for path, each in runner.values().items()}
    (row,) = runner.after_evaluation(60, [3.0, 1.0, 2.0])
    after = runner.state()
    assert (row["member"], row["from"], row["score"], row["from_score"]) == (1, 0, 1.0, 3.0)
    for part in ("algo", "buffer", "normalizer", "env", "timestep"):
        old, new = tf.nest.flatten(getattr(before, part)), tf.nest.flatten(getattr(after, part))
        for was, now in zip(old, new, strict=True):
            np.testing.assert_array_equal(now[1], was[0])  # all that the model knows
            np.testing.assert_array_equal(now[2], was[2])  # the others stay
    np.testing.assert_array_equal(after.key, before.key)
    np.testing.assert_array_equal(after.episodes.run_return[1], before.episodes.run_return[0])
    np.testing.assert_array_equal(after.totals.count, before.totals.count)
    own = {path: each.numpy() for path, each in runner.values().items()}
    assert own["alpha"][1] == np.float32(row["after"]["algo.alpha"]) != values["alpha"][1]
    assert row["copied"]["algo.gamma"] == values["gamma"][0] and own["gamma"][0] == values["gamma"][0]
    assert runner.replacements == 1 and runner.after_evaluation(60, [1.0, 1.0, 1.0]) == []

    traced = runner._loops[0]._chunks.experimental_get_tracing_count
    programs = traced()
    runner.advance(20, False)
    assert traced() == programs, "new values need no new program"
    tables = runner.state().algo.tables
    assert np.any(tables[0] != tables[1]), "copy and model have parted"


def test_values_that_change_reach_the_program(runner):
    """With a step size of nothing nothing is learned."""
    still = {**runner.extra_state(), "values.alpha": np.zeros(3, np.float32)}
    runner.restore(runner.iteration, runner.state(), still)
    before = runner.state().algo.tables
    runner.advance(20, False)
    np.testing.assert_array_equal(runner.state().algo.tables, before)


def test_members_begin_evenly_spread_unless_they_are_told():
    part = PBT(seeds=4, explore={"optimizer.lr": [1e-5, 1e-1]})
    np.testing.assert_allclose(sorted(part.keys["optimizer.lr"]), [10**-4.5, 10**-3.5, 10**-2.5, 10**-1.5])
    assert PBT(seeds=2, values={"optimizer.lr": [1e-3, 1e-4]}).keys == {"optimizer.lr": [1e-3, 1e-4]}


WRONG = {
    "runner.explore={algo.gama:[0.9,0.99]}": "did you mean 'algo.gamma'?",
    "runner.explore={algo.gamma:[0.9,1.5]}": "algo.gamma=1.5: must be a number from 0 to 1",
    "runner.explore={algo.gamma:[0.99,0.9]}": "must be [LOWEST,HIGHEST]",
    "runner.explore={algo.gamma:0.9}": "must be [LOWEST,HIGHEST]",
    "runner.truncation=0.7": "at most 0.5",
    "runner.factors=[]": "must not be empty",
    "runner.seeds=1": "at least two members",
    "eval=final": "chooses between members at evaluations",
    "runner.values={optimizer.lr:[1e-3]}": "must be a list of 8 values",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_explored_is_refused(words):
    with pytest.raises(ConfigError) as caught:
        plan(compose.compose(["runner=pbt", words]).config)
    assert WRONG[words] in str(caught.value)


@pytest.mark.slow
def test_a_population_that_was_killed_chooses_and_explores_as_it_would_have(tmp_path):
    """Also where the checkpoint was made after replays had been copied over others."""
    own = ["runner=pbt", "runner.seeds=4", "checkpoint.every_steps=50", "checkpoint.keep_last=10"]
    config = compose.compose([*own, *TINY, "buffer.capacity=120", f"runs_dir={tmp_path}/whole"]).config
    request = RunRequest(config=config, algo="ddpg", env="pendulum", argv=[], overrides=[])
    Run(plan(config), request).execute()
    whole = min(path.parent for path in (tmp_path / "whole").glob("*/*/checkpoints"))
    before = (whole / "lineage.jsonl").read_text()
    assert {json.loads(line)["step"] for line in before.splitlines()} == {100, 200}
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    killed = tmp_path / "killed" / whole.relative_to(tmp_path / "whole")
    for path in (killed / "checkpoints").glob("0*"):
        if path.name > "000000000150.":
            shutil.rmtree(path)
    for run in killed.parent.iterdir():
        RunDirectory(run).record(status="running")
    made, resumption = resume.load_resume_point(str(killed), [], [])
    assert resumption.loaded.about.step == 150
    Run(made, request._replace(config=resumption.config), resumption).execute()
    assert (killed / "lineage.jsonl").read_text() == before
    digests = [RunDirectory(run).recorded()["state_digest"] for run in (killed, whole)]
    assert digests[0] == digests[1]
