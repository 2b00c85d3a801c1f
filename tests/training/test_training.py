"""Training from the first step to the final evaluation: where it stops, what is told, and what it leaves alone."""

import math

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_plan, same_bits, without_xla

from rlresearch import rng
from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.evaluation import evaluator as evaluation
from rlresearch.evaluation.evaluator import UNSEEN, Evaluator
from rlresearch.runners.device import DeviceRunner
from rlresearch.runners.host import HostRunner
from rlresearch.runners.population import PopulationRunner
from rlresearch.runners.runner import Runner
from rlresearch.training import pace
from rlresearch.training.callbacks import Members, Milestone
from rlresearch.training.finite_check import FiniteCheck
from rlresearch.training.loop import LONGEST_CALL_S, LoopSettings, TrainingLoop, milestones, train
from rlresearch.training.reporting import LoggerCallback
from rlresearch.training.settings import EvalSettings
from rlresearch.types import TimeStep

pytestmark = pytest.mark.usefixtures("quick_draws_throughout")
STEPS, LIMIT = 120, 40


class Rows:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.metric_rows, self.evaluations = [], []

    def metrics(self, row):
        self.metric_rows.append(row)

    def evaluation(self, row):
        self.evaluations.append(row)


def plan_of(*overrides, num_envs=1):
    """With statistics of observations, which evaluation could move."""
    small = ["normalize=running", f"env.num_envs={num_envs}", f"env.max_episode_steps={LIMIT}"]
    return make_plan("ddpg", *small, *overrides)


def trained(make, evaluation, members=1, row_every=30, num_envs=1, seeds=(4,)):
    """(runner, loggers, overview, final evaluations) after 120 steps as a plain graph."""
    plan = plan_of(num_envs=num_envs)
    loggers, overview = [Rows() for _ in range(members)], Rows()
    with without_xla():
        runner = make(plan.trainer, plan.task, seeds)
        heard = [FiniteCheck(runner), LoggerCallback(Members(members), loggers, overview)]
        finals = TrainingLoop(runner, plan.task, LoopSettings(STEPS, row_every, evaluation), heard).run()
    runner.close()
    return runner, loggers, overview, finals


def device(trainer, task, seeds):
    return DeviceRunner(trainer, task, seeds[0])


@pytest.fixture(scope="module")
def often():
    return trained(device, EvalSettings(every_steps=50, episodes=3, final_episodes=5))


@pytest.fixture(scope="module")
def seldom():
    return trained(device, EvalSettings(every_steps=None, episodes=3, final_episodes=5), row_every=1_000)


# Where to stop.


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((100, 1, 40, 50), [(40, True, False), (50, False, True), (80, True, False), (100, True, True)]),
        ((100, 1, 50, 50), [(50, True, True), (100, True, True)]),
        ((100, 1, 1_000, None), [(100, True, True)]),
        ((100, 1, 30, None), [(30, True, False), (60, True, False), (90, True, False), (100, True, True)]),
        # three copies: the first iterations at or after 40, 80 and 100 transitions, and after 50
        ((100, 3, 40, 50), [(14, True, False), (17, False, True), (27, True, False), (34, True, True)]),
        ((10, 4, 1, None), [(1, True, False), (2, True, False), (3, True, True)]),
        ((1, 1, 1, 1), [(1, True, True)]),
        ((1, 8, 1_000, 1_000), [(1, True, True)]),
    ],
)
def test_milestones(arguments, expected):
    total_steps, num_envs, row_every, evaluate_every = arguments
    settings = LoopSettings(total_steps, row_every, EvalSettings(evaluate_every))
    assert list(milestones(settings, num_envs)) == [Milestone(*each) for each in expected]


def test_training_runs_the_steps_it_was_asked_for(often):
    runner, *_ = often
    assert runner.iteration == STEPS
    assert runner.state().totals.count.numpy() == 30  # the last row's updates alone
    assert runner.state().buffer.added.numpy() == STEPS


