"""What tests share: the shipped components made small, and runs without XLA where compiling is not the point.

`python -m pytest -n 0 --without-tensorflow` runs the tests of what reads, writes and shows files, in seconds.
"""

import copy
import dataclasses
import functools
import gc
import importlib.util
import os
import re
import sys
import tarfile
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # before TensorFlow: tests compare bits and small numbers
if importlib.util.find_spec("rlresearch") is None:  # not installed: the checkout that these tests stand in
    sys.path.insert(0, str(ROOT))

WITHOUT = "--without-tensorflow"
# What that selects: places below `tests`, of which no test loads TensorFlow.
LIGHT = (
    "architecture/test_structure.py", "loggers/test_console.py", "review/test_review_curves.py",
    "review/test_review_query.py", "review/test_review_reader.py", "review/test_review_serve.py",
    "review/test_review_stats.py", "runtime", "storage/test_rows_survive.py", "storage/test_run_directory.py",
)  # fmt: skip

gc.disable()  # nothing of what is loaded here is garbage; to look for it takes a quarter of the time
import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import yaml  # noqa: E402

# With xdist this process deals tests out and runs none, as far as its command line says.
RUNS_HERE = "PYTEST_XDIST_WORKER" in os.environ or re.search(r"(-n|--numprocesses)[ =]?0|no:xdist", " ".join(sys.argv))
if WITHOUT in sys.argv or not RUNS_HERE:  # then `rlresearch` stands in for TensorFlow until it is used
    import rlresearch  # noqa: F401
import tensorflow as tf  # noqa: E402
from support.random_actions import RandomActions  # noqa: E402, F401

from rlresearch import buffers, rng  # noqa: E402
from rlresearch.config.compose import CONFIG_FOLDER, compose  # noqa: E402
from rlresearch.config.instantiate import component_class  # noqa: E402
from rlresearch.errors import ConfigError  # noqa: E402
from rlresearch.training.experiment import Plan, plan  # noqa: E402
from rlresearch.types import Batch, EnvSpec, Progress, Transition  # noqa: E402

gc.freeze()
gc.enable()


def pytest_addoption(parser):
    parser.addoption(WITHOUT, action="store_true", help="only the tests that never load TensorFlow; needs -n 0")


def pytest_configure(config):
    if config.getoption(WITHOUT) and config.getoption("numprocesses", 0):
        raise pytest.UsageError(f"{WITHOUT} needs -n 0")
    if not RUNS_HERE and not config.getoption("numprocesses", 0):  # something else said so: tests patch the real module
        global tf
        assert tf.float32  # loads it
        tf = sys.modules["tensorflow"]


def pytest_ignore_collect(collection_path, config):
    """Whether a file stays unread, which would load TensorFlow already; None where the option is not given."""
    if config.getoption(WITHOUT) and collection_path.is_file():
        name = collection_path.relative_to(ROOT / "tests").as_posix()
        return not name.startswith(LIGHT)
    return None


@pytest.fixture(autouse=True)
def tensorflow_stays_away(request):
    """A test that loads TensorFlow where none should fails."""
    yield
    if request.config.getoption(WITHOUT):
        loaded = "tensorflow.python" in sys.modules
        assert not loaded, f"{request.node.nodeid}, or a test before it, loaded TensorFlow"


ALGORITHMS = sorted(path.stem for path in (CONFIG_FOLDER / "algo").glob("*.yaml"))


# For TarFile.extractall, which older patch releases of Python 3.11 have without filters.
TRUSTED = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}

NEEDED = {"c51": ["algo.v_min=-1", "algo.v_max=3"]}  # what `conf` leaves to the task


@functools.cache
def composed(*overrides: str) -> dict:
    """The shipped configuration with these words, not to be changed: to compose it takes longer than many a test."""
    return compose(overrides).config


@functools.cache
def fits(name: str, env: str) -> bool:
    """Whether a shipped algorithm can learn in an environment of `conf`."""
    with suppress(ConfigError):
        plan(composed(f"algo={name}", f"env={env}", *NEEDED.get(name, []), "tuned=none"))
        return True
    return False


