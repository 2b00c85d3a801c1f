"""Tables: what each rule steps towards, the same by automatic differentiation, the optimal values of a small grid."""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_batch, progress

from rlresearch import noise, rng, schedules
from rlresearch.algos.tabular import Tabular, TabularState
from rlresearch.buffers import OnlineBuffer
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.step import TrainingStep
from rlresearch.types import EnvSpec, TimeStep

RULES = ["q_learning", "sarsa", "expected_sarsa", "double_q_learning"]
FEW = ["q_learning", "double_q_learning"]
STATES, ACTIONS = 3, 2
TABLE = np.float32([[1.0, 4.0], [3.0, -2.0], [0.5, 0.25]])
OTHER = np.float32([[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]])


def spec(num_envs=1, one_hot=True):
    box = gym.spaces.Box(0.0, 1.0, (STATES,), np.float32)
    return EnvSpec("made", box, gym.spaces.Discrete(ACTIONS), num_envs, one_hot)


def batch(states, actions, rewards, next_states, terminated=None, truncated=None):
    rows = len(states)
    eye = np.eye(STATES)
    ends = {"terminated": terminated or [False] * rows, "truncated": truncated or [False] * rows}
    made = make_batch(rows, obs=eye[states], next_obs=eye[next_states], reward=rewards, **ends)
    return made._replace(action=tf.constant(actions, tf.int32))


def state_of(algo, tables):
    return algo.init(rng.key(0))._replace(tables=tf.constant(tables))


def moved(algo, tables, rows, seed=0):
    after, metrics, error = algo.update(state_of(algo, tables), rows, rng.key(seed), progress())
    return after.tables.numpy(), metrics, error.numpy()


GREEDY = noise.Greedy()
HALF = noise.EpsilonGreedy(0.5)


def test_q_learning_steps_towards_the_best_next_value():
    tables, metrics, error = moved(Tabular(spec(), GREEDY, alpha=0.5, gamma=0.9), [TABLE], batch([0], [1], [1.0], [1]))
    expected = TABLE.copy()
    expected[0, 1] += 0.5 * (1.0 + 0.9 * 3.0 - 4.0)
    np.testing.assert_allclose(tables, [expected], rtol=1e-6)
    np.testing.assert_allclose(error, [0.3], atol=1e-6)
    assert metrics["value/target"].numpy() == pytest.approx(3.7)


def test_q_learning_is_off_its_policy():
    """However it explores, it learns of the best next action."""
    rows = batch([0] * 50, [0] * 50, [1.0] * 50, [1] * 50)
    _, _, error = moved(Tabular(spec(50), noise.EpsilonGreedy(1.0), alpha=0.5, gamma=0.9), [TABLE], rows)
    np.testing.assert_allclose(error, np.full(50, 1.0 + 0.9 * 3.0 - 1.0), rtol=1e-6)


def test_the_step_size_follows_its_schedule():
    algo = Tabular(spec(), GREEDY, alpha=0.8, gamma=0.9, schedule=schedules.Linear(over=100))
    after, _, _ = algo.update(state_of(algo, [TABLE]), batch([0], [0], [1.0], [1]), rng.key(0), progress(step=75))
    assert after.tables.numpy()[0, 0, 0] == pytest.approx(1.0 + 0.2 * (1.0 + 0.9 * 3.0 - 1.0))


def test_expected_sarsa_steps_towards_the_mean_over_what_explores():
    algo = Tabular(spec(), HALF, rule="expected_sarsa", alpha=1.0, gamma=0.9)
    tables, _, _ = moved(algo, [TABLE], batch([0], [0], [1.0], [1]))
    assert tables[0, 0, 0] == pytest.approx(1.0 + 0.9 * (0.75 * 3.0 + 0.25 * -2.0))


