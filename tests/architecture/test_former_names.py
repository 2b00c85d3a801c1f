"""Names of version 0.1 that stored configurations and users' own code contain go on leading to the same things."""

from typing import Protocol

import pytest

from rlresearch import buffers, errors, networks, normalize, ops, trainer, types
from rlresearch.config.instantiate import MOVED, build, require, resolve
from rlresearch.errors import ConfigError
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
    assert (errors.shown, errors.nearest) == (errors.format_value, errors.did_you_mean)
    assert (networks.QMLP, normalize.AsIs) == (networks.QNetwork, normalize.Identity)
    assert (buffers.Latest, buffers.drawn, buffers.Rows) == (
        buffers.OnlineBuffer,
        buffers.gather_batch,
        buffers.RingState,
    )
    assert types.Outcome is types.StepResult


def test_a_method_that_has_another_name_since_is_told_in_the_refusal():
    class Own:
        def learned(self):
            pass

    class Asked(Protocol):
        def update_priorities(self): ...

    with pytest.raises(ConfigError, match="lacks update_priorities of .*; learned is update_priorities since"):
        require(Own(), Asked, "buffer")
