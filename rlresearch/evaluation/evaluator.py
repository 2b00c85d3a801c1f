"""Evaluation: the deterministic policy in Gymnasium's own environment, from seeds of its own.

Nothing of it touches training state: it draws no training key and steps no training environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlresearch import rng
from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.host import episode_seeds
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError
from rlresearch.evaluation import parallel
from rlresearch.runtime import cpu, heartbeat

LONGEST = 5_000  # steps of an episode that are kept for a video: of a longer one the beginning
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
    """What an episode was: reset with `seed`, then `actions`, [-1, 1] or from 0, LONGEST and one more at most; `total`:
    its return.
    """

    seed: int
    actions: list[np.ndarray]
    total: float


class Evaluator:
    """Evaluates the policies of all members side by side.

    seeds: one run seed a member. Episode i of the evaluation at a step begins from a seed made of the
    run's seed, the step and i, whatever was evaluated before. firsts: with `keep_first` episode 0 of the newest
    evaluation, one a member, None of those that were not evaluated. workers: the most processes that step environments,
    None for one a core where those are Gymnasium's own, of which it is known that forking does them no harm. copies:
    the most environments that there are at once, None for AT_ONCE a member. most_steps: after which an episode is left.
    """

    def __init__(
        self,
        task: Task,
        seeds: Sequence[int],
        keep_first: bool = False,
        workers: int | None = None,
        copies: int | None = None,
        most_steps: int | None = None,
    ) -> None:
        self._task, self._seeds, self._keep_first, self._workers = task, tuple(seeds), keep_first, workers
        self._copies, self._most_steps = copies or AT_ONCE * len(self._seeds), most_steps
        self._together_at_most = min(AT_ONCE, max(1, self._copies // len(self._seeds)))
        self._units: list[CheckedEnv] = []
        self.firsts: list[Episode | None] = []

    def prepare(self, episodes: int) -> bool:
        """Makes the environments that evaluations of so many episodes need, so that what is refused is refused now.

        Those of Gymnasium itself are made when they are needed. False where there can be none beside those that are
        there already, and no more than one is wanted. ConfigError where there can be fewer than are needed.
        """
        needed = min(self._copies, len(self._seeds) * min(episodes, self._together_at_most))
        try:
            if not (self._made(1) and is_gymnasiums_own(self._units[0])):
                self._made(needed)
        except ConfigError as error:
            count = len(self._units)
            if not count and needed == 1:
                return False
            why = str(error).partition("cannot be made")[2].partition(": ")[2] or str(error)
            wanted = f"eval.copies: an evaluation needs {needed} of {self._task.id} beside those that are trained in"
            why = f"{count} could be made ({why.rstrip('.')})"
            raise ConfigError(f"{wanted}, and {why}; set eval.copies={count or 1}.") from error
        return True

    def run(
        self,
        policy: Callable[[np.ndarray], np.ndarray],
        episodes: int,
        step: int,
        active: Sequence[bool] | None = None,
    ) -> list[Evaluation]:
        """One Evaluation a member. policy: actions [M, n, A] for observations [M, n, ...]. active: the members that are
        evaluated, None for all; what the others see is zeros, and their Evaluation UNSEEN.
        """
        members = [m for m in range(len(self._seeds)) if active is None or active[m]]
        seeds = {m: evaluation_seeds(self._seeds[m], step, episodes) for m in members}
        found: dict[int, Evaluation] = {}
        self.firsts = [None] * len(self._seeds) if self._keep_first else []
        for first in range(0, len(members), self._copies):
            for begin in range(0, episodes, self._together_at_most):
                group = members[first : first + self._copies]
                parts = [seeds[m][begin : begin + self._together_at_most] for m in group]
                for m, new in zip(group, self._together(policy, group, parts), strict=True):
                    done = found.get(m, Evaluation([], []))
                    found[m] = Evaluation(done.returns + new.returns, done.lengths + new.lengths)
        return [found.get(m, UNSEEN) for m in range(len(self._seeds))]

    def close(self) -> None:
        """Closes the environments; others are made when they are needed."""
        units, self._units = self._units, []
        for unit in units:
            unit.close()

    def _together(self, policy: Callable, members: list[int], seeds: list[list[int]]) -> list[Evaluation]:
        """One episode for each seed of each of the members, all stepped together until the last one ends."""
        count = len(seeds[0])
        taken: list[np.ndarray] = []
        units = self._made(len(members) * count)
        keep = self._keep_first and self.firsts[members[0]] is None

        def flat(obs: np.ndarray) -> np.ndarray:
            seen = np.zeros((len(self._seeds), count, *obs.shape[1:]), obs.dtype)
            seen[members] = obs.reshape(len(members), count, *obs.shape[1:])
            actions = policy(seen)[members]
            if keep and len(taken) <= LONGEST:
                taken.append(np.array(actions[:, 0]))
            return actions.reshape(len(obs), *actions.shape[2:])

        workers = self._workers or (cpu.available() if is_gymnasiums_own(units[0]) else 1)
        every = [seed for each in seeds for seed in each]
        returns, lengths = parallel.run(units, every, flat, workers, self._most_steps)
        own = [slice(m * count, (m + 1) * count) for m in range(len(members))]
        results = [Evaluation(returns[each], lengths[each]) for each in own]
        for m, each in enumerate(results if keep else []):
            actions = [step[m] for step in taken[: each.lengths[0]]]
            self.firsts[members[m]] = Episode(seeds[m][0], actions, each.returns[0])
        return results

    def _made(self, count: int) -> list[CheckedEnv]:
        while len(self._units) < count:
            with heartbeat.waiting(step=heartbeat.MAKING):
                self._units.append(CheckedEnv(self._task.make(), self._task.id))
        return self._units[:count]


def is_gymnasiums_own(unit: CheckedEnv) -> bool:
    """Whether an environment is one of Gymnasium's, and can be forked without harm."""
    return type(unit.unwrapped).__module__.startswith("gymnasium.envs.") and sys.platform == "linux"


def evaluation_seeds(seed: int, step: int, episodes: int) -> list[int]:
    """The reset seed of each episode of the evaluation at a step. seed: the run's."""
    key = rng.key(seed).numpy()[None]
    for number in (0x6576616C, step):  # "eval": no training key has this tag
        key = rng.folded_in(key, np.array([number]))
    return episode_seeds(np.repeat(key, episodes, axis=0), np.arange(episodes))
