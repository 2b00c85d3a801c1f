"""The one step: what algorithms are told of progress, which keys they draw with, and what is evaluated."""

from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from conftest import ALGORITHMS, RandomActions, batch_for, make_algo, make_plan, on_policy, same_bits, spec_of

from rlresearch import rng
from rlresearch.buffers import Prioritized, Uniform, sum_tree
from rlresearch.normalize import Identity
from rlresearch.runners.step import TrainingStep
from rlresearch.types import StepResult, TimeStep

KEY = rng.key(7)


def lived(trainer, rows, iterations):
    """The state after some iterations of the same transitions, learning wherever it is due."""
    timestep = TimeStep(rows.obs, tf.zeros(rows.reward.shape, tf.bool))
    state = trainer.init(KEY, (), timestep)
    for t in range(iterations):
        iteration, learning = tf.constant(t, tf.int64), t >= trainer.learning_start_iteration
        action, state = trainer.act(state, iteration, learning)
        state = trainer.collect(state, action, StepResult(*rows[2:6]), timestep, ())
        state = trainer.learn(state, iteration) if learning else state
    return state


def rows_of(algo, envs=2):
    """One transition of each environment."""
    rows = batch_for(algo, envs)
    return tf.nest.map_structure(lambda leaf: leaf[0], rows) if algo.LEARNS_FROM == "rollouts" else rows


@dataclass(frozen=True)
class Told(RandomActions):
    """Its state is what it was told last, when it acted and when it learned: transitions and episodes so far."""

    def init(self, key):
        return tf.zeros((2, 2))

    def act(self, state, timestep, key, progress):
        return super().act(state, timestep, key, progress)[0], tf.stack([_numbers(progress), state[1]])

    def update(self, state, batch, key, progress):
        return tf.stack([state[0], _numbers(progress)]), {}, None


def _numbers(progress):
    return tf.stack([tf.cast(progress.step, tf.float32), progress.episode])


@pytest.mark.parametrize("envs", [1, 3])
def test_progress_counts_transitions_and_episodes_of_all_environments(envs):
    """After the fifth iteration, all of which end: four came before it acted, five before it learned."""
    algo = Told(spec_of(3, 1, envs), learning_starts=0)
    rows = rows_of(algo, envs)._replace(truncated=tf.ones(envs, tf.bool))
    state = lived(TrainingStep(algo, Uniform(100)), rows, 5)
    assert state.algo.numpy().tolist() == [[4 * envs] * 2, [5 * envs] * 2]


@dataclass(frozen=True)
class Shown(RandomActions):
    """Its state is the rewards of the batch that it learned from last; every row is as wrong as its reward."""

    def init(self, key):
        return tf.zeros(self.batch_size)

    def update(self, state, batch, key, progress):
        return batch.reward, {}, batch.reward


def test_sums_of_several_steps_are_discounted_as_the_algorithm_says():
    """Rewards of 1, gamma 1/2: a row has up to three of them."""
    algo = Shown(spec_of(3, 1, 1), learning_starts=0, gamma=0.5, batch_size=200)
    rows = rows_of(algo, 1)._replace(reward=tf.ones(1))
    state = lived(TrainingStep(algo, Uniform(100, n_step=3)), rows, 6)
    assert set(state.algo.numpy().tolist()) == {1.0, 1.5, 1.75}


@dataclass(frozen=True)
class AtMostOne(Identity):
    """A normalizer that clips rewards at 1."""

    def rewards(self, state, reward):
        return tf.minimum(reward, 1.0)


@dataclass(frozen=True)
class Plain(Uniform):
    """A replay whose `sample` takes no function of rewards, as in a user's own folder."""

    def sample(self, state, key, batch_size, gamma, progress):
        return super().sample(state, key, batch_size, gamma, progress)


@pytest.mark.parametrize("buffer", [Uniform(100, n_step=3), Prioritized(100, n_step=3), Plain(100, n_step=3)])
def test_each_reward_is_normalized_and_clipped_before_several_are_summed(buffer):
    """Rewards of 4, each clipped at 1: a row has up to three of them. Of a plain replay the sum is clipped."""
    algo = Shown(spec_of(3, 1, 1), learning_starts=0, gamma=0.5, batch_size=200)
    rows = rows_of(algo, 1)._replace(reward=tf.fill(1, 4.0))
    state = lived(TrainingStep(algo, buffer, AtMostOne()), rows, 6)
    assert set(state.algo.numpy().tolist()) == ({1.0} if isinstance(buffer, Plain) else {1.0, 1.5, 1.75})


def test_the_replay_learns_how_wrong_its_rows_were():
    algo = Shown(spec_of(3, 1, 3), learning_starts=0, batch_size=64)
    rows = rows_of(algo, 3)._replace(reward=tf.constant([0.25, 4.0, 1.0]))
    buffer = Prioritized(capacity=3, alpha=1.0, eps=1e-12)
    state = lived(TrainingStep(algo, buffer), rows, 1).buffer
    np.testing.assert_allclose(sum_tree.get(state.tree, tf.range(3), 3), [0.25, 4.0, 1.0])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_draw_of_a_run_has_a_key_of_its_own(name, monkeypatch):
    """Three iterations, several updates each where the algorithm takes them: no key is drawn from, or split, twice."""
    kinds = [] if on_policy(name) or make_plan(name).trainer.buffer.capacity >= 2**31 else ["buffer=prioritized"]
    settings = dict(learning_starts=2, updates=2, batch_size=4, rollout_steps=2)
    trainer = make_plan(name, "env.num_envs=2", *kinds, **settings).trainer
    used, blocks = [], rng.blocks

    def noted(key, x0, x1):
        purpose = None if tf.is_symbolic_tensor(key) else int(x1[0])
        if purpose in (rng.DRAW, rng.SPLIT):  # not a `fold_in`, of which a key may have any number
            used.append((purpose, *key.numpy().tolist()))
        return blocks(key, x0, x1)

    monkeypatch.setattr(rng, "blocks", noted)
    lived(trainer, rows_of(trainer.algo), 3)
    example = [each for each in used if each[1:] == (0, 0)]  # the key of the replay's empty row
    assert len(used) > 6 and len(example) <= 2
    assert len(set(used)) == len(used)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_policy_that_is_evaluated_does_not_explore(name):
    """It is the algorithm's own, where exploration would do something else."""
    loud = ["noise.sigma=1.0"] if hasattr(getattr(make_algo(name), "noise", None), "sigma") else []
    trainer = make_plan(name, "env.num_envs=64", *loud).trainer
    timestep = TimeStep(rows_of(trainer.algo, 64).obs, tf.zeros(64, tf.bool))
    state = trainer.init(KEY, (), timestep)
    evaluated = trainer.policy(state, timestep.obs)
    np.testing.assert_array_equal(evaluated, trainer.algo.policy(state.algo, timestep.obs))
    progress = trainer.progress(state, tf.constant(0, tf.int64))
    assert not same_bits(evaluated, trainer.algo.act(state.algo, timestep, KEY, progress)[0])
