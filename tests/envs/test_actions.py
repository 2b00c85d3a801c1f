"""Actions reach every Box, of any numeric type, bounds and shape: both of its ends, and never what lies outside."""

import re

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from rlresearch import rng
from rlresearch.envs.actions import units_of
from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.host import HostEnv
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import Episode, Evaluator
from rlresearch.evaluation.video import record

INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
SHAPES = [(), (1,), (3,), (2, 3)]


def bounds_of(dtype):
    """Pairs of ends: the whole type, symmetric and not, narrow, and beyond what float64 counts one by one."""
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    pairs = [(least, most), (0, 10), (3, 4), (most - 2, most), (7, 7)]
    if least < 0:
        pairs += [(-5, 5), (-100, 27), (least, least + 3), (least, 0)]
    if most > 2**53:
        pairs += [(2**53 + 1, 2**53 + 5), (1, 2**62 + 1)]
    return pairs


def box(low, high, shape, dtype):
    return spaces.Box(np.full(shape, low, dtype), np.full(shape, high, dtype), dtype=dtype)


def actions_for(size):
    draw = np.random.default_rng(0)
    ends = [np.full(size, each, np.float32) for each in (-1, 1, 0, -7, 7, 0.999999, -0.999999)]
    return [*ends, *draw.uniform(-1, 1, (20, size)).astype(np.float32)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda each: np.dtype(each).name)
def test_integers_reach_both_ends_and_stay_inside(dtype, shape):
    for low, high in bounds_of(dtype):
        space = box(low, high, shape, dtype)
        units, size = units_of(space), int(np.prod(shape))
        given = actions_for(size)
        own = [units.unscale_action(each) for each in given]
        assert all(each.dtype == dtype and space.contains(each) for each in own), (low, high)
        assert (own[0] == space.low).all() and (own[1] == space.high).all(), (low, high)
        assert (own[3] == space.low).all() and (own[4] == space.high).all(), (low, high)
        tensors = units.tensors(tf.constant(np.stack(given)))
        assert tensors.dtype == dtype and tensors.numpy().tolist() == np.stack(own).tolist(), (low, high)


def test_an_integer_is_the_nearest_one():
    units = units_of(box(0, 10, (1,), np.int64))
    given = (-1, -0.89, -0.91, 0.39, 0.41, 1)
    assert [int(units.unscale_action(np.float32([each]))[0]) for each in given] == [0, 1, 0, 7, 7, 10]
    units = units_of(box(-128, 127, (1,), np.int8))
    reached = {int(units.unscale_action(np.float32([each]))[0]) for each in np.linspace(-1, 1, 9999)}
    assert reached == set(range(-128, 128))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_truth_values_are_reached_as_well(shape):
    space = box(False, True, shape, bool)
    units, size = units_of(space), int(np.prod(shape))
    for sign in (-1, 1):
        own = units.unscale_action(np.full(size, sign, np.float32))
        assert space.contains(own) and own.dtype == bool and (own == (sign > 0)).all()
        assert (units.tensors(tf.fill((2, size), float(sign))).numpy() == (sign > 0)).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64], ids=lambda each: np.dtype(each).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_numbers_arrive_in_the_spaces_own_type_and_shape(dtype, shape):
    for low, high in [(-2, 2), (-1, 5), (0.1, 0.3), (-30_000, 60_000)]:
        space = box(low, high, shape, dtype)
        units = units_of(space)
        for action in actions_for(int(np.prod(shape))):
            own = units.unscale_action(action)
            assert space.contains(own) and own.dtype == dtype
            near = {"rtol": 1e-3 if dtype == np.float16 else 1e-6, "atol": 1e-6}
            np.testing.assert_allclose(units.tensors(action[None]).numpy()[0], own, **near)
        assert (units.unscale_action(np.full(int(np.prod(shape)), 1, np.float32)) == space.high).all()