def homes(name: str) -> tuple[str, ...]:
    """Of Pendulum and CartPole (discrete actions), those that a shipped algorithm can learn in; else FrozenLake."""
    return tuple(env for env in ("pendulum", "cartpole") if fits(name, env)) or ("frozen_lake",)


def home(name: str) -> str:
    """The first of them."""
    return next((env for env in ("pendulum", "cartpole") if fits(name, env)), "frozen_lake")


@functools.cache
def class_of(name: str) -> type:
    """A shipped algorithm's class, without composing anything: to choose cases, as each worker does for itself."""
    node = yaml.safe_load((CONFIG_FOLDER / "algo" / f"{name}.yaml").read_text())["algo"]
    return component_class(node, "algo")


def has(name: str, field: str) -> bool:
    """Whether a shipped algorithm has a setting or a part of that name."""
    return field in {each.name for each in dataclasses.fields(class_of(name))}


def on_policy(name: str) -> bool:
    """Whether a shipped algorithm learns from rollouts."""
    return class_of(name).LEARNS_FROM == "rollouts"


def make_plan(name: str, *overrides: str, hidden=(8,), **settings) -> Plan:
    """The plan of a shipped algorithm with small networks and batches; `settings` are the algorithm's own."""
    env = [] if any(each.startswith("env=") for each in overrides) else [f"env={home(name)}"]
    config = copy.deepcopy(composed(f"algo={name}", *env, *NEEDED.get(name, []), "tuned=none", *overrides))
    for part in config["network"].values():
        part["hidden"] = list(hidden)
    small = {"batch_size": 16, "learning_starts": 32, "rollout_steps": 8, "epochs": 2, "minibatches": 2}
    small |= {"atoms": 21, "quantiles": 8}
    config["algo"] |= {key: value for key, value in (small | settings).items() if key in config["algo"]}
    if config["buffer"].get("capacity") == 100_000:
        config["buffer"]["capacity"] = 1_000
    return plan(config)


def make_algo(name: str, *overrides: str, hidden=(8,), **settings):
    """An algorithm for its home, made from `conf` as the command line makes it."""
    return make_plan(name, *overrides, hidden=hidden, **settings).trainer.algo


def spec_of(observation: int, action: int, num_envs: int = 1) -> EnvSpec:
    """An environment's description with vectors of these sizes."""
    box = gym.spaces.Box(-np.inf, np.inf, (observation,), np.float32)
    return EnvSpec("made", box, gym.spaces.Box(-1.0, 1.0, (action,), np.float32), num_envs)


def progress(step: int = 0, episode: float = 0.0, update: int = 0) -> Progress:
    return Progress(tf.constant(step, tf.int64), tf.constant(episode, tf.float32), tf.constant(update, tf.int64))


def make_batch(rows: int, observation: int = 3, action: int = 1, seed: int = 0, **columns) -> Batch:
    """Random transitions of one step each, alike in weight; `columns` replaces some of them."""
    draw = np.random.default_rng(seed)
    made = {
        "obs": draw.normal(size=(rows, observation)),
        "action": draw.uniform(-1.0, 1.0, (rows, action)),
        "reward": draw.normal(size=rows),
        "next_obs": draw.normal(size=(rows, observation)),
    } | columns
    flags = {name: tf.constant(made.pop(name, np.zeros(rows, bool)), tf.bool) for name in ("terminated", "truncated")}
    ones = {"steps": np.ones(rows), "weight": np.ones(rows)} | made
    place = tf.range(rows)
    return Batch(**{name: tf.constant(value, tf.float32) for name, value in ones.items()}, **flags, indices=place)


