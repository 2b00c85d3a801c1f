"""Names of version 0.1 that stored configurations and users' own code contain go on leading to the same things."""

import pytest

from rlresearch import errors, networks, ops, trainer
from rlresearch.config.instantiate import MOVED, build, resolve
from rlresearch.runners.step import TrainingStep, TrainState


@pytest.mark.parametrize("former", MOVED)
def test_a_component_is_built_by_its_former_name(former):
    package, _, name = former.rpartition(".")
    assert resolve(former, "part._target_").__name__ != name, "it has a new name"
    assert build({"_target_": former}, "part", packages=["rlresearch"]) == build({"_target_": MOVED[former]}, "part")


def test_all_of_them_are_known():
    assert set(MOVED) == {"rlresearch.buffers.Latest", "rlresearch.networks.QMLP", "rlresearch.normalize.AsIs"}


def test_python_code_finds_former_names():
    assert (trainer.Trainer, trainer.RunState) == (TrainingStep, TrainState)
    assert networks.Part is networks.NetworkBuilder
    assert (ops.chosen, ops.due) == (ops.index_by_action, ops.every)
    assert errors.shown is errors.format_value
