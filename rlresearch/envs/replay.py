"""Whether an environment can be brought back: its episodes, done over again, must be the same.

Tried with episodes that have just finished, in a new environment in a process of its own: nothing of it touches the
one that is learned in, and what hangs there is ended.
"""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np

from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.episode_log import MOST_BYTES, EpisodeLog
from rlresearch.envs.processes import ProcessEnvs
from rlresearch.envs.task import Task

LAST_EPISODE = 64  # the first finished episode is tried, then the 2nd, 4th, ... up to this one
AT_MOST_S = 10.0  # for one of them
SHARE, FLOOR_S = 0.02, 1.0  # of the time since the run began, that those after the first may take together


class Finding(NamedTuple):
    """Why a run may not be repeated or resumed. kind: `own_randomness`, `memory` or `long_episode`; message: for a
    person, with what it means.
    """

    kind: str
    episode: int
    message: str


class ReplayCheck:
    """Looks at a copy's finished episodes, few of them. finding: the first thing that was found, None so far."""

    def __init__(self, task: Task) -> None:
        self._task, self._began, self._spent = task, time.monotonic(), 0.0
        self._tried, self._has_replayed = False, False
        self.finding: Finding | None = None

    def due(self, episode: int) -> bool:
        """Whether an episode that has just finished is one to look at. episode: its number, from 0."""
        if self.finding is not None or not self._task.reseed:
            return False
        number = episode + 1
        affordable = self._spent <= max(FLOOR_S, SHARE * (time.monotonic() - self._began))
        return not self._tried or (number <= LAST_EPISODE and number & (number - 1) == 0 and affordable)

    def finished(self, log: EpisodeLog, seed: int, episode: int) -> None:
        """Does a finished episode over again."""
        if log.too_long:
            return
        began = time.monotonic()
        same = replays(self._task, log, seed, AT_MOST_S)
        self._spent += time.monotonic() - began
        self._tried, self._has_replayed = True, self._has_replayed or bool(same)
        if same is False:
            self.found(episode)

    def found(self, episode: int) -> None:
        """An episode has been done over again, and was another one."""
        if self.finding is not None:
            return
        name = f"environment '{self._task.id}'"
        means = "resume may find no way back into it; checkpoint.episodes=fresh goes on with new episodes"
        if self._has_replayed or episode > 0:
            why = f"{name} keeps something from one episode to the next: episode {episode}, done over again, is another"
            self.finding = Finding("memory", episode, f"{why}; {means}")
        else:
            why = f"{name} draws from a source of its own, or from a clock: its seed does not decide episode {episode}"
            means = "the same command gives another run, and a resumed one begins fresh episodes"
            self.finding = Finding("own_randomness", episode, f"{why}; {means} with checkpoint.episodes=fresh")

    def too_long(self, episode: int) -> None:
        """The actions of a running episode are kept no longer."""
        if self.finding is None:
            name = f"environment '{self._task.id}'"
            why = f"{name}: episode {episode} has more actions than the {MOST_BYTES >> 20} MiB that are kept"
            means = "resume goes on from before it, or with checkpoint.episodes=fresh from the episode after it"
            self.finding = Finding("long_episode", episode, f"{why}; {means}")


def replays(task: Task, log: EpisodeLog, seed: int, at_most_s: float) -> bool | None:
    """Whether an episode, done over again in a new environment, is the same; None where that was not found out: such an
    environment cannot be made here a second time, or takes too long.
    """
    envs = None
    try:
        envs = ProcessEnvs(task, [partial(_fresh, task)], at_most_s)
        (again,) = envs.replay([(seed, log.actions)], at_most_s)
    except Exception:  # noqa: BLE001 (also where no process can be made, as in one that is a daemon itself)
        return None
    finally:
        if envs is not None:
            envs.close()
    return bool((again.digest == log.digest).all())


def _fresh(task: Task) -> CheckedEnv:
    """A new environment in a process whose global generators stand elsewhere than when it was forked."""
    drawn = int.from_bytes(os.urandom(4), "little")
    random.seed(drawn)
    np.random.seed(drawn)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(drawn)
    return CheckedEnv(task.make(), task.id)
