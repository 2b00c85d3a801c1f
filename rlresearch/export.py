"""`python -m rlresearch.export RUN FOLDER`: a stored policy as a SavedModel, which needs none of this package.

Its one signature takes `obs` float32[n, ...], as the run's environment gives them (flattened, with time, stacked, if
the run saw them so), and returns `action` [n, ...] in the environment's own units: normalisation and rescaling are
inside. policy.json beside it says what it is. Before the command ends it loads what it wrote and compares the actions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from rlresearch import durable, hardware
from rlresearch.envs.host import Unit
from rlresearch.errors import ConfigError, RunError, shown
from rlresearch.evaluate import StoredPolicy, answered, policy_parser, stored_policy
from rlresearch.provenance import versions

if TYPE_CHECKING:
    import tensorflow as tf

CHECKED = 64  # observations whose actions are compared


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0, 1 where the copy acts differently, 2 for a wrong command."""
    parser = policy_parser("python -m rlresearch.export", "A stored policy as a TensorFlow SavedModel.")
    parser.add_argument("folder", help="where to; must not exist yet")
    return answered(parser, argv, _export)


def _export(options: argparse.Namespace) -> None:
    from rlresearch.saving import learned

    policy, folder = stored_policy(options), Path(options.folder).absolute()
    if folder.exists():
        raise ConfigError(f"FOLDER={shown(options.folder)}: exists already; choose another.")
    settings = policy.plan.settings
    hardware.prepare("cpu", settings.threads, settings.deterministic, settings.compile_cache)
    import tensorflow as tf

    state = learned(policy.plan.trainer, policy.loaded, policy.index)
    module, made = tf.Module(), durable.temporary(folder.parent)
    module.state = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(state)]
    shape = policy.plan.task.spec.observation_space.shape
    module.act = tf.function(_acting(policy, state, module), autograph=False)
    signature = module.act.get_concrete_function(obs=tf.TensorSpec((None, *shape), tf.float32))
    try:
        tf.saved_model.save(module, str(made), signatures={"serving_default": signature})
        (made / "policy.json").write_text(json.dumps(_described(policy), indent=2) + "\n")
        _compare(policy, state, tf.saved_model.load(str(made)))
        made.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        durable.discard(made)
    print(f"{folder}: acts as {policy.run} did at step {policy.loaded.about.step:,}")


def _acting(policy: StoredPolicy, state: Any, module: Any) -> Any:
    """obs [n, ...] -> {"action": [n, ...]}, in the environment's own units."""
    import tensorflow as tf

    space = policy.plan.task.spaces[1]

    def act(obs: tf.Tensor) -> dict[str, tf.Tensor]:
        own = tf.nest.pack_sequence_as(state, [tf.convert_to_tensor(leaf) for leaf in module.state])
        action = policy.plan.trainer.policy(own, obs)
        if isinstance(space, gym.spaces.Discrete):
            return {"action": action + int(space.start)}
        middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
        return {"action": tf.clip_by_value(middle + half * action, space.low, space.high)}

    return act


def _compare(policy: StoredPolicy, state: Any, copy: Any) -> None:
    """RunError where the SavedModel acts differently from the policy that is trained and evaluated here."""
    task = policy.plan.task
    env = Unit(task.make(), task.id)
    draw = np.random.default_rng(0)
    obs = np.stack([env.reset(seed=i)[0] for i in range(CHECKED)])
    obs = (obs + draw.normal(scale=0.1, size=obs.shape)).astype(np.float32)
    expected = [env.own_units(action) for action in policy.plan.trainer.policy(state, obs).numpy()]
    env.close()
    given = copy.signatures["serving_default"](obs=obs)["action"].numpy()
    if not np.allclose(given, np.stack(expected), rtol=1e-5, atol=1e-6):
        raise RunError(f"the exported policy acts differently, by up to {np.max(np.abs(given - expected)):.3g}")


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


if __name__ == "__main__":
    sys.exit(main())