def test_sarsa_learns_from_the_action_that_it_then_takes():
    algo = Tabular(spec(num_envs=400), noise.EpsilonGreedy(1.0), rule="sarsa", alpha=1.0, gamma=0.9)
    rows = batch([0] * 400, [0] * 400, [1.0] * 400, [1] * 400)
    state = state_of(algo, [TABLE])
    after, _, error = algo.update(state, rows, rng.key(0), progress())
    drawn = after.next_action.numpy()
    assert 140 < drawn.sum() < 260
    np.testing.assert_allclose(error, np.abs(1.0 + 0.9 * TABLE[1, drawn] - TABLE[0, 0]), rtol=1e-5)
    goes_on = TimeStep(rows.next_obs, tf.zeros(400, tf.bool))
    np.testing.assert_array_equal(algo.act(after, goes_on, rng.key(1), progress())[0], drawn)
    begins = TimeStep(rows.next_obs, tf.ones(400, tf.bool))
    assert (algo.act(after, begins, rng.key(1), progress())[0].numpy() != drawn).any()


def test_double_q_learning_values_by_the_other_table_what_its_own_prefers():
    algo = Tabular(spec(), GREEDY, rule="double_q_learning", alpha=1.0, gamma=0.5)
    seen = set()
    for seed in range(20):
        tables, _, _ = moved(algo, [TABLE, OTHER], batch([0], [0], [1.0], [1]), seed)
        first, second = (not np.array_equal(now, old) for now, old in zip(tables, (TABLE, OTHER)))
        assert first != second  # one of them learns
        if first:
            assert tables[0, 0, 0] == pytest.approx(1.0 + 0.5 * OTHER[1, 0])  # its own best of state 1 is action 0
        else:
            assert tables[1, 0, 0] == pytest.approx(1.0 + 0.5 * TABLE[1, 1])  # the other's best is action 1
        seen.add(first)
    assert seen == {True, False}


