"""Exported policies act as the stored ones, in the environment's own units; what cannot be exported is a line."""

import importlib.util
import json
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_plan

from rlresearch import rng
from rlresearch.cli import export
from rlresearch.cli.stored_policy import StoredPolicy
from rlresearch.training import state_io


@pytest.fixture
def stored(monkeypatch):
    """Makes the export command find a policy that learned nothing, of a plan; what it does for observations."""

    def stored(*overrides, algo):
        plan = make_plan(algo, *overrides)
        state = state_io.Learned(
            plan.trainer.algo.init(rng.key(3)), plan.trainer.normalizer.init(plan.trainer.algo.spec)
        )
        loaded = SimpleNamespace(about=SimpleNamespace(step=7))
        monkeypatch.setattr(export, "stored_policy", lambda _: StoredPolicy(plan, loaded, None, "the run"))
        monkeypatch.setattr(state_io, "learned", lambda *_: state)
        return lambda obs: plan.trainer.policy(state, tf.constant(obs)).numpy()

    return stored


CASES = {
    "ddpg": (["normalize=running"], 3, lambda action: 2.0 * action),  # Pendulum takes torques from -2 to 2
    "dqn": (["env=cartpole", "network=dueling"], 4, lambda action: action),
}


@pytest.mark.parametrize("algo", ["ddpg", pytest.param("dqn", marks=pytest.mark.slow)])
def test_a_policy_in_onnx_acts_as_the_stored_one(algo, stored, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    overrides, width, unscale_action = CASES[algo]
    policy = stored(*overrides, algo=algo)
    assert export.main(["RUN", str(tmp_path / "policy"), "--format=onnx"]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "policy" / "policy.onnx"), providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["obs"]
    for rows in (1, 9):
        obs = np.random.default_rng(rows).normal(size=(rows, width)).astype(np.float32)
        (action,) = session.run(["action"], {"obs": obs})
        np.testing.assert_allclose(action, unscale_action(policy(obs)), rtol=1e-5, atol=1e-6)
    assert json.loads((tmp_path / "policy" / "policy.json").read_text())["step"] == 7
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy"]
    assert "acts as the run did at step 7" in capsys.readouterr().out


class Whole(gymnasium.Env):
    """Takes int8 numbers in two rows."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-128, 127, (2, 3), np.int8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}


gymnasium.register("Whole-v0", Whole, max_episode_steps=10)


@pytest.mark.parametrize("form", ["saved_model", pytest.param("onnx", marks=pytest.mark.slow)])
def test_integers_are_exported_as_integers_of_the_spaces_type_and_shape(form, stored, tmp_path, capsys):
    if form == "onnx":
        pytest.importorskip("onnxruntime"), pytest.importorskip("tf2onnx")
    stored("env=gym", "env.id=Whole-v0", algo="ddpg")
    assert export.main(["RUN", str(tmp_path / "policy"), f"--format={form}"]) == 0
    if form == "saved_model":
        obs = 1e6 * np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
        act = tf.saved_model.load(str(tmp_path / "policy")).signatures["serving_default"]
        actions = act(obs=tf.constant(obs))["action"].numpy()
        assert actions.dtype == np.int8 and actions.shape == (200, 2, 3)
        assert actions.min() == -128 and actions.max() == 127


def test_a_copy_that_acts_differently_is_not_left_there(stored, tmp_path, monkeypatch, capsys):
    stored(algo="ddpg")
    monkeypatch.setattr(export, "to_saved_model", lambda module, obs, made: lambda obs: module.act(obs)["action"] + 0.1)
    assert export.main(["RUN", str(tmp_path / "policy")]) == 1
    assert "acts differently, by up to 0.1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_needs_is_said_before_anything_is_read(monkeypatch, tmp_path, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tf2onnx" else find(name))
    assert export.main(["RUN", str(tmp_path / "policy"), "--format=onnx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rlresearch: --format=onnx: needs tf2onnx: pip install 'rlresearch[onnx]'")


def test_a_wrong_format_is_refused_with_those_that_there_are(tmp_path, capsys):
    assert export.main(["RUN", str(tmp_path / "policy"), "--format=onx"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "onx" in line and "saved_model" in line and "onnx" in line
