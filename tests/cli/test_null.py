"""What is null by default can be said, and be one value of a sweep."""

import pytest

from rlresearch.cli import main as entry
from rlresearch.cli.arguments import parse_arguments
from rlresearch.config.compose import compose
from rlresearch.config.dotted import flattened


def test_every_setting_that_is_null_can_be_set_to_null():
    plain = compose([]).config
    null = [key for key, value in flattened(plain).items() if value is None]
    assert {"resume", "threads", "init_from", "eval.video_every"} <= set(null)
    assert compose([f"{key}=null" for key in null]).config == plain


@pytest.mark.parametrize(
    "typed, same",
    [
        (["experiment=null"], []),
        (["experiment=pendulum_tiny_networks", "experiment=null"], []),
        (["+experiment=NULL"], []),
        (["tuned=null"], ["tuned=none"]),
        (["~tuned"], ["tuned=none"]),
    ],
)
def test_no_choice_is_a_choice(typed, same):
    composed = compose(typed)
    assert composed.config == compose(same).config
    assert composed.overrides == typed  # as it was typed, for run.json


def test_resume_null_begins_a_run():
    assert parse_arguments(["resume=null"]).mode == "train"
    assert parse_arguments(["-m", "resume=null"]).mode == "sweep"
    assert parse_arguments(["resume='null'"]).mode == "resume"  # a run of that name


@pytest.mark.parametrize("words", ["experiment=null,pendulum_tiny_networks", "tuned=null,none resume=null"])
def test_null_is_one_value_of_a_sweep(words, capsys):
    assert entry.main(["-m", *words.split(), "hydra.sweeper.plan_only=true"]) == 0
    assert "2 jobs" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["experiment=[null]", "network=null", "logger=null"])
def test_null_is_refused_where_a_choice_is_needed(word, capsys):
    assert entry.main([word, "total_steps=0"]) == 2
    assert capsys.readouterr().err.startswith(f"rlresearch: {word}: there is no such option")


def test_what_is_shown_knows_null_too(capsys):
    assert entry.main(["experiment=null", "--cfg", "job"]) == 0
    assert "total_steps: 20000" in capsys.readouterr().out
