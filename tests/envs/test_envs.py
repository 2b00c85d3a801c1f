"""Environments: the compiled twin is Gymnasium's step by step, and no transition ever crosses an episode's end."""

import math
import sys
from dataclasses import dataclass, replace
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import RandomActions, make_plan, replay_rows

from rlresearch import rng
from rlresearch.buffers import Uniform
from rlresearch.envs.device import DeviceEnv, episode_keys
from rlresearch.envs.host import HostEnv, episode_seeds
from rlresearch.envs.pendulum import Pendulum, PendulumState
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.step import TrainingStep

pytestmark = pytest.mark.usefixtures("quick_draws_throughout")

# The compiled Pendulum beside Gymnasium's.


def device(task, seed=0):
    """(step as a graph, state, timestep) of a task's compiled environment."""
    env = DeviceEnv(task)
    return tf.function(env.step, autograph=False), *env.init(rng.key(seed))


@pytest.mark.parametrize("g", [10.0, 3.7])
def test_one_step_from_any_state_is_gymnasiums(g):
    draw, n = np.random.default_rng(0), 200
    task = Task("Pendulum-v1", num_envs=n, physics=Pendulum(g))
    step, state, _ = device(task)
    angle = np.concatenate([draw.uniform(-100, 100, n - 4), [math.pi, -math.pi, 0.0, 3 * math.pi]]).astype(np.float32)
    velocity = draw.uniform(-8, 8, n).astype(np.float32)
    action = draw.uniform(-1.2, 1.2, (n, 1)).astype(np.float32)  # also beyond the bounds
    _, outcome, timestep = step(state._replace(physics=PendulumState(*map(tf.constant, (angle, velocity)))), action)

    gymnasiums = task.make()
    assert gymnasiums.unwrapped.g == g
    expected = []
    for row in range(n):
        gymnasiums.reset(seed=0)
        gymnasiums.unwrapped.state = np.array([angle[row], velocity[row]], np.float64)
        expected.append(gymnasiums.step(2.0 * np.clip(action[row], -1.0, 1.0)))
    np.testing.assert_allclose(outcome.next_obs, np.stack([e[0] for e in expected]), atol=3e-5)
    np.testing.assert_allclose(outcome.reward, [e[1] for e in expected], atol=3e-4)  # angle**2 near pi, from 100 rad
    np.testing.assert_array_equal(outcome.terminated, [e[2] for e in expected])
    np.testing.assert_array_equal(outcome.truncated, [e[3] for e in expected])
    np.testing.assert_array_equal(timestep.obs, outcome.next_obs)


def test_whole_episodes_with_resets_are_gymnasiums():
    task = Task("Pendulum-v1", num_envs=2, physics=Pendulum())
    step, state, timestep = device(task)
    pairs = [task.make() for _ in range(2)]
    draw = np.random.default_rng(1)

    def begin(pair, copy):
        pair.reset(seed=0)
        pair.unwrapped.state = np.array([state.physics.angle[copy], state.physics.velocity[copy]], np.float64)

    for copy, pair in enumerate(pairs):
        begin(pair, copy)
    for t in range(401):
        action = np.float32(draw.uniform(-1, 1, (2, 1)))
        state, outcome, timestep = step(state, action)
        theirs = [pair.step(2.0 * each) for pair, each in zip(pairs, action)]
        np.testing.assert_allclose(outcome.next_obs, np.stack([each[0] for each in theirs]), atol=2e-3)
        np.testing.assert_allclose(outcome.reward, [each[1] for each in theirs], atol=5e-3)
        np.testing.assert_array_equal(outcome.terminated, [each[2] for each in theirs])
        np.testing.assert_array_equal(outcome.truncated, [each[3] for each in theirs])
        assert outcome.truncated.numpy().tolist() == [t % 200 == 199] * 2
        assert timestep.first.numpy().tolist() == [t % 200 == 199] * 2
        if t % 200 == 199:
            starts = [begin(pair, copy) or pair.unwrapped._get_obs() for copy, pair in enumerate(pairs)]
            np.testing.assert_allclose(timestep.obs, np.stack(starts), atol=1e-6)
            assert np.abs(timestep.obs - outcome.next_obs).max() > 1e-2
            assert not np.any(state.elapsed)
        else:  # float32 rounding does not add up: every step starts from the same state
            np.testing.assert_array_equal(timestep.obs, outcome.next_obs)
            for copy, pair in enumerate(pairs):
                pair.unwrapped.state = np.array([state.physics.angle[copy], state.physics.velocity[copy]], np.float64)


