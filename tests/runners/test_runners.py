"""One step driven three ways gives one result: compiled on the device, around Gymnasium, mapped over members."""

from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import tensorflow as tf
from conftest import RandomActions, apart, leaves, make_batch, make_plan, replay_rows, same_bits, without_xla
from gymnasium.envs.classic_control.pendulum import PendulumEnv

from rlresearch import rng
from rlresearch import tree as trees
from rlresearch.buffers import Uniform
from rlresearch.envs.device import DeviceEnv
from rlresearch.envs.pendulum import Pendulum
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError
from rlresearch.runners.device import DeviceRunner, device_collect, device_init
from rlresearch.runners.host import HostRunner
from rlresearch.runners.loop import CompiledLoop
from rlresearch.runners.population import PopulationRunner, check_values, float_paths, shares, with_values
from rlresearch.runners.step import TrainingStep
from rlresearch.runners.store import LARGE, Store

pytestmark = pytest.mark.usefixtures("quick_draws_throughout")
ENVS, LIMIT, SEED, ITERATIONS = 2, 40, 3, 216  # 200 of which learn


class PendulumFromDraws(PendulumEnv):
    """Gymnasium's Pendulum whose episodes begin where the compiled one's do: `starts` by reset seed."""

    starts: dict[int, np.ndarray] = {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.state = self.starts[seed].copy()
        return self._get_obs(), {}


gym.register("PendulumFromDraws-v0", entry_point=PendulumFromDraws, max_episode_steps=200)


def draw_starts(seed, num_envs, episodes):
    env_key = tf.unstack(rng.split(rng.key(seed), 2))[1]
    for copy_key in tf.unstack(rng.split(env_key, num_envs)):
        for episode in range(episodes):
            key = rng.fold_in(copy_key, episode)
            state = [float(number) for number in Pendulum().reset(key)]
            PendulumFromDraws.starts[int(key[1]) >> 1] = np.array(state)


def plan_of(name="ddpg", *overrides, **settings):
    made = make_plan(name, *overrides, **settings)
    return made.trainer, made.task


# Host and device.


def device_plan():
    return plan_of("ddpg", f"env.num_envs={ENVS}", f"env.max_episode_steps={LIMIT}", learning_starts=32)


@pytest.fixture(scope="module")
def both():
    """(host runner, device runner) after the same iterations of two copies; learning begins after 32 transitions."""
    trainer, task = device_plan()
    draw_starts(SEED, ENVS, 6)
    with without_xla():  # the other is compiled
        host = HostRunner(trainer, replace(task, id="PendulumFromDraws-v0"), SEED)
        host.advance(ITERATIONS, True)
    device = DeviceRunner(trainer, task, SEED)
    device.advance(ITERATIONS, True)
    yield host, device
    host.close()


def test_host_and_device_explore_alike(both):
    rows, theirs = (replay_rows(runner.state().buffer) for runner in both)
    assert [int(runner.state().buffer.added) for runner in both] == [ENVS * ITERATIONS] * 2
    np.testing.assert_array_equal(rows.action[:32], theirs.action[:32])
    np.testing.assert_allclose(rows.obs[:34], theirs.obs[:34], atol=1e-5)
    np.testing.assert_array_equal(rows.truncated, theirs.truncated)
    ends = np.flatnonzero(rows.truncated)
    assert ends.tolist() == [r for t in (39, 79, 119, 159, 199) for r in (2 * t, 2 * t + 1)]
    # Where an episode begins nothing was learned of it yet: the start is the same draw on both sides.
    np.testing.assert_allclose(rows.obs.numpy()[ends + 2], theirs.obs.numpy()[ends + 2], atol=1e-6)


def test_host_and_device_learn_alike(both):
    host, device = both
    assert apart(host.state().buffer, device.state().buffer) < 5e-4
    assert apart(host.state().algo, device.state().algo) < 5e-4
    assert apart(host.state().timestep, device.state().timestep) < 5e-4
    ours, theirs = host.metrics()[0], device.metrics()[0]
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], rel=1e-3, abs=1e-3), name
    assert ours["train/episodes"] == 10.0
    assert host.state().totals.count.numpy() == device.state().totals.count.numpy() == 200


