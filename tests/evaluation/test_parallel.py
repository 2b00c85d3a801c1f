"""Episodes that several processes step side by side: the same as in one, and nothing is left of those processes."""

import os
import signal
from functools import partial

import gymnasium as gym
import numpy as np
import pytest

from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.task import Task
from rlresearch.errors import RunError
from rlresearch.evaluation import parallel
from rlresearch.evaluation.evaluator import Evaluator, is_gymnasiums_own


class Walk(gym.Env):
    """Counts down from a number that the seed decides, or fails at it. at_end: what it does in its last step."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, at_end=lambda left: None):
        self._at_end = at_end

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.seed = int(self.np_random.integers(1, 30)), seed
        return np.float32([self.left, seed]), {}

    def step(self, action):
        self.left -= 1
        if not self.left:
            self._at_end(self.seed)
        return np.float32([self.left, self.seed]), float(action[0]) + self.left, self.left == 0, False, {}


def units(count, at_end=lambda seed: None):
    return [CheckedEnv(Walk(at_end), "Walk-v0") for _ in range(count)]


def policy(obs):
    return np.tanh(obs[:, :1] / 7.0)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(parallel, "LEAST", 2)


def children():
    return open(f"/proc/self/task/{os.getpid()}/children").read().split()


@pytest.mark.parametrize("workers", [2, 3, 50])
def test_any_number_of_processes_gives_the_same_episodes(workers):
    before = children()
    alone = parallel.run(units(11), range(11), policy, 1)
    assert len(set(alone[1])) > 5 and parallel.run(units(11), range(11), policy, workers) == alone
    assert children() == before


class OneArrayForAll(Walk):
    """Its copies write into one array."""

    array = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        self.array[:], info = super().reset(seed=seed)
        return self.array, info

    def step(self, action):
        self.array[:], *rest = super().step(action)
        return self.array, *rest


@pytest.mark.parametrize("workers", [1, 3])
def test_copies_that_write_into_one_array_show_each_its_own(workers):
    alone = parallel.run(units(6), range(6), policy, 1)
    made = [CheckedEnv(OneArrayForAll(), "OneArrayForAll-v0") for _ in range(6)]
    assert parallel.run(made, range(6), policy, workers) == alone


def test_an_episode_that_never_ends_is_left_at_the_limit():
    returns, lengths = parallel.run(units(6), range(6), policy, 2, most_steps=4)
    whole, long = parallel.run(units(6), range(6), policy, 1)
    assert lengths == [min(4, each) for each in long] and max(long) > 4 == max(lengths)
    assert [a == b for a, b in zip(returns, whole)] == [each <= 4 for each in long]


def _seed_nine_fails(seed):
    if seed == 9:
        raise ValueError("the walk is over")


def test_what_an_environment_raises_in_another_process_is_told_as_in_this_one():
    before, told = children(), []
    for workers in (1, 2):
        with pytest.raises(RunError) as caught:
            parallel.run(units(11, _seed_nine_fails), range(11), policy, workers)
        told.append(str(caught.value))
    assert told[0] == told[1] and "raised at step" in told[0] and "seed 9" in told[0]
    assert "in _seed_nine_fails" in str(caught.value.__cause__)
    assert children() == before


def test_a_process_that_is_killed_ends_the_run_with_a_word():
    me = os.getpid()

    def killed(seed):
        if os.getpid() != me:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RunError, match="is gone; was it killed"):
        parallel.run(units(11, killed), range(11), policy, 2)


def test_who_is_interrupted_leaves_no_process():
    before, calls = children(), []

    def interrupted(obs):
        calls.append(len(children()))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return policy(obs)

    with pytest.raises(KeyboardInterrupt):
        parallel.run(units(11), range(11), interrupted, 4)
    assert calls[1] > calls[0] == len(before) and children() == before


def test_only_gymnasiums_own_environments_are_forked_unless_it_is_asked_for(monkeypatch):
    gym.register("Walk-v0", entry_point=Walk)
    asked = []
    run = lambda units, seeds, policy, workers, most_steps: asked.append(workers) or ([0.0], [1])  # noqa: E731
    monkeypatch.setattr(parallel, "run", run)
    for task, workers in ((Task("Walk-v0"), None), (Task("Walk-v0"), 3)):
        Evaluator(task, (0,), workers=workers).run(lambda obs: np.zeros((*obs.shape[:2], 1)), 1, 0)
    assert asked == [1, 3]
    assert is_gymnasiums_own(CheckedEnv(gym.make("Pendulum-v1"), "Pendulum-v1"))


def test_a_first_episode_is_kept_whole_whoever_stepped_it():
    policy = partial(lambda obs: np.clip(-obs[..., 2:], -1.0, 1.0))
    task = Task("Pendulum-v1", max_episode_steps=5)
    kept = []
    for workers in (1, 2):
        evaluator = Evaluator(task, (3, 4), True, workers)
        results = evaluator.run(policy, 3, 0)
        assert [each.total for each in evaluator.firsts] == [each.returns[0] for each in results]
        assert [len(each.actions) for each in evaluator.firsts] == [5, 5]
        kept.append([(each.seed, np.array(each.actions).tolist()) for each in evaluator.firsts])
    assert kept[0] == kept[1]