def batch_for(algo, rows: int = 8, seed: int = 0, **columns) -> Batch:
    """Random transitions such as `algo` learns from; `columns` replaces some. A rollout is one step of them all."""
    spec = algo.spec
    if hasattr(spec.action_space, "n"):
        drawn = np.random.default_rng(seed + 1).integers(0, spec.num_actions, rows)
        action = tf.constant(columns.pop("action", drawn), tf.int32)
        batch = make_batch(rows, spec.observation_space.shape[0], 1, seed, **columns)._replace(action=action)
    else:
        batch = make_batch(rows, spec.observation_space.shape[0], spec.action_space.shape[0], seed, **columns)
    return rollout_of(batch, 1) if algo.LEARNS_FROM == "rollouts" else batch


def rollout_of(batch: Batch, steps: int) -> Batch:
    """The rows of a batch as [steps, environments], one step after the other."""
    return tf.nest.map_structure(lambda leaf: tf.reshape(leaf, (steps, -1, *leaf.shape[1:])), batch)


def replay_rows(state) -> Transition:
    """What a uniform replay holds, in the order of its places; the only test code that knows its layout."""
    return buffers.unpack(state.columns, state.row)


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in tf.nest.flatten(tree)]


def same_bits(a, b) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(leaves(a), leaves(b), strict=True))


def apart(a, b) -> float:
    """The largest difference between two trees of numbers."""
    pairs = zip(leaves(a), leaves(b), strict=True)
    return max(float(np.max(np.abs(x.astype(np.float64) - y.astype(np.float64)), initial=0.0)) for x, y in pairs)


@functools.cache
def started(name: str) -> tuple:
    """(algorithm, state) with plain gradient descent; online and target networks apart, biases not 0."""
    own = dict(tau=0.25, policy_delay=1, target_every=1)
    algo = make_algo(name, "env.num_envs=8", "optimizer=sgd", "optimizer.lr=0.1", **own)  # as many as `batch_for` rows
    state = algo.init(rng.key(3))
    other = algo.init(rng.key(4))
    targets = {field: getattr(other, field) for field in state._fields if field.startswith("target_")}
    nudge = lambda leaf: leaf + 0.01 if leaf.dtype.is_floating else leaf  # noqa: E731
    return algo, tf.nest.map_structure(nudge, state._replace(**targets))


def networks_of(state, role: str) -> dict:
    """The state's networks whose names begin so, by field."""
    fields = [field for field in state._fields if field.startswith(role) and "optimizer" not in field]
    return {field: getattr(state, field) for field in fields}


def update(algo, state, batch, key=None, **where) -> tuple:
    """(state, metrics) after one gradient step."""
    return algo.update(state, batch, rng.key(7) if key is None else key, progress(**where))[:2]


def nudged(tree, by: float = 0.1):
    """All numbers of a tree a little larger."""
    return tf.nest.map_structure(lambda leaf: leaf + by, tree)


@contextmanager
def without_xla():
    """Runners made and first advanced in here run as plain graphs: they start much sooner."""
    function = tf.function
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", lambda *args, jit_compile=None, **kwargs: function(*args, **kwargs))
        yield


def few_blocks(key, x0, x1):
    """Words in the place of `rng.blocks`, by a tenth of its operations: uint32[n], uint32[n]."""
    k0, k1 = key[:1], key[1:]
    word = (x0 + k0) * np.uint32(0x85EBCA6B) + (x1 ^ k1)
    word = (word ^ shifted(word, 15)) * np.uint32(0x2C1B3C6D)
    first = word ^ shifted(word, 13)
    second = (first + k1) * np.uint32(0x297A2D39)
    return first, second ^ shifted(second, 16)


def shifted(word, by):
    return word >> by if isinstance(word, np.ndarray) else tf.bitwise.right_shift(word, by)


@contextmanager
def few_operations():
    """Random numbers of fewer operations: most of what a program of small networks is traced and compiled for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "blocks", few_blocks)
        yield


@pytest.fixture
def quick_draws():
    """`few_operations`, for a test that compares draws with draws and does not ask how random they are."""
    with few_operations():
        yield


@pytest.fixture(scope="module")
def quick_draws_throughout():
    """The same for all tests of a file and what they share."""
    with few_operations():
        yield
