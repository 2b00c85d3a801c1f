"""Evaluation: the deterministic policy in Gymnasium's own environment, from seeds of its own.

Nothing of it touches training state: it draws no training key and steps no training environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlresearch import rng
from rlresearch.envs.host import CheckedEnv, episode_seeds
from rlresearch.envs.task import Task
from rlresearch.evaluation import parallel
from rlresearch.runtime import cpu

AT_ONCE = 50  # episodes of one member stepped together: enough to share a call's cost, few enough to hold


class Evaluation(NamedTuple):
    """Every episode's undiscounted return and its length in steps."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(np.mean(self.returns))

    def summary(self, step: int) -> dict[str, float]:
        """What a run's record says of the evaluation at a step."""
        spread, length = float(np.std(self.returns)), float(np.mean(self.lengths))
        return {"step": step, "mean": self.mean, "std": spread, "episodes": len(self.returns), "mean_length": length}


UNSEEN = Evaluation([float("nan")], [0])  # of a member that had ended before it was first evaluated


class Episode(NamedTuple):
    """What an episode was: reset with `seed`, then `actions`, [-1, 1] or from 0; `total`: its return."""

    seed: int
    actions: list[np.ndarray]
    total: float


class Evaluator:
    """Evaluates the policies of all members side by side.

    seeds: one run seed a member. Episode i of the evaluation at a step begins from a seed made of the
    run's seed, the step and i, whatever was evaluated before. firsts: with `keep_first` episode 0 of the newest
    evaluation, one a member, None of those that were not evaluated. workers: the most processes that step environments,
    None for one a core where those are Gymnasium's own, of which it is known that forking does them no harm.
    """

    def __init__(self, task: Task, seeds: Sequence[int], keep_first: bool = False, workers: int | None = None) -> None:
        self._task, self._seeds, self._keep_first, self._workers = task, tuple(seeds), keep_first, workers
        self._envs: list[list[CheckedEnv]] = [[] for _ in self._seeds]
        self.firsts: list[Episode | None] = []

    def run(
        self,
        policy: Callable[[np.ndarray], np.ndarray],
        episodes: int,
        step: int,
        going: Sequence[bool] | None = None,
    ) -> list[Evaluation]:
        """One Evaluation a member. policy: actions [M, n, A] for observations [M, n, ...]. going: the members that are
        evaluated, None for all; what the others see is zeros, and their Evaluation UNSEEN.
        """
        members = [m for m in range(len(self._seeds)) if going is None or going[m]]
        seeds = [evaluation_seeds(self._seeds[m], step, episodes) for m in members]
        results = [Evaluation([], []) for _ in members]
        self.firsts = []
        for begin in range(0, episodes, AT_ONCE):
            batch = self._together(policy, members, [each[begin : begin + AT_ONCE] for each in seeds])
            results = [
                Evaluation(done.returns + new.returns, done.lengths + new.lengths)
                for done, new in zip(results, batch, strict=True)
            ]
        found = dict(zip(members, results, strict=True))
        return [found.get(m, UNSEEN) for m in range(len(self._seeds))]

    def close(self) -> None:
        """Closes the environments."""
        for env in (env for envs in self._envs for env in envs):
            env.close()

    def _together(self, policy: Callable, members: list[int], seeds: list[list[int]]) -> list[Evaluation]:
        """One episode for each seed of each of the members, all stepped together until the last one ends."""
        count, taken = len(seeds[0]), []
        envs = self._made(members, count)

        def flat(obs: np.ndarray) -> np.ndarray:
            seen = np.zeros((len(self._seeds), count, *obs.shape[1:]), obs.dtype)
            seen[members] = obs.reshape(len(members), count, *obs.shape[1:])
            actions = policy(seen)[members]
            if self._keep_first:
                taken.append(np.array(actions[:, 0]))
            return actions.reshape(len(obs), *actions.shape[2:])

        units = [unit for each in envs for unit in each]
        workers = self._workers or (cpu.available() if is_gymnasiums_own(units[0]) else 1)
        returns, lengths = parallel.run(units, [seed for each in seeds for seed in each], flat, workers)
        own = [slice(m * count, (m + 1) * count) for m in range(len(members))]
        results = [Evaluation(returns[each], lengths[each]) for each in own]
        if self._keep_first and not self.firsts:
            self.firsts = [None] * len(self._seeds)
            for m, each in enumerate(results):
                actions = [step[m] for step in taken[: each.lengths[0]]]
                self.firsts[members[m]] = Episode(seeds[m][0], actions, each.returns[0])
        return results

    def _made(self, members: list[int], count: int) -> list[list[CheckedEnv]]:
        for m in members:
            self._envs[m] += [CheckedEnv(self._task.make(), self._task.id) for _ in range(count - len(self._envs[m]))]
        return [self._envs[m][:count] for m in members]


def is_gymnasiums_own(unit: CheckedEnv) -> bool:
    """Whether an environment is one of Gymnasium's, and can be forked without harm."""
    return type(unit.unwrapped).__module__.startswith("gymnasium.envs.") and sys.platform == "linux"


def evaluation_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """The reset seed of each episode of the evaluation at a step. seed: the run's."""
    key = rng.key(seed).numpy()[None]
    for number in (0x6576616C, step):  # "eval": no training key has this tag
        key = rng.folded_in(key, np.array([number]))
    return episode_seeds(np.repeat(key, episodes, axis=0), np.arange(episodes))
