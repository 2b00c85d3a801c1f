"""`python -m rlresearch.export RUN FOLDER`: a stored policy as a SavedModel or in ONNX, without need of this package.

It takes `obs` float32[n, ...], as the run's environment gives them (flattened, with time, stacked, if
the run saw them so), and returns `action` [n, ...] in the environment's own units: normalisation and rescaling are
inside. policy.json beside it says what it is. Before the command ends it loads what it wrote and compares the actions.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlresearch.cli.stored_policy import StoredPolicy, policy_parser, stored_policy
from rlresearch.envs.actions import INTEGERS, units_of
from rlresearch.envs.checked import CheckedEnv
from rlresearch.errors import ConfigError, RunError, exit_code_of, format_value
from rlresearch.runtime import devices
from rlresearch.storage import atomic
from rlresearch.storage.provenance import versions

if TYPE_CHECKING:
    import tensorflow as tf

FORMATS = ("saved_model", "onnx")
ONNX_OPSET = 18
CHECKED = 64  # observations whose actions are compared


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 where the copy acts differently, 2 for a wrong command."""
    parser = policy_parser("python -m rlresearch.export", "A stored policy as a TensorFlow SavedModel, or in ONNX.")
    parser.add_argument("folder", help="where to; must not exist yet")
    about = "saved_model (default), or onnx: policy.onnx, which needs pip install 'rlresearch[onnx]'"
    parser.add_argument("--format", choices=FORMATS, default="saved_model", metavar="NAME", help=about)
    return exit_code_of(lambda: _export(parser.parse_args(argv)))


def _export(options: argparse.Namespace) -> None:
    from rlresearch.training.state_io import learned

    if options.format == "onnx":
        _require_onnx()
    policy, folder = stored_policy(options), Path(options.folder).absolute()
    if folder.exists():
        raise ConfigError(f"FOLDER={format_value(options.folder)}: exists already; choose another.")
    settings = policy.plan.settings
    devices.prepare("cpu", settings.threads, settings.deterministic, settings.compile_cache)
    import tensorflow as tf

    state = learned(policy.plan.trainer, policy.loaded, policy.index)
    module, made = tf.Module(), atomic.temporary(folder.parent)
    module.state = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(state)]
    module.act = tf.function(_acting(policy, state, module), autograph=False)
    obs = tf.TensorSpec((None, *policy.plan.task.spec.observation_space.shape), tf.float32, "obs")
    try:
        made.mkdir(parents=True)
        copy = (_onnx if options.format == "onnx" else to_saved_model)(module, obs, made)
        (made / "policy.json").write_text(json.dumps(_described(policy), indent=2) + "\n")
        _compare(policy, state, copy)
        made.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        atomic.discard(made)
    print(f"{folder}: acts as {policy.run} did at step {policy.loaded.about.step:,}")


def to_saved_model(module: Any, obs: tf.TensorSpec, made: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Writes a SavedModel; returns how what was written acts."""
    import tensorflow as tf

    signature = module.act.get_concrete_function(obs=obs)
    tf.saved_model.save(module, str(made), signatures={"serving_default": signature})
    copy = tf.saved_model.load(str(made))
    return lambda obs: copy.signatures["serving_default"](obs=obs)["action"].numpy()


def _onnx(module: Any, obs: tf.TensorSpec, made: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Writes policy.onnx; returns how what was written acts. RunError where the converter lacks an operation."""
    import onnxruntime
    import tf2onnx

    for name in ("tf2onnx", "tf2onnx.tf_loader", "tf2onnx.tfonnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        tf2onnx.convert.from_function(module.act, [obs], opset=ONNX_OPSET, output_path=str(made / "policy.onnx"))
        session = onnxruntime.InferenceSession(str(made / "policy.onnx"), providers=["CPUExecutionProvider"])
    except OSError:
        raise
    except Exception as error:
        raise RunError(f"tf2onnx cannot convert this policy: {error}; --format=saved_model always can") from error
    return lambda obs: session.run(["action"], {"obs": obs})[0]


def _require_onnx() -> None:
    """ConfigError where what --format=onnx needs is not installed."""
    missing = [name for name in ("tf2onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        needs = f"needs {' and '.join(missing)}: pip install 'rlresearch[onnx]'"
        raise ConfigError(f"--format=onnx: {needs}, or leave it out for a SavedModel.")


def _acting(policy: StoredPolicy, state: Any, module: Any) -> Any:
    """obs [n, ...] -> {"action": [n, ...]}, in the environment's own units."""
    import tensorflow as tf

    units = units_of(policy.plan.task.spaces[1])

    def act(obs: tf.Tensor) -> dict[str, tf.Tensor]:
        own = tf.nest.pack_sequence_as(state, [tf.convert_to_tensor(leaf) for leaf in module.state])
        return {"action": units.tensors(policy.plan.trainer.policy(own, obs))}

    return act


def _compare(policy: StoredPolicy, state: Any, copy: Callable[[np.ndarray], np.ndarray]) -> None:
    """RunError where the copy acts differently from the policy that is trained and evaluated here."""
    task = policy.plan.task
    env = CheckedEnv(task.make(), task.id)
    draw = np.random.default_rng(0)
    obs = np.stack([env.reset(seed=i)[0] for i in range(CHECKED)])
    obs = (obs + draw.normal(scale=0.1, size=obs.shape)).astype(np.float32)
    expected = [env.unscale_action(action) for action in policy.plan.trainer.policy(state, obs).numpy()]
    env.close()
    given, wanted, space = np.asarray(copy(obs)), np.stack(expected), task.spaces[1]
    if given.shape != wanted.shape:
        raise RunError(f"the exported policy acts differently: its actions have shape {given.shape[1:]}")
    apart = np.abs(given.astype(np.float64) - wanted.astype(np.float64))
    rounding = np.zeros(())
    if isinstance(space, gym.spaces.Box) and space.dtype.kind in INTEGERS:
        # The nearest integer is taken: a number half way between two may come out as either.
        rounding = 1.0 + 1e-5 * (space.high.astype(np.float64) - space.low.astype(np.float64))
    if (apart > 1e-6 + rounding + 1e-5 * np.abs(wanted.astype(np.float64))).any():
        raise RunError(f"the exported policy acts differently, by up to {np.max(apart):.3g}")


def _described(policy: StoredPolicy) -> dict[str, Any]:
    task, about = policy.plan.task, policy.loaded.about
    observation, action = task.spaces
    return {
        "run": policy.run,
        "step": about.step,
        "environment": task.id,
        "observation_space": str(observation),
        "action_space": str(action),
        "algorithm": type(policy.plan.trainer.algo).__name__,
        "packages": versions(),
    }
