"""Evaluation: the deterministic policy in Gymnasium's own environment, from seeds of its own.

Nothing of it touches training state: it draws no training key and steps no training environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlresearch import rng
from rlresearch.envs.host import Unit, episode_seeds
from rlresearch.envs.task import Task

AT_ONCE = 50  # episodes of one member stepped together: enough to share a call's cost, few enough to hold


class Evaluation(NamedTuple):
    """Every episode's undiscounted return and its length in steps."""

    returns: list[float]
    lengths: list[int]

    @property
    def mean(self) -> float:
        return float(np.mean(self.returns))

    def summary(self, step: int) -> dict[str, float]:
        """What a run's record says of the evaluation at a step."""
        spread, length = float(np.std(self.returns)), float(np.mean(self.lengths))
        return {"step": step, "mean": self.mean, "std": spread, "episodes": len(self.returns), "mean_length": length}


class Episode(NamedTuple):
    """What an episode was: reset with `seed`, then `actions`, [-1, 1] or from 0; `total`: its return."""

    seed: int
    actions: list[np.ndarray]
    total: float


class Evaluator:
    """Evaluates the policies of all members side by side.

    seeds: one run seed a member. Episode i of the evaluation at a step begins from a seed made of the
    run's seed, the step and i, whatever was evaluated before. firsts: with `keep_first` episode 0 of the newest
    evaluation, one a member.
    """

    def __init__(self, task: Task, seeds: Sequence[int], keep_first: bool = False) -> None:
        self._task, self._seeds, self._keep_first = task, tuple(seeds), keep_first
        self._envs: list[list[Unit]] = [[] for _ in self._seeds]
        self.firsts: list[Episode] = []

    def run(self, policy: Callable[[np.ndarray], np.ndarray], episodes: int, step: int) -> list[Evaluation]:
        """One Evaluation a member. policy: actions [M, n, A] for observations [M, n, ...]."""
        seeds = [_episode_seeds(seed, step, episodes) for seed in self._seeds]
        results = [Evaluation([], []) for _ in self._seeds]
        self.firsts = []
        for begin in range(0, episodes, AT_ONCE):
            batch = self._together(policy, [each[begin : begin + AT_ONCE] for each in seeds])
            results = [
                Evaluation(done.returns + new.returns, done.lengths + new.lengths)
                for done, new in zip(results, batch, strict=True)
            ]
        return results

    def close(self) -> None:
        """Closes the environments."""
        for env in (env for envs in self._envs for env in envs):
            env.close()

    def _together(self, policy: Callable, seeds: list[list[int]]) -> list[Evaluation]:
        """One episode for each seed, all stepped together until the last one ends."""
        envs = self._made(len(seeds[0]))
        obs = np.stack([[env.reset(seed=s)[0] for env, s in zip(*pair, strict=True)] for pair in zip(envs, seeds)])
        # Python's own numbers and lists: what stands around an environment's step would else take longer than it does.
        units = [env for each in envs for env in each]
        rows = obs.reshape(len(units), *obs.shape[2:])
        returns, lengths, alive = [0.0] * len(units), [0] * len(units), list(range(len(units)))
        count = len(seeds[0])
        done: list[list[np.ndarray]] = [[] for _ in seeds]
        while alive:
            actions = policy(obs)
            actions, going = actions.reshape(len(units), *actions.shape[2:]), []
            for k in alive if self._keep_first else ():
                if k % count == 0:
                    done[k // count].append(np.array(actions[k]))
            for k in alive:
                rows[k], reward, terminated, truncated, _ = units[k].step(actions[k])
                returns[k] += reward
                lengths[k] += 1
                if not (terminated or truncated):
                    going.append(k)
            alive = going
        results = [
            Evaluation(returns[m * count : (m + 1) * count], lengths[m * count : (m + 1) * count])
            for m in range(len(seeds))
        ]
        if self._keep_first and not self.firsts:
            self.firsts = [Episode(s[0], a, each.returns[0]) for s, a, each in zip(seeds, done, results, strict=True)]
        return results

    def _made(self, count: int) -> list[list[Unit]]:
        for envs in self._envs:
            envs += [Unit(self._task.make(), self._task.id) for _ in range(count - len(envs))]
        return [envs[:count] for envs in self._envs]


def _episode_seeds(seed: int, step: int, episodes: int) -> list[int]:
    key = rng.fold_in(rng.fold_in(rng.key(seed), 0x6576616C), step).numpy()  # "eval": no training key has this tag
    return episode_seeds(np.tile(key, (episodes, 1)), np.arange(episodes))