def test_training_in_pieces_tells_every_row_and_evaluation_once():
    plan, heard = plan_of(), Rows()
    settings = EvalSettings(every_steps=20, episodes=1, final_episodes=2)
    with without_xla():
        runner = device(plan.trainer, plan.task, (4,))
        told = [LoggerCallback(Members(1), [heard])]
        finals = [train(runner, plan.task, steps, settings, told) for steps in (30, 30, 20, 50)]
    runner.close()
    assert [row["step"] for row in heard.metric_rows] == [30, 50]
    assert [row["step"] for row in heard.evaluations] == [20, 30, 30, 30, 40, 50]  # a call ends with one of its own
    assert [len(own.returns) for (own,) in finals] == [2, 2, 2, 2]
    assert finals[0] == finals[1] == finals[2]
    assert runner.iteration == 50


# Evaluation.


def test_evaluation_changes_nothing_in_training(often, seldom):
    state, other = often[0].state(), seldom[0].state()
    assert same_bits(state._replace(totals=(), episodes=()), other._replace(totals=(), episodes=()))
    assert same_bits(state.episodes[:3], other.episodes[:3])


def test_the_last_evaluation_does_not_depend_on_those_before(often, seldom):
    assert often[3] == seldom[3]
    assert [row["step"] for row in seldom[1][0].evaluations] == [STEPS]


def test_evaluations_are_told_with_every_episode(often):
    _, (logger,), overview, finals = often
    assert [row["step"] for row in logger.evaluations] == [50, 100, 120]
    assert [len(row["returns"]) for row in logger.evaluations] == [3, 3, 5]
    assert all(row["lengths"] == [LIMIT] * len(row["returns"]) for row in logger.evaluations)
    assert all(-20.0 * LIMIT < value < 0.0 for row in logger.evaluations for value in row["returns"])
    assert logger.evaluations[-1]["returns"] == finals[0].returns
    assert [row["returns"] for row in overview.evaluations] == [row["returns"] for row in logger.evaluations]
    every = [value for row in logger.evaluations for value in row["returns"]]
    assert len(set(every)) == len(every)  # no two episodes of any evaluation begin alike


def test_evaluation_is_in_gymnasiums_own_environment_from_seeds_of_its_own():
    """Episode by episode with a policy of one's own, against Gymnasium stepped by hand."""
    task, seen = plan_of().task, []
    seeds = evaluation.evaluation_seeds(3, 50, 2)
    evaluator = Evaluator(task, (3,))
    policy = lambda obs: seen.append(obs.copy()) or np.clip(-obs[..., 2:], -1.0, 1.0)  # noqa: E731
    (result,) = evaluator.run(policy, 2, 50)
    evaluator.close()
    for i, seed in enumerate(seeds):
        env = gym.make("Pendulum-v1", max_episode_steps=LIMIT)
        obs, total, length, ended = env.reset(seed=seed)[0], 0.0, 0, False
        np.testing.assert_array_equal(seen[0][0, i], obs)
        while not ended:
            action = 2.0 * np.clip(-obs[2:], -1.0, 1.0)
            obs, reward, terminated, truncated, _ = env.step(action.astype(np.float32))
            total, length, ended = total + reward, length + 1, terminated or truncated
        assert result.returns[i] == pytest.approx(total, rel=1e-5)
        assert result.lengths[i] == length == LIMIT


def test_evaluation_seeds_depend_on_the_run_the_step_and_the_episode():
    each = [evaluation.evaluation_seeds(seed, step, 4) for seed in (0, 1) for step in (50, 100)]
    assert len({seed for seeds in each for seed in seeds}) == 16
    assert evaluation.evaluation_seeds(0, 50, 2) == each[0][:2]


def test_members_that_have_ended_are_not_evaluated_and_the_others_as_ever():
    task, seen = plan_of().task, []
    policy = lambda obs: np.clip(-obs[..., 2:] * np.arange(1, 4)[:, None, None], -1.0, 1.0)  # noqa: E731
    watched = lambda obs: seen.append(obs) or policy(obs)  # noqa: E731
    whole = Evaluator(task, (3, 4, 5), True)
    part = Evaluator(task, (3, 4, 5), True)
    expected, found = whole.run(policy, 2, 50), part.run(watched, 2, 50, [True, False, True])
    assert [found[0], found[2]] == [expected[0], expected[2]] and found[1] is UNSEEN
    assert not np.any([each[1] for each in seen]) and np.all([np.any(each[2]) for each in seen])
    assert part.firsts[1] is None and part.firsts[2].total == whole.firsts[2].total
    np.testing.assert_array_equal(part.firsts[2].actions, whole.firsts[2].actions)