def test_double_q_learning_acts_by_the_mean_of_both_tables():
    """In state 1 the first prefers action 0, the second action 1, and so does their mean."""
    algo = Tabular(spec(2), GREEDY, rule="double_q_learning")
    state = state_of(algo, [[[0.0, 0.0], [3.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [-4.0, 1.0], [0.0, 0.0]]])
    obs = tf.constant(np.eye(STATES)[[1, 1]], tf.float32)
    assert algo.policy(state, obs).numpy().tolist() == [1, 1]
    assert algo.act(state, TimeStep(obs, tf.ones(2, tf.bool)), rng.key(0), progress())[0].numpy().tolist() == [1, 1]


@pytest.mark.parametrize("rule", RULES)
def test_every_value_begins_as_it_was_told(rule):
    tables = Tabular(spec(), GREEDY, rule=rule, initial=2.5).init(rng.key(0)).tables
    assert np.all(tables == 2.5) and tables.shape[1:] == (STATES, ACTIONS)


@pytest.mark.parametrize("rule", RULES)
def test_an_end_of_the_task_has_no_value_and_a_time_limit_keeps_it(rule):
    algo = Tabular(spec(), GREEDY, rule=rule, alpha=1.0, gamma=0.5)
    tables = [TABLE, TABLE][: 2 if rule == "double_q_learning" else 1]
    ended, _, _ = moved(algo, tables, batch([0], [0], [1.0], [1], terminated=[True]))
    cut, _, _ = moved(algo, tables, batch([0], [0], [1.0], [1], truncated=[True]))
    assert 1.0 in ended[:, 0, 0] and 1.0 + 0.5 * 3.0 in cut[:, 0, 0]


@pytest.mark.parametrize("rule", RULES)
def test_the_written_change_is_the_gradients(rule):
    """Rows that visit one cell together add up in both."""
    draw = np.random.default_rng(1)
    table = Tabular(spec(num_envs=12), HALF, rule=rule, alpha=0.3, gamma=0.9)
    tables = draw.normal(size=(2 if rule == "double_q_learning" else 1, STATES, ACTIONS)).astype(np.float32)
    rows = batch(*(draw.integers(0, most, 12) for most in (STATES, ACTIONS)), draw.normal(size=12),
                 draw.integers(0, STATES, 12))  # fmt: skip
    written, _, error = moved(table, tables, rows)
    derived, _, same = moved(replace(table, by="gradient"), tables, rows)
    np.testing.assert_allclose(written, derived, atol=1e-6)
    np.testing.assert_allclose(error, same, atol=1e-6)
    assert np.abs(written - tables).max() > 0.1


def test_what_is_not_one_hot_is_refused():
    with pytest.raises(ConfigError, match="needs discrete observations, but env 'made' has others"):
        Tabular(spec(one_hot=False), GREEDY).check()


# Grid: 12 squares, a goal worth 1 and a pit worth -1, every step -0.04; episodes begin anywhere else.

WIDTH, GOAL, PIT, GAMMA = 4, 3, 7, 0.9
MOVES = [(0, -1), (1, 0), (0, 1), (-1, 0)]


def _table():
    next_square, reward, ends = (np.zeros((12, 4), kind) for kind in (np.int32, np.float32, bool))
    for square in range(12):
        for action, (down, right) in enumerate((dy, dx) for dx, dy in MOVES):
            row, column = divmod(square, WIDTH)
            row, column = np.clip(row + down, 0, 2), np.clip(column + right, 0, 3)
            there = row * WIDTH + column
            next_square[square, action] = there
            reward[square, action] = {GOAL: 1.0, PIT: -1.0}.get(there, -0.04)
            ends[square, action] = there in (GOAL, PIT)
    return next_square, reward, ends


NEXT, REWARD, ENDS = _table()


def optimal_values():
    """By value iteration."""
    values = np.zeros(12)
    for _ in range(200):
        values = np.max(REWARD + GAMMA * (1 - ENDS) * values[NEXT], axis=1)
    return values


@dataclass(frozen=True)
class Grid:
    def reset(self, key):
        free = tf.constant([square for square in range(12) if square not in (GOAL, PIT)], tf.int32)
        return tf.gather(free, rng.randint(key, (), 10))

    def step(self, state, action, key):
        cell = state * 4 + action
        pick = lambda table: tf.gather(tf.constant(table.reshape(-1)), cell)  # noqa: E731
        return pick(NEXT), pick(REWARD), pick(ENDS)

    def observe(self, state):
        return state


class GridEnv(gym.Env):
    """Names the spaces of `Grid`; only its compiled twin is ever stepped."""

    observation_space, action_space = gym.spaces.Discrete(12), gym.spaces.Discrete(4)


gym.register("Grid-v0", entry_point=GridEnv, max_episode_steps=30)


# One table and two; the other rules are among the slow tests.
@pytest.mark.parametrize(
    "rule", [*FEW, *(pytest.param(rule, marks=pytest.mark.slow) for rule in RULES if rule not in FEW)]
)
def test_the_optimal_values_of_a_grid_are_learned(rule):
    task = Task("Grid-v0", physics=Grid())
    fades = noise.EpsilonGreedy(1.0, schedules.Exponential(0.5, every=8_000, per="step"))
    algo = Tabular(task.spec, fades, rule=rule, alpha=0.5, gamma=GAMMA)
    algo.check()
    runner = DeviceRunner(TrainingStep(algo, OnlineBuffer()), task, seed=0)
    runner.advance(80_000, True)
    state: TabularState = runner.state().algo
    for table in state.tables.numpy():
        learned = [table[square].max() for square in range(12) if square not in (GOAL, PIT)]
        optimal = [value for square, value in enumerate(optimal_values()) if square not in (GOAL, PIT)]
        np.testing.assert_allclose(learned, optimal, atol=1e-2)
    best = algo.policy(state, tf.eye(12)).numpy()
    assert optimal_values()[0] == pytest.approx(-0.04 - 0.04 * 0.9 + 0.81)
    assert best[:3].tolist() == [1, 1, 1] or best[:3].tolist() == [2, 2, 2]
