"""Replay of several steps and by priority: sums stay in their episode, draws and weights follow their law."""

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import apart, progress

from rlresearch import rng
from rlresearch.buffers import Prioritized, Uniform, gather_batch, sum_tree
from rlresearch.schedules import Linear
from rlresearch.types import Transition

KEY = rng.key(5)

# Sums of several steps, against a walk along the episodes.


def episodes(num_envs, steps, ends, seed=0):
    """[steps] of [num_envs] rows whose observations say (environment, step, episode), a random share of which end."""
    draw = np.random.default_rng(seed)
    episode, history = np.arange(num_envs), []
    for t in range(steps):
        terminated, truncated = draw.random((2, num_envs)) < ends
        tags = lambda t: np.stack([np.arange(num_envs), np.full(num_envs, t), episode], axis=1)  # noqa: B023, E731
        rows = Transition(
            obs=tf.constant(tags(t), tf.float32),
            action=tf.constant(draw.integers(0, 9, num_envs), tf.int32),
            reward=tf.constant(draw.normal(size=num_envs), tf.float32),
            terminated=tf.constant(terminated),
            truncated=tf.constant(truncated),
            next_obs=tf.constant(tags(t + 1), tf.float32),
        )
        history.append(rows)
        episode = np.where(terminated | truncated, episode + num_envs, episode)
    return history


def filled(buffer, history):
    num_envs = history[0].reward.shape[0]
    state = buffer.init(tf.nest.map_structure(lambda leaf: leaf[0], history[0]), num_envs)
    for rows in history:
        state = buffer.add(state, rows)
    return state


def walked(history, env, t, n_step, gamma):
    """What a row must hold, step by step: the sum ends with its episode, or with the newest step."""
    total, count = 0.0, 0
    while True:
        rows = tf.nest.map_structure(lambda leaf: leaf.numpy()[env], history[t + count])
        total, count = total + gamma**count * float(rows.reward), count + 1
        if rows.terminated or rows.truncated or count == n_step or t + count == len(history):
            return total, count, rows