def test_the_policy_of_a_runner_is_the_algorithms(both):
    obs = make_batch(4).obs.numpy()[None]
    for runner in both:
        algo = make_plan("ddpg").trainer.algo
        expected = algo.policy(runner.state().algo, obs[0])
        assert runner.policy(obs).shape == (1, 4, 1)
        np.testing.assert_allclose(runner.policy(obs)[0], expected, atol=1e-6)


def test_reset_metrics_forgets_sums_and_keeps_running_episodes(both):
    _, device = both
    before = device.state().episodes
    with without_xla():
        emptied = plan_of("ddpg", f"env.num_envs={ENVS}")[0].reset_metrics(device.state())
    assert emptied.totals.count.numpy() == 0 and not any(np.any(x) for x in leaves(emptied.totals.sums))
    assert [emptied.episodes[i].numpy() for i in (3, 4, 5)] == [0.0, 0.0, 0.0]
    assert same_bits(emptied.episodes[:3], before[:3])
    assert before.run_length.numpy().tolist() == [ITERATIONS - 200] * ENVS


# A member of a population is the run it would be alone.

SEEDS = range(SEED, SEED + 8)
VALUES = {
    "gamma": [0.99, 0.95, 0.9, 0.5, 0.8, 0.97, 0.98, 1.0],
    "optimizer.lr": [1e-3, 3e-3, 3e-4, 1e-3, 2e-3, 5e-4, 1e-3, 4e-3],
    "noise.sigma": [0.1, 0.2, 0.3, 0.05, 0.4, 0.5, 0.0, 0.1],
}


@pytest.fixture(scope="module")
def population():
    """Eight members, of which the first has the settings and the seed of the device run of `both`."""
    runner = PopulationRunner(*device_plan(), SEEDS, VALUES)
    runner.advance(ITERATIONS, True)
    return runner


@pytest.fixture(scope="module")
def solo():
    """One run by the same pure functions, neither mapped nor compiled by XLA: (seed, values) -> state."""
    trainer, task = device_plan()
    env = DeviceEnv(task)

    @tf.function(autograph=False)
    def run(state, own):
        member = replace(trainer, algo=with_values(trainer.algo, own))

        def steps(learning, state, t):
            state = device_collect(member, env, learning, state, t)
            return member.learn(state, t) if learning else state

        begin, end, silent = (tf.constant(n, tf.int64) for n in (0, ITERATIONS, trainer.learning_start_iteration))
        for learning, first, last in ((False, begin, silent), (True, silent, end)):
            body = lambda t, state, on=learning: (t + 1, steps(on, state, t))  # noqa: E731
            _, state = tf.while_loop(lambda t, _, last=last: t < last, body, (first, state), parallel_iterations=1)
        return state

    return lambda seed, own: run(device_init(trainer, env, rng.key(seed)), own)