class Told(gym.Env):
    """Takes what its space says, pays the mean share of the range, and writes down what it got."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, dtype="uint8", shape=(2, 3), low=None, high=None, render_mode=None):
        self.render_mode, limits = render_mode, np.iinfo(dtype)
        ends = (limits.min if low is None else low, limits.max if high is None else high)
        self.action_space = box(*ends, tuple(shape), np.dtype(dtype).type)
        self.got = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action) and action.dtype == self.action_space.dtype, repr(action)
        self.got.append(action)
        self.steps += 1
        at_end = (action == self.action_space.high).all() - 1.0 * (action == self.action_space.low).all()
        return np.zeros(2, np.float32), at_end, False, self.steps == 4, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}


gym.register("Told-v0", Told, max_episode_steps=100)


@pytest.mark.parametrize(("dtype", "shape"), [("int8", ()), ("uint8", (2, 3)), ("int64", (3,)), ("uint64", (1,))])
def test_training_and_evaluation_reach_both_ends(dtype, shape):
    task = Task("Told-v0", num_envs=2, kwargs={"dtype": dtype, "shape": list(shape)})
    size = int(np.prod(shape))
    assert task.spec.action_space.shape == (size,)
    env = HostEnv(task, rng.split(rng.key(0), 2).numpy())
    env.reset()
    ends = np.stack([np.full(size, -1.0), np.full(size, 1.0)]).astype(np.float32)
    assert env.step(ends).reward.tolist() == [-1.0, 1.0]
    env.close()
    for sign in (-1.0, 1.0):
        evaluator = Evaluator(task, (0,))
        (found,) = evaluator.run(lambda obs: np.full((1, obs.shape[1], size), sign, np.float32), 3, 0)  # noqa: B023
        assert found.returns == [4.0 * sign] * 3
        evaluator.close()


def test_a_video_shows_the_same_integers(tmp_path, caplog):
    pytest.importorskip("imageio_ffmpeg")
    actions = [np.full(6, each, np.float32) for each in (-1.0, 1.0, 1.0, 1.0)]
    record(Task("Told-v0"), Episode(3, actions, 2.0), tmp_path / "told.mp4")
    assert (tmp_path / "told.mp4").stat().st_size > 0 and "another episode" not in caplog.text


FLOATS = {"float16": np.finfo(np.float16).max, "float32": np.finfo(np.float32).max, "float64": np.finfo(np.float64).max}


class Wide(gym.Env):
    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, dtype="float32", low=-1.0, high=1.0):
        ends = [np.full(2, float(each), dtype) for each in (low, high)]
        ends[0][1], ends[1][1] = -1, 1
        self.action_space = spaces.Box(*ends, dtype=np.dtype(dtype).type)


gym.register("Wide-v0", Wide, max_episode_steps=100)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(dtype, -most, most) for dtype, most in FLOATS.items()]
    + [(dtype, 0.0, most) for dtype, most in FLOATS.items()]
    + [("float32", -2e38, 2e38), ("float64", -1.2e308, 1.2e308), ("float32", -np.inf, 1.0)],
)
def test_bounds_too_wide_to_rescale_are_refused_like_infinite_ones(dtype, low, high):
    with pytest.raises(ConfigError, match=r"^env.id=Wide-v0: has unbounded actions .*action space finite bounds"):
        Task("Wide-v0", kwargs={"dtype": dtype, "low": float(low), "high": float(high)}).spec  # noqa: B018


@pytest.mark.parametrize(("dtype", "high"), [("float16", 30_000.0), ("float32", 1e38), ("float64", 1e300)])
def test_wide_bounds_that_can_be_rescaled_are_taken(dtype, high):
    task = Task("Wide-v0", kwargs={"dtype": dtype, "low": -high, "high": high})
    own = units_of(task.spaces[1]).unscale_action(task.spec.action_space.high)
    assert own[0] == np.dtype(dtype).type(high)


@pytest.mark.parametrize("action", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_not_the_environments_fault(action):
    env = CheckedEnv(Told(), "Told-v0")
    env.reset(seed=3)
    with pytest.raises(RunError) as caught:
        env.step(np.full(6, action, np.float32))
    assert str(caught.value).startswith("the policy's action is no finite number: learning went astray")
    assert "episode seed 3, action" in str(caught.value) and env.unwrapped.got == []


class Odd(gym.Env):
    """Spaces that nobody here handles."""

    def __init__(self, observation="box", action="box"):
        some = {
            "box": spaces.Box(-1, 1, (2,), np.float32),
            "bits": spaces.MultiBinary(3),
            "counts": spaces.MultiDiscrete([2, 3]),
            "dict": spaces.Dict({"a": spaces.Discrete(2), "b": spaces.MultiBinary(2)}),
            "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 1, (2,), np.float32))),
            "text": spaces.Text(5),
            "sequence": spaces.Sequence(spaces.Discrete(2)),
            "nothing": spaces.Box(-1, 1, (0,), np.float32),
        }
        self.observation_space, self.action_space = some[observation], some[action]


gym.register("Odd-v0", Odd, max_episode_steps=10)
REFUSED = {
    ("observation", "bits"): "has MultiBinary observations; .*env.flatten=true makes it one vector",
    ("observation", "dict"): "has Dict observations; .*env.flatten=true makes it one vector",
    ("observation", "tuple"): "has Tuple observations; .*env.flatten=true makes it one vector",
    ("observation", "text"): "has Text observations; .*env.flatten=true makes it one vector",
    ("observation", "sequence"): "has Sequence observations; .*gymnasium.ObservationWrapper",
    ("action", "dict"): "has Dict actions; allowed: Box or Discrete; .*gymnasium.ActionWrapper",
    ("action", "tuple"): "has Tuple actions; .*gymnasium.ActionWrapper",
    ("action", "bits"): "has MultiBinary actions; .*number its 8 combinations with a gymnasium.ActionWrapper",
    ("action", "counts"): "has MultiDiscrete actions; .*number its 6 combinations",
    ("action", "nothing"): "has Box.* as actions, which holds no number",
}


@pytest.mark.parametrize(("role", "kind"), REFUSED)
def test_what_is_said_of_a_space_fits_it(role, kind):
    with pytest.raises(ConfigError) as caught:
        Task("Odd-v0", kwargs={role: kind}).spec  # noqa: B018
    words = str(caught.value)
    assert re.search(REFUSED[role, kind], words), words
    assert ("flatten" in words) == ("flatten" in REFUSED[role, kind])


@pytest.mark.parametrize("kind", ["bits", "dict", "tuple"])
def test_what_is_advised_works(kind):
    assert len(Task("Odd-v0", kwargs={"observation": kind}, flatten=True).spec.observation_space.shape) == 1
