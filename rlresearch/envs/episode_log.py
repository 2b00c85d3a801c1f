"""How to get back into the middle of an episode of a Gymnasium environment, whose state nobody can save.

An episode begins from a seed of its own. So its actions are kept, and a digest of what came of them: done over
again they lead to the same place, or the digest says that they do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class EpisodeLog:
    """The running episode of one environment: its actions, and a digest of every observation and reward."""

    def __init__(self, obs: np.ndarray) -> None:
        self.actions: list[np.ndarray] = []
        self._digest = _digest(obs.tobytes())  # a chain, as no running one could come from another process

    def note(self, action: np.ndarray, obs: np.ndarray, reward: np.float32) -> None:
        """One step more. obs: float32[...]."""
        self.actions.append(action)
        self._digest = _digest(self._digest + obs.tobytes() + reward.tobytes())

    @property
    def digest(self) -> np.ndarray:
        """uint8[16]."""
        return np.frombuffer(self._digest, np.uint8)


class EpisodeLogs(NamedTuple):
    """The logs of N environments as arrays. episode: int64[N], episodes begun before these; lengths: int64[N];
    actions: [sum(lengths), ...], one environment's after the other's; digests: uint8[N, 16]; obs: float32[N, ...],
    the newest.
    """

    episode: np.ndarray
    lengths: np.ndarray
    actions: np.ndarray
    digests: np.ndarray
    obs: np.ndarray

    def split_actions(self) -> list[np.ndarray]:
        """The actions of each environment."""
        return np.split(self.actions, np.cumsum(self.lengths)[:-1])


def stack_logs(logs: Sequence[EpisodeLog], episode: np.ndarray, obs: np.ndarray, action: np.ndarray) -> EpisodeLogs:
    """The arrays of some logs; `action` [N, ...] says what actions are like where there are none yet."""
    actions = [each for log in logs for each in log.actions]
    laid = np.stack(actions) if actions else np.zeros((0, *action.shape[1:]), action.dtype)
    lengths = np.array([len(log.actions) for log in logs], np.int64)
    return EpisodeLogs(episode.copy(), lengths, laid, np.stack([log.digest for log in logs]), obs.copy())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