@pytest.mark.parametrize(
    "num_envs, steps, capacity, n_step",
    [(1, 30, 100, 3), (1, 47, 20, 4), (3, 8, 100, 3), (3, 21, 30, 3), (3, 21, 32, 5), (4, 30, 22, 2), (2, 20, 4, 5)],
)
def test_a_row_of_several_steps_is_the_walk_along_its_episode(num_envs, steps, capacity, n_step):
    """Every row that is stored, so also the newest; the ring has wrapped around where capacity is below the rows."""
    history = episodes(num_envs, steps, ends=0.12)
    state = filled(Uniform(capacity, n_step), history)
    places = tf.range(min(capacity, num_envs * steps))
    batch = tf.nest.map_structure(np.asarray, gather_batch(state, places, capacity, n_step, 0.9, progress()))
    seen = set()
    for i, place in enumerate(places.numpy()):
        env, t, _ = batch.obs[i].astype(int)
        seen.add((env, t))
        assert (t * num_envs + env) % capacity == place == batch.indices[i]
        total, count, last = walked(history, env, t, n_step, 0.9)
        assert batch.reward[i] == pytest.approx(total, abs=1e-5)
        assert batch.steps[i] == count
        assert batch.action[i] == history[t].action[env]
        assert (batch.terminated[i], batch.truncated[i]) == (last.terminated, last.truncated)
        np.testing.assert_array_equal(batch.next_obs[i], last.next_obs)
    newest = {(i % num_envs, i // num_envs) for i in range(num_envs * steps)[-capacity:]}
    assert seen == newest


@pytest.mark.parametrize("kind", [Uniform, Prioritized])
def test_no_sum_crosses_an_episodes_end_in_a_hundred_thousand(kind):
    """Each reward is its episode's number."""
    history = episodes(3, 200, ends=0.1)
    history = [rows._replace(reward=rows.obs[:, 2]) for rows in history]
    buffer = kind(capacity=500, n_step=5)
    batch = buffer.sample(filled(buffer, history), KEY, 100_000, 1.0, progress())
    episode, steps = batch.obs[:, 2].numpy(), batch.steps.numpy()
    np.testing.assert_array_equal(batch.reward, episode * steps)
    np.testing.assert_array_equal(batch.next_obs[:, 2], episode)
    np.testing.assert_array_equal(batch.next_obs[:, 1], batch.obs[:, 1].numpy() + steps)
    np.testing.assert_array_equal(batch.next_obs[:, 0], batch.obs[:, 0])
    assert set(steps.tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}


# The sum tree, against sums of all its leaves.


@pytest.mark.parametrize("capacity", [1, 7, 8, 9, 64, 65, 700])
def test_the_tree_is_the_sum_of_its_leaves_whatever_was_put_when(capacity):
    draw, tree, leaves = np.random.default_rng(capacity), sum_tree.empty(capacity), np.zeros(capacity)
    for _ in range(6):
        places = draw.integers(0, capacity, 20)
        leaves[places] = places + draw.random()
        tree = sum_tree.update(tree, tf.constant(places, tf.int32), tf.constant(leaves[places]), capacity)
    np.testing.assert_allclose(sum_tree.total(tree), leaves.sum(), rtol=1e-14)
    np.testing.assert_array_equal(sum_tree.get(tree, tf.range(capacity), capacity), leaves)
    heights = draw.random(500) * leaves.sum()
    found = sum_tree.search(tree, tf.constant(heights), capacity).numpy()
    np.testing.assert_array_equal(found, np.searchsorted(np.cumsum(leaves), heights, side="right"))


def test_a_height_on_the_border_belongs_to_the_leaf_above_it():
    tree = sum_tree.update(sum_tree.empty(20), tf.range(20), tf.constant([0.0, 1.0] * 10, tf.float64), 20)
    heights = tf.constant([0.0, 1.0, 8.0, 9.5], tf.float64)
    assert sum_tree.search(tree, heights, 20).numpy().tolist() == [1, 3, 17, 19]


# Prioritized replay.


def prioritized(buffer, priorities):
    """A replay of as many rows, each with its priority."""
    history = episodes(1, len(priorities), ends=0.0)
    state = buffer.init(tf.nest.map_structure(lambda leaf: leaf[0], history[0]), 1)
    state = buffer.add(state, tf.nest.map_structure(lambda *each: tf.concat(each, 0), *history))
    batch = gather_batch(state.rows, tf.range(len(priorities)), buffer.capacity, 1, 1.0, progress())
    return buffer.update_priorities(state, batch, tf.constant(priorities, tf.float32))


def test_rows_are_drawn_in_proportion_to_their_priority_to_the_alpha():
    """A million draws, in batches of ten."""
    priorities = np.random.default_rng(1).random(300).astype(np.float32) ** 2
    buffer = Prioritized(capacity=400, alpha=0.7, eps=1e-3)
    state = prioritized(buffer, priorities)
    keys = rng.split(KEY, 100_000)
    sample = lambda key: buffer.sample(state, key, 10, 1.0, progress()).indices  # noqa: E731
    places = tf.vectorized_map(sample, keys, fallback_to_while_loop=False).numpy()
    share = (priorities.astype(np.float64) + 1e-3) ** 0.7
    counts = np.bincount(places.ravel(), minlength=300)
    assert counts.sum() == 1_000_000
    assert scipy.stats.chisquare(counts, 1_000_000 * share / share.sum()).pvalue > 1e-3
    assert scipy.stats.chisquare(counts, np.full(300, 1_000_000 / 300)).pvalue < 1e-9


def test_a_row_without_error_is_still_drawn():
    """Sizes 0.01^0.5 and 0.99^0.5 or so: about a tenth of the draws."""
    buffer = Prioritized(capacity=2, alpha=0.5, eps=0.01)
    places = buffer.sample(prioritized(buffer, [0.0, 0.98]), KEY, 1_000, 1.0, progress()).indices.numpy()
    assert np.sum(places == 0) == pytest.approx(1_000 * 0.1 / (0.1 + 0.99**0.5), abs=2)


def test_weights_come_with_rows_of_several_steps_too():
    one, three = (Prioritized(capacity=9, n_step=n, alpha=1.0, eps=1e-12) for n in (1, 3))
    state = prioritized(one, [1.0, 2.0, 5.0])
    weights = [buffer.sample(state, KEY, 80, 1.0, progress()).weight for buffer in (one, three)]
    np.testing.assert_array_equal(*weights)
    assert len(set(weights[0].numpy().tolist())) == 3


def test_each_draw_of_a_batch_has_its_own_part_of_the_sum():
    state = prioritized(Prioritized(capacity=64, alpha=0.0), np.ones(64))
    batch = Prioritized(capacity=64, alpha=0.0).sample(state, KEY, 64, 1.0, progress())
    assert batch.indices.numpy().tolist() == list(range(64))


def test_weights_undo_the_draw_and_are_divided_by_the_largest_of_the_batch():
    """Sizes 1, 2, 5 of 8: w = (3 p) ** -1 = 8/3, 4/3, 8/15, relative to the largest that was drawn."""
    buffer = Prioritized(capacity=9, alpha=1.0, eps=1e-12)
    batch = buffer.sample(prioritized(buffer, [1.0, 2.0, 5.0]), KEY, 80, 1.0, progress())
    assert np.bincount(batch.indices).tolist() == [10, 20, 50]
    np.testing.assert_allclose(batch.weight, np.array([1.0, 0.5, 0.2])[batch.indices], rtol=1e-6)


@pytest.mark.parametrize("step, beta", [(0, 0.4), (500, 0.7), (1_000, 1.0), (5_000, 1.0)])
def test_beta_follows_its_schedule_up_to_one(step, beta):
    buffer = Prioritized(capacity=9, alpha=1.0, eps=1e-12, schedule=Linear(start=0.4, end=1.0, over=1_000))
    batch = buffer.sample(prioritized(buffer, [1.0, 2.0, 5.0]), KEY, 80, 1.0, progress(step=step))
    np.testing.assert_allclose(batch.weight, (np.array([1.0, 0.5, 0.2]) ** beta)[batch.indices], rtol=1e-6)


def test_a_new_row_gets_the_largest_priority_that_any_ever_had():
    buffer = Prioritized(capacity=3, alpha=0.5, eps=1e-12)
    sizes = lambda state: sum_tree.get(state.tree, tf.range(3), 3).numpy()  # noqa: E731
    history = episodes(1, 5, ends=0.0)
    state = filled(buffer, history[:2])
    np.testing.assert_allclose(sizes(state), [1.0, 1.0, 0.0])
    learned = lambda state, place, size: buffer.update_priorities(  # noqa: E731
        state, gather_batch(state.rows, tf.constant([place]), 3, 1, 1.0, progress()), tf.constant([size])
    )
    state = learned(learned(state, 0, 9.0), 0, 4.0)
    np.testing.assert_allclose(sizes(state), [2.0, 1.0, 0.0])
    state = buffer.add(buffer.add(state, history[2]), history[3])  # the second overwrites row 0
    np.testing.assert_allclose(sizes(state), [3.0, 1.0, 3.0])


def test_only_stored_rows_are_drawn_however_uneven_their_sizes():
    buffer = Prioritized(capacity=1_000, alpha=1.0)
    state = prioritized(buffer, [1e-6, 1e12, 1e-6, 1e6, 1e-6])
    batch = buffer.sample(state, KEY, 5_000, 1.0, progress())
    assert set(batch.indices.numpy().tolist()) <= {0, 1, 2, 3, 4}
    assert np.isfinite(batch.weight).all()
    beyond = sum_tree.search(state.tree, sum_tree.total(state.tree)[None] * [1.0, 2.0], 1_000)
    assert beyond.numpy().tolist() == [4, 4]


def test_priorities_that_an_algorithm_does_not_give_are_missed_aloud():
    buffer = Prioritized(capacity=9)
    state = prioritized(buffer, [1.0])
    with pytest.raises(TypeError, match="prioritized replay"):
        buffer.update_priorities(state, buffer.sample(state, KEY, 2, 1.0, progress()), None)


def test_members_draw_compiled_what_they_draw_alone():
    buffer = Prioritized(capacity=22, n_step=3)

    def used(key, state):
        batch = buffer.sample(state, key, 6, 0.9, progress(step=1))
        state = buffer.update_priorities(state, batch, tf.abs(batch.reward))
        return buffer.sample(state, rng.fold_in(key, 1), 6, 0.9, progress())

    members = [filled(buffer, episodes(2, steps, 0.1, seed)) for seed, steps in ((0, 7), (1, 30))]
    stacked = tf.nest.map_structure(lambda *each: tf.stack(each), *members)
    mapped = tf.function(
        lambda keys, states: tf.vectorized_map(lambda row: used(*row), (keys, states), fallback_to_while_loop=False),
        jit_compile=True,
        autograph=False,
    )(rng.split(KEY, 2), stacked)
    for index, (key, state) in enumerate(zip(tf.unstack(rng.split(KEY, 2)), members)):
        assert apart(used(key, state), tf.nest.map_structure(lambda rows: rows[index], mapped)) < 1e-5  # noqa: B023
