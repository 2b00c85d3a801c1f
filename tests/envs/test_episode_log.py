"""What leads back into an episode: small, bounded, told where it ends; and what is left where nothing leads back."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_plan, progress, without_xla
from gymnasium import spaces
from support.random_actions import RandomActions

from rlresearch.buffers import OnlineBuffer, Prioritized, Rollout, Uniform, unpack
from rlresearch.envs import episode_log
from rlresearch.envs.episode_log import EpisodeLog, stack_logs
from rlresearch.errors import ConfigError
from rlresearch.evaluation.evaluator import Evaluator
from rlresearch.rng import key
from rlresearch.runners.host import HostRunner
from rlresearch.runners.step import TrainingStep
from rlresearch.storage import checkpoint
from rlresearch.training.callbacks import LoopPosition, Milestone
from rlresearch.training.checkpointing import Checkpointer, CheckpointFacts
from rlresearch.training.settings import CheckpointSettings
from rlresearch.training.state_io import state_digest
from rlresearch.types import Transition

OBS, REWARD = np.zeros(2, np.float32), np.float32(0.0)


@pytest.mark.parametrize("action", [np.float32([0.5]), np.float32([[1, 2, 3], [4, 5, 6]]), np.int32(3)], ids=str)
def test_an_episode_is_its_actions_and_little_more(action):
    log = EpisodeLog(OBS)
    for _ in range(10_000):
        log.note(action, OBS, REWARD)
    assert len(pickle.dumps(log)) < 10_000 * action.nbytes + 1_000
    assert log.actions.shape == (10_000, *action.shape) and log.actions.dtype == action.dtype
    assert (log.actions == action).all()


def test_beyond_the_bound_the_actions_are_forgotten_and_nothing_leads_back(monkeypatch):
    monkeypatch.setattr(episode_log, "MOST_BYTES", 400)
    log, other = EpisodeLog(OBS), EpisodeLog(OBS)
    for _ in range(100):
        log.note(np.float32([1.0]), OBS, REWARD)
    assert not log.too_long and len(log.actions) == 100
    log.note(np.float32([1.0]), OBS, REWARD)
    assert log.too_long and log.length == 101 and len(log.actions) == 0 and len(pickle.dumps(log)) < 1_000
    logs = stack_logs([log, other], np.zeros(2, np.int64), np.zeros((2, 2)), np.zeros((2, 1), np.float32))
    assert logs.lengths.tolist() == [0, 0] and not logs.digests[0].any() and logs.digests[1].any()


class Endless(gym.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.float32([self.np_random.uniform()]), {}

    def step(self, action):
        self.steps += 1
        return np.float32([self.steps]), 1.0, False, False, {}


gym.register("Endless-v0", Endless)


def test_an_evaluation_has_a_limit_of_its_own():
    with pytest.raises(ConfigError, match="has no time limit.*env.max_episode_steps=STEPS, or eval.max_episode_steps"):
        make_plan("ddpg", "env=gym", "env.id=Endless-v0")
    made = make_plan("ddpg", "env=gym", "env.id=Endless-v0", "eval.max_episode_steps=7")
    evaluator = Evaluator(made.task, (0,), most_steps=made.eval.max_episode_steps)
    (found,) = evaluator.run(lambda obs: np.zeros((*obs.shape[:2], 1), np.float32), 3, 0)
    assert found.lengths == [7, 7, 7] and found.returns == [7.0, 7.0, 7.0]


REPLAY = Uniform(50, n_step=3)
FACTS = CheckpointFacts(REPLAY)


def runner_of(plan, seed=3):
    return HostRunner(TrainingStep(RandomActions(plan.task.spec), REPLAY), plan.task, seed)


def saver_of(runner, plan, folder, **settings):
    return Checkpointer(runner, plan.task, CheckpointSettings(keep_best=False, **settings), folder, FACTS)


def test_a_very_long_episode_is_told_and_saved_to_go_on_after_it(tmp_path, monkeypatch):
    """No checkpoint waits for its end, which may never come; with fresh episodes the run goes on from there."""
    monkeypatch.setattr(episode_log, "MOST_BYTES", 40)
    plan = make_plan("ddpg", "env=gym", "env.id=Endless-v0", "eval.max_episode_steps=7")
    with without_xla():
        one, two = runner_of(plan), runner_of(plan)
        one.advance(8, True)
        assert one.finding is None and one.resumable_here
        one.advance(4, False)
        assert one.finding.kind == "long_episode" and "checkpoint.episodes=fresh" in one.finding.message
        saver = saver_of(one, plan, tmp_path)
        saver.at_milestone(LoopPosition(), Milestone(12, False, False, True), [])
        saver.wait()
        saver.close()
        assert checkpoint.newest(tmp_path)[0] is None
        loaded = checkpoint.newest(tmp_path, exact=False)[0]
        assert loaded.about.step == 12 and not loaded.about.exact
        resumed = saver_of(two, plan, tmp_path, episodes="fresh")
        resumed.resume(loaded)
        assert resumed.fresh_episodes and two.iteration == 12 and two.resumable_here
        rows = unpack(two.state().buffer.columns, two.state().buffer.row)
        assert rows.truncated.numpy()[:12].tolist() == [False] * 11 + [True] and not rows.terminated.numpy().any()
        assert two.state().timestep.first.numpy().all() and two.state().episodes.run_length.numpy().tolist() == [0.0]
        assert two.state().timestep.obs.numpy()[0, 0] < 1.0  # where an episode begins
        two.advance(3, False)
        resumed.on_end(LoopPosition())
        resumed.close()
        three = runner_of(plan)  # and what is saved then is whole, the changed row included
        again = saver_of(three, plan, tmp_path)
        again.resume(checkpoint.newest(tmp_path)[0])
        again.close()
        assert state_digest(three) == state_digest(two)
    for each in (one, two, three):
        each.close()


def test_where_a_seed_is_given_once_a_resumed_run_begins_fresh_episodes(tmp_path):
    plan = make_plan("ddpg", "env=gym", "env.id=Endless-v0", "env.max_episode_steps=5", "env.reseed=false")
    with without_xla():
        one, two = runner_of(plan), runner_of(plan)
        saver, resumed = saver_of(one, plan, tmp_path), saver_of(two, plan, tmp_path)
        one.advance(8, True)
        assert one.resumable_here
        saver.on_end(LoopPosition())
        saver.close()
        resumed.resume(checkpoint.newest(tmp_path)[0])
        assert resumed.fresh_episodes and two.state().timestep.first.numpy().all()
        two.advance(2, False)
        resumed.close()
    one.close()
    two.close()


ROW = Transition(tf.zeros(1), tf.zeros(1), tf.constant(0.0), tf.constant(False), tf.constant(False), tf.zeros(1))
BUFFERS = [Uniform(8), Prioritized(8), Rollout(8), OnlineBuffer()]


def rows_of(count, terminated=()):
    flags = [each in terminated for each in range(count)]
    column = tf.zeros((count, 1))
    return Transition(column, column, tf.zeros(count), tf.constant(flags), tf.zeros(count, tf.bool), column)


@pytest.mark.parametrize("buffer", BUFFERS, ids=lambda each: type(each).__name__)
def test_the_newest_rows_of_episodes_that_are_left_are_truncated_ones(buffer):
    """Of two environments the second's; and where its row is a terminated one, it stays that."""
    for terminated, expected in (((), [False, True]), ((1,), [False, False])):
        state = buffer.init(ROW, 2)
        for _ in range(3):
            state = buffer.add(state, rows_of(2, terminated))
        state = buffer.end_episodes(state, tf.constant([False, True]))
        columns = getattr(getattr(state, "rows", state), "columns", None)
        if columns is None:
            assert state.truncated.numpy().tolist() == expected
            continue
        rows = unpack({name: tf.reshape(each, (8, -1)) for name, each in columns.items()}, ROW)
        assert rows.truncated.numpy().tolist() == [False] * 4 + expected + [False] * 2
        assert rows.terminated.numpy().tolist()[4:6] == [False, bool(terminated)]


@pytest.mark.parametrize("buffer", BUFFERS, ids=lambda each: type(each).__name__)
def test_an_empty_buffer_has_no_rows_to_end(buffer):
    if not isinstance(buffer, OnlineBuffer):
        empty = buffer.init(ROW, 2)
        ended = buffer.end_episodes(empty, tf.constant([True, True]))
        for before, after in zip(tf.nest.flatten(empty), tf.nest.flatten(ended), strict=True):
            assert before.numpy().tolist() == after.numpy().tolist()


def test_no_sum_of_rewards_runs_into_another_episode():
    buffer = Uniform(8, n_step=3)
    state = buffer.add(buffer.init(ROW, 1), rows_of(1)._replace(reward=tf.ones(1)))
    left = buffer.end_episodes(state, tf.constant([True]))
    for before, steps in ((left, 1.0), (state, 2.0)):
        after = buffer.add(before, rows_of(1)._replace(reward=tf.ones(1)))
        batch = buffer.sample(after, key(0), 16, 1.0, progress())
        assert batch.steps.numpy().max() == steps
