"""Every compiled environment in conf/env is Gymnasium's, step by step, and is seen as Gymnasium's wrappers show it."""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import RandomActions, make_plan, without_xla
from gymnasium import spaces
from gymnasium.envs.toy_text.utils import categorical_sample
from gymnasium.utils.env_checker import check_env

from rlresearch import rng
from rlresearch.buffers import Uniform
from rlresearch.config.compose import CONFIG_FOLDER, compose
from rlresearch.config.instantiate import build
from rlresearch.envs import bandits, tables
from rlresearch.envs.device import DeviceEnv, episode_keys
from rlresearch.envs.frozen_lake import FrozenLake
from rlresearch.envs.host import CheckedEnv, HostEnv
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError
from rlresearch.runners.host import HostRunner
from rlresearch.runners.step import TrainingStep

FILES = sorted((CONFIG_FOLDER / "env").glob("*.yaml"))
COMPILED = [path.stem for path in FILES if "physics:" in path.read_text()]

# Other settings of the same environments.
VARIANTS = [(name, {}) for name in COMPILED] + [
    ("mountain_car", {"goal_velocity": 0.03}),
    ("mountain_car_continuous", {"goal_velocity": 0.03}),
    ("pendulum", {"g": 3.7}),
    ("frozen_lake", {"is_slippery": False}),
    ("frozen_lake", {"map_name": "8x8", "success_rate": 0.7, "reward_schedule": (5.0, -2.0, -0.5)}),
    ("frozen_lake", {"desc": ("SFFFS", "FHFSF", "FFFFG"), "success_rate": 1.0}),
    ("cliff_walking", {"is_slippery": True}),
    ("taxi", {"is_rainy": True}),
    ("taxi", {"is_rainy": True, "rainy_probability": 0.35}),
]
TABULAR = [(name, own) for name, own in VARIANTS if name in ("frozen_lake", "cliff_walking", "taxi")]


@functools.cache
def composed(name):
    return compose([f"env={name}"]).config["env"]


def made(name, own=None, **changes):
    """The task of a file in conf/env, with other settings of its physics and of its own."""
    node = dict(composed(name)) | changes
    physics = build(node.pop("physics"), "env.physics")
    return Task(**node, physics=replace(physics, **(own or {})))


UNIFORM, NORMAL = (tf.function(lambda key, draw=draw: draw(key, ())) for draw in (rng.uniform, rng.normal))


class Draws:
    """In the place of NumPy's generator: what the compiled step draws from its key."""

    def __init__(self, key):
        self.key = tf.constant(key)

    def random(self):
        return float(UNIFORM(self.key))

    def standard_normal(self):
        return float(NORMAL(self.key))


def place(original, state, key):
    """Puts Gymnasium's environment into a compiled one's state; its next step draws from `key`."""
    inner = original.unwrapped
    if isinstance(inner, bandits.Adapter):
        pulls = original.spec.max_episode_steps
        inner.world.state, inner.world.left, inner.world.random = int(state.last), pulls - int(state.pulls), Draws(key)
    elif isinstance(state, tuple):
        inner.state = np.array([float(leaf) for leaf in state])
    else:
        inner.s, inner.np_random = int(state), Draws(key)


def mapped(function, rows):
    return tf.vectorized_map(function, rows, fallback_to_while_loop=False)


def row_of(tree, index):
    return tf.nest.map_structure(lambda leaf: np.asarray(leaf)[index], tree)


# From any state, also where no episode leads.

RANGES = {
    "acrobot": [(-3.2, 3.2), (-3.2, 3.2), (-14, 14), (-30, 30)],
    "cartpole": [(-2.6, 2.6), (-4, 4), (-0.24, 0.24), (-4, 4)],
    "mountain_car": [(-1.25, 0.65), (-0.08, 0.08)],
    "mountain_car_continuous": [(-1.25, 0.65), (-0.08, 0.08)],
    "pendulum": [(-20, 20), (-9, 9)],
}
ROUNDING = {"acrobot": 3e-3}  # at its largest speeds one Runge-Kutta step makes 1e-3 of a float32's last bit
LEFT, RIGHT, GOAL = [(-1.2, -0.07), (-1.2, 0.0), (-1.19, -0.05)], [(0.6, 0.07), (0.59, 0.05), (0.7, 0.1)], (0.44, 0.02)
WALLS_AND_GOAL = [*LEFT, *RIGHT, GOAL, (0.49, 0.02)]
BORDERS = {
    "acrobot": list(itertools.product((-np.pi, np.pi), (0.0, np.pi), (-12.5, 12.5), (-28.2, 28.2))),
    "cartpole": [(x, v, a, s) for x in (-2.4, 2.4) for v in (-1, 1) for a in (-0.2094, 0.2094) for s in (-1, 1)],
    "mountain_car": WALLS_AND_GOAL,
    "mountain_car_continuous": WALLS_AND_GOAL,
}


