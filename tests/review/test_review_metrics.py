"""Every metric is documented: its unit, and what it means."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import ALGORITHMS, make_plan

from rlresearch import rng
from rlresearch.config.compose import CONFIG_FOLDER
from rlresearch.review.__main__ import main
from rlresearch.review.commands import metrics
from rlresearch.runners.runner import Runner
from rlresearch.training.callbacks import Members
from rlresearch.training.loop import LoopSettings, TrainingLoop
from rlresearch.training.reporting import LoggerCallback
from rlresearch.training.settings import EvalSettings
from rlresearch.types import TimeStep


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_an_algorithm_documents_is_what_is_shown(name):
    target = yaml.safe_load((CONFIG_FOLDER / "algo" / f"{name}.yaml").read_text())["algo"]["_target_"]
    module, _, component = target.rpartition(".")
    documented, own = metrics.documented(name), getattr(importlib.import_module(module), component).METRICS
    assert set(own) <= set(documented)
    for key, line in own.items():
        unit, meaning = documented[key]
        assert f"{meaning}, in {unit}" == line, f"{key} of {name} has no unit: end its line with ', in UNIT'"


@pytest.mark.parametrize("name", sorted(metrics.everywhere()))
def test_the_metrics_of_every_run_have_units(name):
    assert metrics.everywhere()[name].unit != "-" and metrics.everywhere()[name].meaning


def test_a_row_has_no_undocumented_metric():
    class Numbers(Runner):
        """Rows as the trainer makes them; what training adds to them comes from the real loop."""

        iteration, members, learning_start_iteration = 0, [0], 0

        def advance(self, iterations, reset_metrics):
            self.iteration += iterations

        def state(self):
            return state

        def restore(self, iteration, state, extra_state):
            raise NotImplementedError

        def metrics(self):
            return [plan.trainer.metrics(state)]

        def policy(self, obs):
            return np.zeros(obs.shape[:2], int)

    plan, rows = make_plan("q_learning"), []
    size = plan.task.spec.observation_space.shape
    state = plan.trainer.init(rng.key(0), (), TimeStep(tf.zeros((1, *size)), tf.constant([True])))
    kept = SimpleNamespace(metrics=rows.append, evaluation=rows.append)
    settings = LoopSettings(20, 10, EvalSettings(episodes=1, final_episodes=1))
    TrainingLoop(Numbers(), plan.task, settings, [LoggerCallback(Members(1), [kept])]).run()
    known = set(metrics.documented("q_learning")) | {"step", "returns", "lengths"}
    assert len(rows) == 3 and set().union(*rows) <= known


def test_the_command_shows_a_line_for_each_meaning(capsys):
    assert main(["metrics", "ddpg", "td3", "--format", "json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    critics = [line for line in lines if line["metric"] == "loss/critic"]
    assert [line["algorithms"] for line in critics] == ["ddpg", "td3"]
    shared = next(line for line in lines if line["metric"] == "train/return")
    assert shared["algorithms"] == "all" and shared["unit"] == "units of return"
    assert not any(line["unit"] == "-" for line in lines)


def test_an_algorithm_of_ones_own_has_the_metrics_of_all():
    assert metrics.documented("mine") == metrics.everywhere()