@pytest.mark.parametrize("num_envs", [1, 5])
def test_every_copy_and_episode_begins_elsewhere(num_envs):
    task = Task("Pendulum-v1", num_envs=num_envs, max_episode_steps=3, physics=Pendulum())
    step, state, timestep = device(task, seed=4)
    keys = rng.split(rng.key(4), num_envs)
    starts = [timestep.obs.numpy()]
    for _ in range(4):
        for t in range(3):
            state, outcome, timestep = step(state, tf.zeros((num_envs, 1)))
            assert outcome.truncated.numpy().all() == (t == 2)
        starts.append(timestep.obs.numpy())
    assert len({obs.tobytes() for each in starts for obs in each}) == 5 * num_envs
    for episode, each in enumerate(starts):  # a start is a function of the copy's key and the episode alone
        for copy in range(num_envs):
            physics = Pendulum().reset(rng.fold_in(keys[copy], episode))
            np.testing.assert_allclose(each[copy], Pendulum().observe(physics), atol=1e-6)
            assert abs(physics.angle) <= math.pi and abs(physics.velocity) <= 1.0


def test_a_copys_episodes_do_not_depend_on_how_many_copies_there_are():
    few, many = (device(Task("Pendulum-v1", num_envs=n, physics=Pendulum()), seed=2)[2] for n in (1, 5))
    np.testing.assert_array_equal(few.obs[0], many.obs[0])


class CountState(NamedTuple):
    tag: tf.Tensor
    step: tf.Tensor


@dataclass(frozen=True)
class Counting:
    """Each episode has a random tag; it terminates by itself where the action says so."""

    def reset(self, key):
        return CountState(rng.uniform(key, ()), tf.constant(0.0))

    def step(self, state, action, key):
        state = state._replace(step=state.step + 1.0)
        return state, action[0], action[0] > 1.9

    def observe(self, state):
        return tf.stack([state.tag, state.step])


def test_ends_and_limits_are_each_copys_own():
    gym.register("DeviceCounting-v0", entry_point=Tagged)
    step, state, timestep = device(Task("DeviceCounting-v0", 3, max_episode_steps=4, physics=Counting()))
    tags = timestep.obs.numpy()[:, 0]
    for t in range(4):  # the second copy terminates at its second step, the third at its fourth, with the limit
        action = np.array([[0.0], [1.0 if t == 1 else 0.0], [1.0 if t == 3 else 0.0]], np.float32)
        state, outcome, timestep = step(state, action)
        assert outcome.terminated.numpy().tolist() == [False, t == 1, t == 3]
        assert outcome.truncated.numpy().tolist() == [t == 3, False, t == 3]
        np.testing.assert_array_equal(outcome.next_obs[:, 1], [t + 1, t + 1 if t < 2 else t - 1, t + 1])
        np.testing.assert_allclose(outcome.reward, action[:, 0] * 2.0 if t in (1, 3) else np.zeros(3), atol=1e-6)
    fresh = timestep.obs.numpy()
    assert fresh[:, 1].tolist() == [0.0, 2.0, 0.0]
    assert (fresh[:, 0] != tags).all()


# Gymnasium environments on the host.