def test_more_episodes_than_are_stepped_together(monkeypatch):
    task = plan_of().task
    policy = lambda obs: np.clip(-obs[..., 2:], -1.0, 1.0)  # noqa: E731
    (whole,) = Evaluator(task, (3,)).run(policy, 5, 0)
    monkeypatch.setattr(evaluation, "AT_ONCE", 2)
    (parts,) = Evaluator(task, (3,)).run(policy, 5, 0)
    assert parts == whole


def test_episodes_of_unequal_length_end_each_for_itself():
    """A policy whose episodes end one after the other: nothing is added after an end."""

    class Countdown(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.left = int(self.np_random.integers(1, 9))
            return np.float32([self.left]), {}

        def step(self, action):
            assert self.left > 0, "stepped after its end"
            self.left -= 1
            return np.float32([self.left]), 1.0, self.left == 0, False, {}

    gym.register("Unequal-v0", entry_point=Countdown)
    results = Evaluator(Task("Unequal-v0"), (0, 1)).run(lambda obs: np.zeros((*obs.shape[:2], 1)), 6, 0)
    for each in results:
        assert each.returns == [float(length) for length in each.lengths]
    assert len({length for each in results for length in each.lengths}) > 2


# Rows.


def test_rows_are_written_where_they_are_due(often):
    _, (logger,), overview, _ = often
    rows = logger.metric_rows
    assert [row["step"] for row in rows] == [30, 60, 90, 120]
    algo = plan_of().trainer.algo
    names = {"step", "train/return", "train/length", "train/episodes", "speed/steps_per_second", *algo.METRICS}
    assert all(set(row) == names for row in rows)
    assert [row["train/episodes"] for row in rows] == [0.0, 1.0, 2.0, 3.0]
    assert [row["train/length"] for row in rows[1:]] == [LIMIT] * 3
    assert len(overview.metric_rows) == 4
    np.testing.assert_array_equal(list(overview.metric_rows[2].values()), list(rows[2].values()))


def test_before_the_first_episode_ended_and_before_learning_rows_are_nan(often):
    _, (logger,), _, _ = often
    first, second, *_ = logger.metric_rows
    assert math.isnan(first["train/return"]) and math.isnan(first["train/length"])
    assert math.isnan(first["loss/critic"]) and math.isnan(first["value/q"])
    assert all(math.isfinite(second[name]) for name in ("train/return", "loss/critic", "loss/actor", "value/q"))


def test_a_row_is_about_the_steps_since_the_row_before(often, seldom):
    """Means of rows of equally many updates make the mean of the whole run's only row."""
    rows, (whole,) = often[1][0].metric_rows, seldom[1][0].metric_rows
    weights = [0, 28, 30, 30]  # updates: the first follows the 33rd transition
    for name in ("loss/critic", "loss/actor", "value/q"):
        mean = np.average([row[name] for row in rows[1:]], weights=weights[1:])
        assert whole[name] == pytest.approx(mean, rel=1e-4)
    assert whole["train/return"] == pytest.approx(np.mean([row["train/return"] for row in rows[1:]]), rel=1e-5)


def test_a_population_tells_what_each_member_would_tell_alone(often):
    settings = EvalSettings(every_steps=50, episodes=3, final_episodes=5)
    runner, loggers, overview, finals = trained(PopulationRunner, settings, members=2, seeds=(3, 4))
    assert runner.members == (3, 4) and len(finals) == 2
    alone, member = often[1][0], loggers[1]  # seed 4
    for ours, theirs in zip(member.metric_rows, alone.metric_rows, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"speed/steps_per_second"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4, nan_ok=True), name
    for ours, theirs in zip(member.evaluations, alone.evaluations, strict=True):
        assert (ours["step"], ours["lengths"]) == (theirs["step"], theirs["lengths"])
        np.testing.assert_allclose(ours["returns"], theirs["returns"], rtol=1e-3)
    means = overview.metric_rows[-1]
    assert means["loss/critic"] == pytest.approx(np.mean([each.metric_rows[-1]["loss/critic"] for each in loggers]))
    together = [value for each in loggers for value in each.evaluations[-1]["returns"]]
    assert overview.evaluations[-1]["returns"] == together
    assert loggers[0].metric_rows[-1]["loss/critic"] != alone.metric_rows[-1]["loss/critic"]


def test_the_host_runner_trains_by_the_same_rows():
    make = lambda trainer, task, seeds: HostRunner(trainer, task, seeds[0])  # noqa: E731
    runner, (logger,), _, finals = trained(make, EvalSettings(50, 2, 3), num_envs=3)
    assert runner.iteration == 40 and len(finals[0].returns) == 3
    assert [row["step"] for row in logger.metric_rows] == [30, 60, 90, 120]
    assert [row["step"] for row in logger.evaluations] == [51, 102, 120]
    assert logger.metric_rows[-1]["train/episodes"] == 3.0


def test_calls_of_a_second_do_not_overrun_a_stop():
    """A runner that is asked for more than is left would train past its end."""

    class Fake:
        iteration, members, learning_start_iteration = 0, (0,), 0

        def set_active(self, active):
            assert active == [True]

        def advance(self, iterations, fresh):
            calls.append((iterations, fresh))
            self.iteration += iterations

    calls, fake = [], Fake()
    loop = TrainingLoop(fake, Task("Pendulum-v1"), LoopSettings(100_000))
    loop.advance(25)
    assert fake.iteration == 25 and sum(n for n, _ in calls) == 25
    assert [fresh for _, fresh in calls] == [True] + [False] * (len(calls) - 1)
    loop.position = loop.position._replace(fresh=True)
    loop.advance(25)
    assert loop.position.fresh  # nothing ran: the fresh row is still owed


def test_no_call_takes_long_where_learning_begins():
    """Silent iterations take a microsecond, those that learn a millisecond: a signal is heard within a second or so."""

    class Fake:
        iteration, members, learning_start_iteration, took = 0, (0,), 50_000, 0.0

        def set_active(self, active):
            assert active == [True]

        def advance(self, iterations, fresh):
            begin = self.learning_start_iteration
            assert self.iteration >= begin or self.iteration + iterations <= begin
            self.took = iterations * (1e-3 if self.iteration >= self.learning_start_iteration else 1e-6)
            self.iteration += iterations
            clock[0] += self.took
            calls.append(self.took)

    clock, calls, fake = [0.0], [], Fake()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace.time, "perf_counter", lambda: clock[0])
        loop = TrainingLoop(fake, Task("Pendulum-v1"), LoopSettings(100_000))
        loop.advance(100_000)
    assert fake.iteration == 100_000 and max(calls) < 1.1 * LONGEST_CALL_S
    assert len(calls) < 70  # some to find out, then one a second


# What is said where numbers are no numbers any more.


class Held(Runner):
    """Stands at a state."""

    members, iteration = (0,), 0

    def __init__(self, state):
        self._state = state

    def state(self):
        return self._state


@pytest.mark.parametrize(
    "size, advice",
    [(500.0, "try a smaller optimizer.lr"), (1e20, "rewards add up to 1.0e[+]20: scale them, or choose")],
)
def test_where_rewards_are_too_large_for_any_learning_rate_it_is_not_blamed(size, advice):
    trainer = make_plan("ddpg").trainer
    state = trainer.init(rng.key(0), (), TimeStep(tf.zeros((1, 3)), tf.ones(1, tf.bool)))
    sums = state.totals.sums | {"loss/critic": tf.constant(math.inf)}
    episodes = state.episodes._replace(run_return=tf.fill(1, -size))
    with pytest.raises(RunError, match=f"loss/critic holds infinity by step 5: learning went astray; .*{advice}"):
        FiniteCheck(Held(state._replace(totals=state.totals._replace(sums=sums), episodes=episodes))).check(5)
