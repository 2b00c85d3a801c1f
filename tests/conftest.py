"""What tests share: the shipped components made small, and runs without XLA where compiling is not the point."""

import importlib.util
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

ROOT = Path(__file__).parents[1]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # before TensorFlow: tests compare bits and small numbers
if importlib.util.find_spec("rlresearch") is None:  # not installed: the checkout that these tests stand in
    sys.path.insert(0, str(ROOT))

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

from rlresearch import buffers, rng  # noqa: E402
from rlresearch.compose import compose, config_folder  # noqa: E402
from rlresearch.plan import Plan, plan  # noqa: E402
from rlresearch.types import EnvSpec, Progress, Transition  # noqa: E402

ALGORITHMS = sorted(path.stem for path in (config_folder() / "algo").glob("*.yaml"))


def make_plan(name: str, *overrides: str, hidden=(8,), **settings) -> Plan:
    """The plan of a shipped algorithm with small networks and batches; `settings` are the algorithm's own."""
    config = compose([f"algo={name}", "tuned=none", *overrides]).config
    for part in config["network"].values():
        part["hidden"] = list(hidden)
    small = {"batch_size": 16, "learning_starts": 32}
    config["algo"] |= {key: value for key, value in (small | settings).items() if key in config["algo"]}
    if config["buffer"]["capacity"] == 100_000:
        config["buffer"]["capacity"] = 1_000
    return plan(config)


def make_algo(name: str, *overrides: str, hidden=(8,), **settings):
    """An algorithm for Pendulum, made from `conf` as the command line makes it."""
    return make_plan(name, *overrides, hidden=hidden, **settings).trainer.algo


def spec_of(observation: int, action: int, num_envs: int = 1) -> EnvSpec:
    """An environment's description with vectors of these sizes."""
    box = gym.spaces.Box(-np.inf, np.inf, (observation,), np.float32)
    return EnvSpec("made", box, gym.spaces.Box(-1.0, 1.0, (action,), np.float32), num_envs)


def progress(step: int = 0, episode: float = 0.0, update: int = 0) -> Progress:
    return Progress(tf.constant(step, tf.int64), tf.constant(episode, tf.float32), tf.constant(update, tf.int64))


def make_batch(rows: int, observation: int = 3, action: int = 1, seed: int = 0, **columns) -> Transition:
    """Random transitions; `columns` replaces some of them."""
    draw = np.random.default_rng(seed)
    made = {
        "obs": draw.normal(size=(rows, observation)),
        "action": draw.uniform(-1.0, 1.0, (rows, action)),
        "reward": draw.normal(size=rows),
        "next_obs": draw.normal(size=(rows, observation)),
    } | columns
    flags = {name: tf.constant(made.pop(name, np.zeros(rows, bool)), tf.bool) for name in ("terminated", "truncated")}
    return Transition(**{name: tf.constant(value, tf.float32) for name, value in made.items()}, **flags)


def replay_rows(state) -> Transition:
    """What a uniform replay holds, in the order of its places; the only test code that knows its layout."""
    return state.rows if hasattr(state, "rows") else buffers.take_apart(state.columns, state.row)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in tf.nest.flatten(tree)]


def same_bits(a, b) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))


def apart(a, b) -> float:
    """The largest difference between two trees of numbers."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return max(float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)), initial=0.0)) for x, y in pairs)


@contextmanager
def without_xla():
    """Runners made and first advanced in here run as plain graphs: they start much sooner."""
    function = tf.function
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", lambda *args, jit_compile=None, **kwargs: function(*args, **kwargs))
        yield


@dataclass(frozen=True)
class RandomActions:
    """The least that satisfies `types.Algorithm`: uniform actions, nothing learned. Programs with it compile fast."""

    spec: EnvSpec
    learning_starts: int = 2**40
    random_start: bool = False
    update_every: int = 1
    updates: int = 1
    batch_size: int = 1
    METRICS: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        pass

    def init(self, key):
        return tf.constant(0.0)

    def act(self, state, timestep, key, progress):
        return rng.uniform(key, (self.spec.num_envs, *self.spec.action_space.shape), -1.0, 1.0), state

    def policy(self, state, obs):
        return tf.zeros((obs.shape[0], *self.spec.action_space.shape))

    def update(self, state, batch, key, progress):
        return state, {}
