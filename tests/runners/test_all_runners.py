"""Every shipped algorithm under every runner: the same draws, the same learning."""

from contextlib import contextmanager
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import ALGORITHMS, apart, home, leaves, make_plan, on_policy

from rlresearch import rng, tree
from rlresearch.envs.device import DeviceEnv, episode_keys
from rlresearch.review.commands.metrics import documented
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.population import PopulationRunner

ENVS, LIMIT, SEED, ITERATIONS = 2, 10, 3, 24  # through two time limits
WAITING = ("ddpg", "dqn")  # these learn from the 9th iteration on, the others from the first: a loop less to compile
# One of each way to learn: from replay, from rollouts, by a table. The others are among the slow tests.
FEW = ("ddpg", "ppo", "q_learning")
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FEW)) for name in ALGORITHMS]


class Twin(gym.Env):
    """A compiled environment seen through Gymnasium: equal episodes for equal seeds, so that only runners differ."""

    def __init__(self, task, keys):
        self.observation_space, self.action_space = task.make().unwrapped.observation_space, task.spaces[1]
        self._physics, self._keys = task.physics, keys
        self._step = tf.function(task.physics.step, autograph=False)

    def reset(self, *, seed=None, options=None):
        self._key, self._elapsed = self._keys[seed], 0
        self._state = self._physics.reset(self._key)
        return self._seen(), {}

    def step(self, action):
        self._elapsed += 1
        action = tf.constant(action, tf.int32 if isinstance(self.action_space, gym.spaces.Discrete) else tf.float32)
        key = rng.fold_in(self._key, tf.constant(self._elapsed, tf.int64))
        self._state, reward, terminated = self._step(self._state, action, key)
        return self._seen(), float(reward), bool(terminated), False, {}

    def _seen(self):
        return self._physics.observe(self._state).numpy()


gym.register("Twin-v0", entry_point=Twin, max_episode_steps=LIMIT)


def episode_keys_by_seed(episodes=30):
    """The keys of all episodes that a run may begin, by the seeds that Gymnasium's environments get instead."""
    env_key = tf.unstack(rng.split(rng.key(SEED), 2))[1]
    copies = tf.repeat(rng.split(env_key, ENVS), episodes, axis=0)
    keys = episode_keys(copies, tf.tile(tf.range(episodes, dtype=tf.int64), (ENVS,)))
    return {int(key[1]) >> 1: key for key in keys}


@contextmanager
def eager():
    """A runner made and advanced in here runs operation by operation."""

    class Plain:
        def __init__(self, function):
            self._function = function

        def __call__(self, *arguments):
            return self._function(*arguments)

        def get_concrete_function(self, *_):
            return self._function

    step = tf.function(DeviceEnv.step, autograph=False)  # mapped over copies: that is traced at every eager call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf, "function", lambda function, **_: Plain(function))
        patch.setattr(DeviceEnv, "step", lambda self, state, action: step(self, state, action))
        yield


@pytest.mark.usefixtures("quick_draws")
@pytest.mark.parametrize("name", CASES)
def test_device_host_and_population_learn_alike(name):
    """Operation by operation with the environment inside and around Gymnasium's; compiled as the second of two."""
    small = dict(learning_starts=16 if name in WAITING else 0, batch_size=8, rollout_steps=8)
    env = "cliff_walking" if home(name) == "frozen_lake" else home(name)  # a lake says nothing before its goal is found
    own = [f"env={env}", "normalize=running"] if on_policy(name) else [f"env={env}"]
    made = make_plan(name, *own, f"env.num_envs={ENVS}", f"env.max_episode_steps={LIMIT}", **small)
    trainer, task = made.trainer, made.task
    twin = replace(task, id="Twin-v0", physics=None, kwargs={"task": task, "keys": episode_keys_by_seed()})
    with eager():
        device, host = DeviceRunner(trainer, task, SEED), HostRunner(trainer, twin, SEED)
        begun = device.state().algo
        for runner in (device, host):
            runner.advance(ITERATIONS, True)
    host.close()
    population = PopulationRunner(trainer, task, (SEED + 1, SEED))
    population.advance(ITERATIONS, True)

    ours, rows = device.state(), device.metrics()[0]
    assert float(ours.totals.count) > 0.0 and apart(begun, ours.algo) > 0.0
    assert set(rows) - {"step", "returns", "lengths"} <= set(documented(name))
    for other, row in (
        (host.state(), host.metrics()[0]),
        (tree.member(population.state(), 1), population.metrics()[1]),
    ):
        np.testing.assert_array_equal(ours.key, other.key)
        assert float(ours.totals.count) == float(other.totals.count)
        np.testing.assert_array_equal(ours.episodes.finished, other.episodes.finished)
        pairs = zip(*(leaves((each.algo, each.buffer, each.normalizer)) for each in (ours, other)), strict=True)
        for mine, theirs in pairs:
            np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4)
        assert row.keys() == rows.keys()
        for metric, value in rows.items():
            assert row[metric] == pytest.approx(value, rel=1e-3, abs=1e-3, nan_ok=True), metric
    assert apart(ours.algo, tree.member(population.state(), 0).algo) > 1e-3