def check_member(population, member, expected):
    state = trees.member(population.state(), member)
    np.testing.assert_array_equal(state.key, expected.key)
    ours, theirs = replay_rows(state.buffer), replay_rows(expected.buffer)
    np.testing.assert_array_equal(ours.action[:32], theirs.action[:32])
    np.testing.assert_array_equal(ours.obs[:ENVS], theirs.obs[:ENVS])
    assert int(state.totals.count) == int(expected.totals.count) == 200
    for field in state.algo._fields:
        if "optimizer" not in field:  # moments of a critic reach 100 and more: their rounding is relative
            assert apart(getattr(state.algo, field), getattr(expected.algo, field)) < 1e-4, field
    for ours, theirs in zip(leaves(state.algo), leaves(expected.algo), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
    row, theirs = population.metrics()[member], device_plan()[0].metrics(expected)
    for metric in row:
        assert row[metric] == pytest.approx(float(theirs[metric]), rel=1e-3, abs=1e-4, nan_ok=True), metric


@pytest.mark.parametrize("members", [1, 3, 7, 8, 10, 13, 64, 100, 1000])
def test_every_member_is_in_one_share_and_few_programs_are_compiled(members):
    made = shares(members, on_gpu=False)
    assert [index for each in made for index in range(each.start, each.stop)] == list(range(members))
    sizes = [each.stop - each.start for each in made]
    assert min(sizes) >= min(members, 4) and max(sizes) - min(sizes) <= 1 and len(sizes) <= 32
    assert len(sizes) > 1 or members < 8
    assert shares(members, on_gpu=True) == [slice(0, members)]


def test_a_member_equals_its_compiled_solo_run(both, population):
    _, alone = both
    algo = device_plan()[0].algo
    assert {path: float_paths(algo)[path] for path in VALUES} == {path: each[0] for path, each in VALUES.items()}
    check_member(population, 0, alone.state())


@pytest.mark.parametrize("member", range(8))
def test_every_member_equals_its_solo_run(population, solo, member):
    own = {path: tf.constant(values[member]) for path, values in VALUES.items()}
    check_member(population, member, solo(SEEDS[member], own))


def test_members_whose_others_have_ended_compute_the_same_bits_elsewhere(population):
    """Three of eight go on, in one share of two."""
    iteration, before = population.iteration, population.state()
    seen = np.random.default_rng(0).normal(size=(8, 2, 3)).astype(np.float32)
    going = [True, False, False, True, False, False, True, False]
    after = []
    try:
        for who in ([True] * 8, going):
            population.restore(iteration, before, {})
            population.set_active(who)
            population.advance(12, True)
            after.append((population.state(), population.metrics(), population.policy(seen)))
    finally:
        population.restore(iteration, before, {})
    (alone, rows, actions), (together, ours, acted) = after
    for member in range(8):
        expected = alone if going[member] else before
        assert same_bits(trees.member(together, member), trees.member(expected, member)), member
    for member in np.flatnonzero(going):
        np.testing.assert_equal(ours[member], rows[member])
        np.testing.assert_array_equal(acted[member], actions[member])


def test_a_member_begins_from_its_own_seed_whatever_its_place():
    task = Task("Pendulum-v1", num_envs=2, physics=Pendulum())
    trainer, seeds = TrainingStep(RandomActions(task.spec), Uniform(10)), (7, 3)
    with without_xla():
        members = PopulationRunner(trainer, task, seeds).state()
    for member, seed in enumerate(seeds):
        assert same_bits(trees.member(members, member), device_init(trainer, DeviceEnv(task), rng.key(seed)))


def test_members_differ_in_seed_and_values(population):
    state = population.state()
    for i in range(7):
        assert apart(trees.member(state.algo.actor, i), trees.member(state.algo.actor, i + 1)) > 1e-2
    assert population.members == tuple(SEEDS)


def test_the_populations_policy_is_each_members_own(population):
    obs = np.random.default_rng(0).normal(size=(8, 4, 3)).astype(np.float32)
    actions = population.policy(obs)
    assert actions.shape == (8, 4, 1)
    algo = plan_of("ddpg")[0].algo
    for i in range(8):
        own = trees.member(population.state().algo, i)
        np.testing.assert_allclose(actions[i], algo.policy(own, obs[i]), atol=1e-6)


# Compiled and eager, in one call or many.


def eager_steps(trainer, task, state, begin, count):
    """Some iterations, operation by operation."""
    step = tf.function(DeviceEnv(task).step, autograph=False)  # mapping eagerly would trace the physics at every call
    for t in range(begin, begin + count):
        iteration = tf.constant(t, tf.int64)
        action, state = trainer.act(state, iteration, True)
        env_state, outcome, timestep = step(state.env, action)
        state = trainer.collect(state, action, outcome, timestep, env_state)
        state = trainer.learn(state, iteration)
    return state


def test_the_same_seed_gives_the_same_bits_wherever_calls_end(both):
    """The device run of `both` from the beginning of another of its seed, by the same program, in three calls."""
    _, runner = both
    once, row = runner.state(), runner.metrics()[0]
    runner.restore(0, DeviceRunner(*device_plan(), SEED).state(), {})
    assert not same_bits(once, runner.state())
    for iterations, fresh in ((1, True), (90, False), (ITERATIONS - 91, False)):
        runner.advance(iterations, fresh)
    assert runner.iteration == ITERATIONS
    assert same_bits(once, runner.state())
    np.testing.assert_array_equal(list(row.values()), list(runner.metrics()[0].values()))


def test_compiled_and_eager_steps_agree(both):
    _, runner = both
    before, begin = runner.state(), runner.iteration
    eager = eager_steps(*device_plan(), before, begin, 3)
    runner.advance(3, False)
    after = runner.state()
    runner.restore(begin, before, {})
    assert eager.totals.count.numpy() == after.totals.count.numpy() == before.totals.count.numpy() + 3
    assert apart(eager.algo, after.algo) < 1e-4 and apart(eager.timestep, after.timestep) < 1e-5
    assert apart(before.algo.actor, after.algo.actor) > 1e-3


def test_mapped_and_eager_steps_agree_for_another_algorithm():
    """TD3 mapped over two members, beside the second of them alone and eager."""
    trainer, task = plan_of("td3", learning_starts=2)
    values = {"gamma": [0.9, 0.5], "target_noise": [0.1, 0.2]}
    with without_xla():
        runner = PopulationRunner(trainer, task, range(2), values)
        runner.advance(20, True)
    own = {path: each[1] for path, each in values.items()}
    alone = replace(trainer, algo=with_values(trainer.algo, own))
    eager = eager_steps(alone, task, trees.member(runner.state(), 1), 20, 4)
    before = runner.state()
    runner.advance(4, False)
    after = trees.member(runner.state(), 1)
    assert apart(eager.algo, after.algo) < 1e-4 and apart(eager.timestep, after.timestep) < 1e-5
    assert apart(trees.member(before, 1).algo.actor, after.algo.actor) > 1e-4


def test_another_seed_gives_another_run():
    with without_xla():
        one, two = (DeviceRunner(*plan_of("ddpg"), seed) for seed in (0, 1))
    assert apart(one.state().algo.actor, two.state().algo.actor) > 1e-2
    assert apart(one.state().timestep, two.state().timestep) > 1e-2
    assert not same_bits(one.state().key, two.state().key)


@pytest.mark.parametrize(
    "silent, every, rounds", [(4, 1, range(4, 10)), (0, 3, (2, 5, 8)), (4, 3, (5, 8)), (6, 4, (7,))]
)
def test_the_loop_counts_iterations_from_call_to_call(silent, every, rounds):
    """The silent steps come first, every iteration once, and rounds of learning when due, whatever the calls are."""

    def noted(seen, iteration, number):
        return tf.tensor_scatter_nd_add(seen, [[tf.cast(iteration, tf.int32)]], [number])

    def collect(learning, state, iteration):
        return noted(state[0], iteration, 2.0 if learning else 1.0), state[1]

    def learn(state, iteration):
        return state[0], noted(state[1], iteration, tf.reduce_sum(state[0]))

    for calls in ((10,), (1, 9), (4, 4, 2), (3, 1, 6), (0, 10)):
        with without_xla():
            loop = CompiledLoop((tf.zeros(12), tf.zeros(12)), collect, learn, silent, every, lambda state: state)
            for iterations in calls:
                loop.advance(iterations, False)
        seen, learned = (part.numpy() for part in loop.store.read())
        assert seen.tolist() == [1.0] * silent + [2.0] * (10 - silent) + [0.0] * 2
        assert np.flatnonzero(learned).tolist() == list(rounds)
        assert all(learned[t] == seen[: t + 1].sum() for t in rounds)
        assert loop.iteration == 10


# State between calls.


def test_a_store_gives_back_what_was_written():
    def tree(shift):
        return {
            "scalar": tf.constant(1 + shift, tf.int64),
            "large": tf.range(LARGE // 4 + 5, dtype=tf.float32) + shift,
            "small": (tf.reshape(tf.range(6.0), (2, 3)) + shift, tf.constant([True, False])),
            "key": tf.constant([7 + shift, 8], tf.uint32),
            "bytes": tf.fill((LARGE + 1,), tf.constant(shift, tf.uint8)),
            "more": [tf.constant(2.5 + shift), tf.zeros((0, 3)), ()],
            "int64": tf.constant([3, 4], tf.int64),
            "wide": [tf.constant(1 / 3 + shift, tf.float64), tf.constant([[1e300 / 3], [0.1]], tf.float64)],
        }

    store = Store(tree(0))
    assert same_bits(store.read(), tree(0))
    store.write(tree(1))
    assert same_bits(store.read(), tree(1))
    tf.nest.assert_same_structure(store.read(), tree(1))
    assert [leaf.shape for leaf in leaves(store.read())] == [leaf.shape for leaf in leaves(tree(1))]
    compiled = tf.function(
        lambda: store.write(tf.nest.map_structure(tf.identity, tree(2))), jit_compile=True, autograph=False
    )
    compiled()
    assert same_bits(store.read(), tree(2))


def test_a_large_leaf_has_a_variable_of_its_own_and_small_ones_share():
    count = lambda tree: len(Store(tree).variables)  # noqa: E731
    edge = LARGE // 4
    assert count([tf.zeros(edge), tf.zeros(edge), tf.zeros(3), tf.zeros(3)]) == 3
    assert count([tf.zeros(edge - 1), tf.zeros(3)]) == 1
    assert count([tf.zeros(3, tf.float64), tf.zeros((), tf.float64), tf.zeros(3)]) == 2


# Values of members.


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    count: int = 3


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    gamma: float = 0.9
    flag: bool = True
    name: str = "x"
    nothing: float | None = None


def test_float_paths_are_the_floating_point_fields_of_all_parts():
    assert float_paths(Outer()) == {"inner.lr": 0.1, "gamma": 0.9}
    assert {"gamma", "tau", "optimizer.lr", "noise.sigma"} <= set(float_paths(make_plan("ddpg").trainer.algo))


def test_with_values_changes_a_copy():
    before = Outer()
    after = with_values(before, {"inner.lr": 0.5, "gamma": 0.7})
    assert after == Outer(Inner(0.5), 0.7) and before == Outer()
    assert with_values(before, {}) is before


@pytest.mark.parametrize(
    "values, said", [({"gama": [0.9, 0.9]}, "gamma"), ({"gamma": [0.9]}, "2"), ({"batch_size": [1, 2]}, "batch_size")]
)
def test_values_that_do_not_fit_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        check_values(make_plan("ddpg").trainer.algo, values, 2)


# Counting episodes.


def test_returns_and_lengths_are_those_of_whole_episodes():
    task = Task("Pendulum-v1", num_envs=3, max_episode_steps=5, physics=Pendulum())
    with without_xla():
        runner = DeviceRunner(TrainingStep(RandomActions(task.spec), Uniform(100)), task, 0)
        runner.advance(4, True)
        assert np.isnan(runner.metrics()[0]["train/return"]) and runner.metrics()[0]["train/episodes"] == 0.0
        runner.advance(8, False)
    row, rewards = runner.metrics()[0], replay_rows(runner.state().buffer).reward.numpy()[:36].reshape(12, 3)
    assert row["train/episodes"] == 6.0 and row["train/length"] == 5.0
    assert row["train/return"] == pytest.approx(np.mean([rewards[:5].sum(0), rewards[5:10].sum(0)]), rel=1e-5)
    np.testing.assert_allclose(runner.state().episodes.run_return, rewards[10:].sum(0), rtol=1e-5)