def states_of(name, physics, rows=300):
    """States as a compiled environment holds them, leading axis rows: its ranges and borders, or all there are."""
    draw = np.random.default_rng(3)
    like = physics.reset(rng.key(0))
    if hasattr(physics, "table"):
        return tf.constant(draw.integers(0, physics.table.probability.shape[0], rows), tf.int32)
    if isinstance(like, bandits.BanditState):
        most = (4, made(name).time_limit)
        return bandits.BanditState(*(tf.constant(draw.integers(0, each, rows), tf.int32) for each in most))
    if name not in RANGES:
        return mapped(physics.reset, rng.split(rng.key(0), rows))
    drawn = np.stack([draw.uniform(*each, rows) for each in RANGES[name]], axis=1)
    drawn = np.concatenate([drawn, np.reshape(BORDERS.get(name, []), (-1, drawn.shape[1]))])
    return type(like)(*tf.unstack(tf.constant(drawn, tf.float32), axis=1))


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name, own", VARIANTS)
def test_one_step_from_any_state_is_gymnasiums(name, own):
    """Compiled as a population is: by XLA, copies within members."""
    task = made(name, own)
    states = states_of(name, task.physics)
    rows = tf.nest.flatten(states)[0].shape[0]
    keys = rng.split(rng.key(1), rows)
    space = task.spaces[1]
    draw = np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        actions = tf.constant(draw.integers(0, space.n, rows), tf.int32)
    else:  # also beyond the bounds
        actions = tf.constant(draw.uniform(1.4 * space.low, 1.4 * space.high, (rows, 1)), tf.float32)

    def stepped(row):
        after, reward, terminated = task.physics.step(*row)
        return task.physics.observe(after), reward, terminated

    halve = lambda leaf: tf.reshape(leaf, (2, rows // 2, *leaf.shape[1:]))  # noqa: E731
    twice = lambda each: mapped(lambda half: mapped(stepped, half), each)  # noqa: E731
    halves = tf.nest.map_structure(halve, (states, actions, keys))
    results = tf.function(twice, jit_compile=True, autograph=False)(halves)
    seen, reward, terminated = (tf.reshape(each, (rows, *each.shape[2:])) for each in results)
    assert reward.dtype == tf.float32 and terminated.dtype == tf.bool

    original, theirs = task.gymnasium_env(None), []
    for row in range(rows):
        original.reset(seed=0)
        place(original, row_of(states, row), keys[row])
        action = actions[row].numpy()
        theirs.append(original.unwrapped.step(int(action) if action.ndim == 0 else action))
    expected = np.stack([each[0] for each in theirs])
    np.testing.assert_allclose(seen, expected, atol=ROUNDING.get(name, 3e-5), rtol=1e-5)
    assert np.quantile(np.abs(seen - expected), 0.95) < 1e-5
    np.testing.assert_allclose(reward, [each[1] for each in theirs], atol=1e-4, rtol=1e-5)
    np.testing.assert_array_equal(terminated, [each[2] for each in theirs])
    if name != "pendulum" and name != "taxi":  # the one never ends, the other at 4 of 3,000 pairs
        assert 0 < np.sum(terminated) < rows  # the states tell ends apart


@pytest.mark.parametrize("name, own", TABULAR)
def test_tables_are_gymnasiums_to_the_last_bit(name, own):
    task = made(name, own)
    table, original = task.physics.table, task.gymnasium_env(None).unwrapped
    assert table.probability.shape[:2] == (len(original.P), len(original.P[0]))
    for state, action in itertools.product(*map(range, table.probability.shape[:2])):
        ours = list(zip(*(column[state, action].tolist() for column in table[:4])))
        theirs = [(float(p), int(s), float(np.float32(r)), bool(t)) for p, s, r, t in original.P[state][action]]
        assert ours[: len(theirs)] == theirs
        assert all(each[0] == 0.0 for each in ours[len(theirs) :])
    starts = np.bincount(table.starts, minlength=len(original.P)) / len(table.starts)
    np.testing.assert_allclose(starts, original.initial_state_distrib, rtol=1e-12)


def test_a_random_number_draws_what_it_draws_in_gymnasium():
    """Also beside each limit, at the finest that `rng.uniform` can draw."""
    for chances in ([1 / 3, 1 / 3, 1 / 3], [0.15, 0.7, 0.15], [0.8, 0.1, 0.1], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]):
        limits = tables.limits(np.array(chances))
        assert limits.dtype == np.float32
        steps = np.concatenate([np.floor(np.cumsum(chances) * 2**24) + by for by in (-1, 0, 1)])
        for unit in np.clip(steps, 0, 2**24 - 1) * 2.0**-24:
            fixed = type("Fixed", (), {"random": lambda self, unit=unit: unit})()
            assert np.sum(np.float32(unit) >= limits) == categorical_sample(chances, fixed)


# Whole episodes.

COPIES, STEPS, LIMIT = 3, 60, 25


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name", COMPILED)
def test_whole_episodes_with_resets_are_gymnasiums(name):
    """Every step from the same state, so that rounding does not add up."""
    limit = min(LIMIT, made(name).time_limit)
    task = made(name, num_envs=COPIES, max_episode_steps=limit)
    env = DeviceEnv(task)
    state, timestep = env.init(rng.key(5))
    step, keys_of = tf.function(env.step, autograph=False), tf.function(step_keys, autograph=False)
    units = [CheckedEnv(task.make(), task.id) for _ in range(COPIES)]
    for unit in units:
        unit.reset(seed=0)
    draw, elapsed, ended = np.random.default_rng(1), np.zeros(COPIES, int), 0
    for _ in range(STEPS):
        if isinstance(task.spaces[1], spaces.Discrete):
            action = draw.integers(0, task.spaces[1].n, COPIES).astype(np.int32)
        else:
            action = draw.uniform(-1.2, 1.2, (COPIES, *task.spaces[1].shape)).astype(np.float32)
        for copy, (unit, key) in enumerate(zip(units, keys_of(state))):
            place(unit, row_of(state.physics, copy), key)
        state, outcome, timestep = step(state, tf.constant(action))
        theirs = [unit.step(each) for unit, each in zip(units, action)]
        elapsed += 1
        np.testing.assert_allclose(outcome.next_obs, np.stack([each[0] for each in theirs]), atol=3e-5, rtol=1e-5)
        np.testing.assert_allclose(outcome.reward, [each[1] for each in theirs], atol=1e-4, rtol=1e-5)
        np.testing.assert_array_equal(outcome.terminated, [each[2] for each in theirs])
        np.testing.assert_array_equal(outcome.truncated, [each[3] for each in theirs])
        np.testing.assert_array_equal(outcome.truncated, elapsed == limit)
        done = np.logical_or(outcome.terminated, outcome.truncated)
        np.testing.assert_array_equal(timestep.first, done)
        np.testing.assert_array_equal(timestep.obs[~done], outcome.next_obs[~done])
        for copy in np.flatnonzero(done):
            units[copy].reset(seed=0)
        elapsed[done] = 0
        ended += done.sum()
        np.testing.assert_array_equal(state.elapsed, elapsed)
    assert ended >= 2 * COPIES


def step_keys(state):
    keys = episode_keys(state.keys, state.episode)
    return mapped(lambda row: rng.fold_in(*row), (keys, state.elapsed + 1))


@pytest.mark.parametrize("name", COMPILED)
def test_the_time_limit_is_what_gymnasium_enforces(name):
    task = made(name)
    limits, env = [], task.make()
    while isinstance(env, gym.Wrapper):
        limits += [env._max_episode_steps] if isinstance(env, gym.wrappers.TimeLimit) else []
        env = env.env
    assert limits == [task.time_limit]  # none that never ends: it would be evaluated forever


# Where episodes begin.

STARTS = {
    "acrobot": [(-0.1, 0.1)] * 4,
    "cartpole": [(-0.05, 0.05)] * 4,
    "mountain_car": [(-0.6, -0.4), (0.0, 0.0)],
    "mountain_car_continuous": [(-0.6, -0.4), (0.0, 0.0)],
    "pendulum": [(-np.pi, np.pi), (-1.0, 1.0)],
}


def starts_of(physics, rows):
    resets = tf.function(lambda keys: mapped(physics.reset, keys), autograph=False)
    return np.stack([np.asarray(leaf) for leaf in tf.nest.flatten(resets(rng.split(rng.key(2), rows)))], axis=1)


@pytest.mark.parametrize("name", STARTS)
def test_starts_fill_gymnasiums_range_evenly(name):
    task = made(name)
    ours, original = starts_of(task.physics, 4_000), task.gymnasium_env(None)
    theirs = np.stack([original.reset(seed=seed) and original.unwrapped.state for seed in range(400)])
    for (low, high), own, other in zip(STARTS[name], ours.T, theirs.T, strict=True):
        for drawn in (own, other):
            if low == high:
                assert set(drawn) == {low}
            else:
                assert low - 1e-6 <= drawn.min() and drawn.max() <= high + 1e-6
                assert scipy.stats.kstest(drawn, "uniform", (low, high - low)).pvalue > 1e-3
    moving = ours[:, [low < high for low, high in STARTS[name]]]
    assert np.abs(np.corrcoef(moving.T) - np.eye(moving.shape[1])).max() < 0.07  # numbers of a start are independent


@pytest.mark.parametrize("name, own", TABULAR)
def test_starts_are_drawn_as_gymnasiums_say(name, own):
    task = made(name, own)
    chances = task.gymnasium_env(None).unwrapped.initial_state_distrib
    counts = np.bincount(starts_of(task.physics, 6_000)[:, 0], minlength=len(chances))
    assert (counts[chances == 0] == 0).all()
    if np.count_nonzero(chances) > 1:
        assert scipy.stats.chisquare(counts[chances > 0], 6_000 * chances[chances > 0]).pvalue > 1e-3


@pytest.mark.parametrize(
    "own, words",
    [
        ({"desc": ("SF", "FFG")}, "desc=\\[SF,FFG\\]: must be rows of one length"),
        ({"desc": ("SX", "FG")}, "of tiles S, F, H and G"),
        ({"desc": ("FF", "FG")}, "with an S"),
        ({"reward_schedule": (1.0, 0.0)}, "reward_schedule=\\[1.0,0.0\\]: must be three numbers"),
    ],
)
def test_a_lake_that_cannot_be_is_refused(own, words):
    with pytest.raises(ConfigError, match=words):
        FrozenLake(**own)


# What is seen: the compiled layers beside Gymnasium's wrappers.


class ShownState(NamedTuple):
    tag: tf.Tensor
    step: tf.Tensor


@dataclass(frozen=True)
class ShownPhysics:
    """Row (tag + step) of ROWS[kind]; the tag is the episode's own. The reward is the action; the largest ends it."""

    kind: str

    def reset(self, key):
        return ShownState(tf.cast(tf.bitwise.right_shift(key[1], 1) % 7, tf.int32), tf.constant(0))

    def step(self, state, action, key):
        ends = action == 5 + 2  # of Discrete(3, start=5)
        return state._replace(step=state.step + 1), tf.cast(action, tf.float32), ends

    def observe(self, state):
        return tf.gather(SHOWN[self.kind][1], (state.tag + state.step) % 7)


class Shown(gym.Env):
    """The same in Gymnasium: the seed of `reset` is made of the same key."""

    def __init__(self, kind):
        self.kind = kind
        self.observation_space, self.action_space = SHOWN[kind][0], spaces.Discrete(3, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = seed % 7
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.at += 1
        return self._seen(), float(action), bool(action == 7), False, {}

    def _seen(self):
        return SHOWN[self.kind][1][self.at % 7]


_draw = np.random.default_rng(8)
SHOWN = {
    "discrete": (spaces.Discrete(4, start=3), _draw.permutation(7).astype(np.int32) % 4 + 3),
    "multi": (
        spaces.MultiDiscrete([3, 2, 4], start=[1, 0, 5]),
        (_draw.integers(0, [3, 2, 4], (7, 3)) + [1, 0, 5]).astype(np.int32),
    ),
    "grid": (spaces.MultiDiscrete([[3, 2], [2, 4]]), _draw.integers(0, [[3, 2], [2, 4]], (7, 2, 2)).astype(np.int32)),
    "vector": (spaces.Box(-9, 9, (3,), np.float32), _draw.normal(size=(7, 3)).astype(np.float32)),
    "image": (spaces.Box(0, 255, (2, 3), np.uint8), _draw.integers(0, 255, (7, 2, 3)).astype(np.uint8)),
    "number": (spaces.Box(-9, 9, (), np.float32), _draw.normal(size=7).astype(np.float32)),
}
gym.register("Shown-v0", entry_point=Shown)

SEEN = [
    ("discrete", {}, (4,)),
    ("discrete", {"time_aware": True, "frame_stack": 3}, (3, 5)),
    ("multi", {"time_aware": True}, (10,)),
    ("grid", {}, (11,)),
    ("vector", {}, (3,)),
    ("vector", {"time_aware": True, "frame_stack": 2}, (2, 4)),
    ("image", {"frame_stack": 3}, (3, 2, 3)),
    ("image", {"flatten": True, "time_aware": True}, (7,)),
    ("number", {"flatten": True}, (1,)),
]


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("kind, layers, shape", SEEN)
def test_what_is_seen_is_what_gymnasiums_wrappers_show(kind, layers, shape):
    """Two copies over several episodes; one ends by itself, the other is cut by the limit."""
    task = Task("Shown-v0", num_envs=2, max_episode_steps=5, kwargs=None, physics=ShownPhysics(kind), **layers)
    assert task.spec.observation_space.shape == shape
    assert task.spec.action_space == spaces.Discrete(3)
    device = DeviceEnv(task)
    state, timestep = device.init(rng.key(6))
    step = tf.function(device.step, autograph=False)
    host = HostEnv(task, state.keys.numpy())
    np.testing.assert_array_equal(timestep.obs, host.reset())
    assert timestep.obs.shape == (2, *shape) and timestep.obs.dtype == tf.float32
    clocks = np.zeros(2, int)
    for t in range(14):
        action = np.int32([2 if t in (2, 8) else t % 2, 1])
        state, outcome, timestep = step(state, tf.constant(action))
        theirs = host.step(action)
        np.testing.assert_array_equal(outcome.reward, action + 5)
        for ours, other in [(outcome.reward, theirs.reward), (outcome.terminated, theirs.terminated)]:
            np.testing.assert_array_equal(ours, other)
        np.testing.assert_array_equal(outcome.truncated, theirs.truncated)
        np.testing.assert_allclose(outcome.next_obs, theirs.next_obs, rtol=1e-7)
        np.testing.assert_allclose(timestep.obs, theirs.obs, rtol=1e-7)
        done = theirs.terminated | theirs.truncated
        clocks += 1
        if layers.get("time_aware"):  # the end keeps its time and its frames, the start has its own
            newest = lambda obs: np.asarray(obs).reshape(2, -1)[:, -1]  # noqa: E731
            np.testing.assert_allclose(newest(outcome.next_obs), clocks / 5, rtol=1e-6)
            np.testing.assert_allclose(newest(timestep.obs), np.where(done, 0, clocks) / 5, rtol=1e-6)
        if layers.get("frame_stack", 1) > 1 and done.any():
            begun = timestep.obs.numpy()[done]
            np.testing.assert_array_equal(begun, np.repeat(begun[:, -1:], layers["frame_stack"], axis=1))
        clocks[done] = 0
    assert state.episode.numpy().tolist() == [4, 2]


def test_a_units_actions_are_python_integers_from_where_the_space_starts():
    unit = CheckedEnv(Shown("discrete"), "Shown-v0")
    assert unit.action_space == spaces.Discrete(3)
    unit.reset(seed=0)
    assert [unit.step(np.int32(action))[1] for action in (0, 1)] == [5.0, 6.0]
    assert unit.step(np.array(2))[1:3] == (7.0, True)


# The bandits, and whatever is like them.


@pytest.mark.parametrize("name", ["chain_bandit", "matrix_bandit"])
def test_compiled_and_plain_bandits_pay_alike(name):
    physics, rows = made(name).physics, 4_000
    plain = bandits.plain_chain if name == "chain_bandit" else bandits.plain_matrix
    keys = rng.split(rng.key(9), rows)
    last, arm = 2, 1
    state = bandits.BanditState(tf.constant(last), tf.constant(1))
    paid = tf.function(lambda keys: mapped(lambda key: physics.step(state, tf.constant(arm), key)[1], keys))
    world, theirs = plain(np.random.default_rng(0)), []
    for _ in range(rows):
        world.state = last
        theirs.append(world.act(arm)[0])
    mean, deviation = (3 * 1.2, 3.0) if name == "chain_bandit" else (0.0, 1.0)
    for drawn in (np.asarray(paid(keys)), np.array(theirs)):
        assert scipy.stats.kstest(drawn, "norm", (mean, deviation)).pvalue > 1e-3


class Silent:
    def standard_normal(self):
        return 0.0


def test_the_matrix_bandit_pays_48_at_best():
    best = np.zeros(4)
    for _ in range(bandits.MATRIX_PULLS):
        best = np.max(np.array(bandits.MATRIX) + best[None], axis=1)
    world, total = bandits.plain_matrix(Silent()), 0.0
    for arm in [3, 1, 2, 0] * 3:
        assert not world.terminal()
        total += world.act(arm)[0]
    assert world.terminal() and total == best[0] == 48.0


def test_the_chain_bandit_multiplies_by_the_arm_before():
    world = bandits.plain_chain(Silent())
    paid = [world.act(arm)[0] for arm in (3, 3, 1, 0, 2, 2)]
    np.testing.assert_allclose(paid, [1.0, 4 * 1.0, 4 * 1.2, 2 * 0.9, 1 * 0.7, 3 * 0.7])
    assert world.terminal()


@pytest.mark.parametrize("name", ["chain_bandit", "matrix_bandit"])
def test_bandits_are_good_gymnasium_environments(name):
    task = made(name)
    env = gym.make(task.id)
    check_env(env.unwrapped, skip_render_check=True)
    returns = []
    for seed in (3, 3, 4):
        env.reset(seed=seed)
        steps = [env.step(np.int64(t % 4)) for t in range(task.time_limit)]
        assert [each[2] for each in steps] == [False] * (task.time_limit - 1) + [True]
        returns.append(sum(each[1] for each in steps))
    assert returns[0] == returns[1] != returns[2]


class Countdown:
    """Written without a thought of Gymnasium: takes away 1 to 3 matches; whoever takes the last one wins."""

    def __init__(self, matches):
        self.state = (matches, 0)

    def act(self, taken):
        left = max(self.state[0] - taken, 0)
        self.state = (left, self.state[1] + 1)
        return (10 if left == 0 else -1), self.state

    def terminal(self):
        return self.state[0] == 0


gym.register(
    "Countdown-v0",
    bandits.Adapter,
    kwargs={
        "make": lambda random: Countdown(int(random.integers(5, 9))),
        "observation_space": spaces.Box(0, 100, (2,), np.float32),
        "action_space": spaces.Discrete(3, start=1),
    },
    max_episode_steps=6,
)


def test_any_object_that_acts_and_ends_is_an_environment():
    check_env(gym.make("Countdown-v0").unwrapped, skip_render_check=True)
    task = Task("Countdown-v0", num_envs=2)
    env = HostEnv(task, rng.split(rng.key(0), 2).numpy())
    left, clock, begun = env.reset()[:, 0], np.zeros(2), set()
    for _ in range(30):
        begun |= set(left[clock == 0])
        step = env.step(np.int32([2, 0]))  # three matches, one match
        left, clock = np.maximum(left - [3, 1], 0), clock + 1
        np.testing.assert_array_equal(step.next_obs, np.stack([left, clock], axis=1))
        np.testing.assert_array_equal(step.terminated, left == 0)
        np.testing.assert_array_equal(step.truncated, clock == 6)
        np.testing.assert_array_equal(step.reward, np.where(left == 0, 10.0, -1.0))
        done = step.terminated | step.truncated
        left, clock = step.obs[:, 0], np.where(done, 0, clock)
    assert begun == {5, 6, 7, 8}  # each episode's object is made from its own seed


# Runs.


def random_actions(task):
    return TrainingStep(RandomActions(task.spec), Uniform(64))


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name", COMPILED)
def test_it_runs_in_gymnasium_on_the_host(name):
    task = made(name, num_envs=2, max_episode_steps=5)
    with without_xla():
        runner = HostRunner(random_actions(task), task, 0)
        runner.advance(30, True)
    (row,) = runner.metrics()
    assert row["train/episodes"] >= 12 and row["train/length"] <= 5 and np.isfinite(row["train/return"])
    runner.close()


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("runner", ["device", "host"])
def test_dqn_learns_in_taxi_wherever_it_runs(runner):
    made = make_plan("dqn", "env=taxi", f"runner={runner}", hidden=(4,), learning_starts=20)
    with without_xla():
        running = made.runner.start(made.trainer, made.task, 0)
        running.advance(60, True)
        (row,) = running.metrics()
    assert np.isfinite(row["loss/q"]) and row["loss/q"] > 0
    running.close()