class Tagged(gym.Env):
    """Observes (its seed's first draw, step); acts in [-1, 3]: at 3 it terminates, the reward is the raw action."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gym.spaces.Box(np.array([-2.0]), np.array([2.0]), dtype=np.float64)

    def __init__(self, low=-2.0, high=2.0, broken=None):
        self.action_space = gym.spaces.Box(np.array([low]), np.array([high]), dtype=np.float64)
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tag, self.t = self.np_random.uniform(), 0
        return self._obs(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self._obs(), float(action[0]), bool(action[0] >= self.action_space.high[0]), False, {}

    def _obs(self):
        if self.broken == "nan" and self.t == 2:
            return np.array([np.nan, 0.0])
        return np.array([self.tag, float(self.t)])


gym.register("Tagged-v0", entry_point=Tagged, max_episode_steps=7)


def host(task, seed=0):
    return HostEnv(task, rng.split(rng.key(seed), task.num_envs).numpy())


@pytest.mark.parametrize("kwargs", [{}, {"low": -1.0, "high": 5.0}])
def test_actions_are_rescaled_to_asymmetric_bounds(kwargs):
    task = Task("Tagged-v0", kwargs=kwargs)
    env, (low, high) = host(task), (kwargs.get("low", -2.0), kwargs.get("high", 2.0))
    env.reset()
    span = high - low
    for action, raw in [(-1.0, low), (0.0, low + 0.5 * span), (0.5, low + 0.75 * span), (-3.0, low), (1.0, high)]:
        step = env.step(np.array([[action]], np.float32))
        assert step.reward[0] == pytest.approx(raw)
    assert step.terminated[0]
    assert task.spec.action_space.low == -1.0 and task.spec.action_space.high == 1.0


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_end_belongs_to_its_episode_and_the_next_begins_afresh(vectorization):
    env = host(Task("Tagged-v0", num_envs=2, vectorization=vectorization))
    try:
        obs = env.reset()
        tags, episodes = obs[:, 0].copy(), np.zeros(2, int)
        for t in range(1, 16):  # copy 0 terminates at its step 3, copy 1 is cut at 7 and 14
            end = np.array([t == 3, False])
            step = env.step(np.where(end, 1.0, 0.0)[:, None].astype(np.float32))
            assert all(part.dtype == np.float32 for part in (step.obs, step.next_obs, step.reward))
            np.testing.assert_array_equal(step.next_obs[:, 0], tags)
            np.testing.assert_array_equal(step.next_obs[:, 1], obs[:, 1] + 1)
            np.testing.assert_array_equal(step.terminated, end)
            np.testing.assert_array_equal(step.truncated, [t in (10,), t in (7, 14)])
            done = step.terminated | step.truncated
            np.testing.assert_array_equal(step.obs[~done], step.next_obs[~done])
            assert (step.obs[done, 1] == 0).all() and (step.obs[done, 0] != tags[done]).all()
            episodes += done
            tags, obs = step.obs[:, 0].copy(), step.obs
            keys = rng.split(rng.key(0), 2).numpy()
            drawn = [np.random.Generator(np.random.PCG64(s)).uniform() for s in episode_seeds(keys, episodes)]
            np.testing.assert_allclose(tags, drawn, rtol=1e-6)
    finally:
        env.close()


def test_seeds_are_those_of_the_device_and_reproducible():
    keys = rng.split(rng.key(3), 3).numpy()
    seeds = [episode_seeds(keys, np.full(3, episode)) for episode in range(4)]
    words = [episode_keys(tf.constant(keys), tf.fill((3,), tf.constant(e, tf.int64))).numpy()[:, 1] for e in range(4)]
    assert seeds == [[int(word) >> 1 for word in each] for each in words]
    assert len({seed for each in seeds for seed in each}) == 12
    assert all(0 <= seed < 2**31 for each in seeds for seed in each)
    one, two, other = (host(Task("Tagged-v0", num_envs=3), seed).reset() for seed in (3, 3, 4))
    assert (one == two).all() and (one != other)[:, 0].all()


def test_a_custom_limit_holds_on_both_sides_and_in_evaluation():
    task = Task("Pendulum-v1", max_episode_steps=11, physics=Pendulum(g=2.0))
    assert task.time_limit == 11
    step, state, _ = device(task)
    env, made = host(task), task.make()
    env.reset()
    made.reset(seed=0)
    assert made.unwrapped.g == 2.0
    for t in range(11):
        state, outcome, _ = step(state, tf.zeros((1, 1)))
        assert outcome.truncated.numpy()[0] == env.step(np.zeros((1, 1), np.float32)).truncated[0] == (t == 10)
        assert made.step(np.zeros(1, np.float32))[3] == (t == 10)


def test_the_host_steps_the_same_physics_as_the_device():
    """Gravity changes both, and one action does the same to both."""
    task = Task("Pendulum-v1", physics=Pendulum(g=3.0))
    env = host(task)
    obs = env.reset()[0]
    step, state, _ = device(task)
    angle = np.arctan2(obs[1], obs[0])
    physics = PendulumState(tf.constant([angle]), tf.constant([obs[2]]))
    action = np.array([[0.3]], np.float32)
    _, outcome, _ = step(state._replace(physics=physics), action)
    theirs = env.step(action)
    np.testing.assert_allclose(outcome.next_obs, theirs.next_obs, atol=1e-5)
    np.testing.assert_allclose(outcome.reward, theirs.reward, atol=1e-5)


def test_what_is_not_a_number_is_never_learned_from():
    env = host(Task("Tagged-v0", kwargs={"broken": "nan"}))
    env.reset()
    env.step(np.zeros((1, 1), np.float32))
    with pytest.raises(RunError, match="'Tagged-v0'.*step 2"):
        env.step(np.zeros((1, 1), np.float32))


# Ten thousand transitions through a runner and its replay, which wraps around.

N, CAPACITY, ROUNDS = 3, 1_000, 12


@pytest.mark.parametrize("kind", [HostRunner, DeviceRunner])
def test_no_transition_crosses_episodes(kind):
    physics = Counting() if kind is DeviceRunner else None
    task = Task("Tagged-v0", num_envs=N, physics=physics, max_episode_steps=7)
    runner = kind(TrainingStep(RandomEnds(task.spec), Uniform(CAPACITY)), task, 0)
    seen, ends = set(), {"terminated": 0, "truncated": 0}
    for _ in range(ROUNDS):
        runner.advance(300, True)  # 900 rows: none is overwritten unseen
        rows = tf.nest.map_structure(np.asarray, replay_rows(runner.state().buffer))
        held = slice(None) if len(seen) >= CAPACITY else slice(0, 900 if not seen else CAPACITY)
        rows = tf.nest.map_structure(lambda leaf: leaf[held], rows)  # noqa: B023
        tag, step = rows.obs.T
        np.testing.assert_array_equal(rows.next_obs[:, 0], tag)
        np.testing.assert_array_equal(rows.next_obs[:, 1], step + 1)
        np.testing.assert_array_equal(rows.truncated, step + 1 == 7)
        np.testing.assert_array_equal(rows.terminated, rows.action[:, 0] >= 0.9)
        seen |= set(zip(tag.tolist(), step.tolist()))
        ends = {name: ends[name] + int(getattr(rows, name).sum()) for name in ends}
    assert ends["terminated"] > 500 and ends["truncated"] > 500
    assert len(seen) == N * 300 * ROUNDS >= 10_000  # every transition was stored, none twice under one tag
    assert runner.metrics()[0]["train/episodes"] > 1_500
    runner.close()


@dataclass(frozen=True)
class RandomEnds(RandomActions):
    """Uniform actions of which those from 0.9 on end the episode: they are 1, the bound where it terminates."""

    def act(self, state, timestep, key, progress):
        action, state = super().act(state, timestep, key, progress)
        return tf.where(action >= 0.9, tf.ones_like(action), action), state


# LunarLander, which is not compiled.


def test_lunar_lander_lands_in_gymnasium():
    """Anything with Box observations and Discrete actions is stepped from Python, physics or not."""
    pytest.importorskip("Box2D")
    made = make_plan("dqn", "env=lunar_lander")
    runner = HostRunner(replace(made.trainer, algo=RandomActions(made.task.spec)), made.task, 0)
    runner.advance(300, True)
    assert runner.metrics()[0]["train/episodes"] >= 1.0
    runner.close()


def test_a_missing_simulator_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    for kwargs in (None, {"continuous": True}):
        with pytest.raises(ConfigError, match=r"^env.id=LunarLander-v3: cannot be made: .*gymnasium\[box2d\]"):
            Task("LunarLander-v3", kwargs=kwargs).spec  # noqa: B018
