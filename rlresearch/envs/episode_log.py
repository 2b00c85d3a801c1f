"""How to get back into the middle of an episode of a Gymnasium environment, whose state nobody can save.

An episode begins from a seed of its own. So its actions are kept, and a digest of what came of them: done over
again they lead to the same place, or the digest says that they do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_BYTES = 1 << 24  # of one episode's actions: four million steps of one number


class EpisodeLog:
    """The running episode of one environment: its actions, and a digest of every observation and reward.

    length: its steps. too_long: whether its actions take more than MOST_BYTES; they are then forgotten, and nothing
    leads back to here.
    """

    def __init__(self, obs: np.ndarray) -> None:
        self.length, self.too_long = 0, False
        self._bytes = bytearray()  # of all actions: an object each would take thirty times as much
        self._dtype, self._shape = np.dtype(np.float32), (0,)
        self._digest = _digest(obs.tobytes())  # a chain, as no running one could come from another process

    def note(self, action: np.ndarray, obs: np.ndarray, reward: np.float32) -> None:
        """One step more. action: float32[A] or int32 scalar; obs: float32[...]."""
        self.length += 1
        if self.too_long:
            return
        self._bytes += action.tobytes()
        self._dtype, self._shape = action.dtype, action.shape
        self._digest = _digest(self._digest + obs.tobytes() + reward.tobytes())
        if len(self._bytes) > MOST_BYTES:
            self.too_long, self._bytes = True, bytearray()

    @property
    def actions(self) -> np.ndarray:
        """A copy of all actions [length, ...]; none where the episode is too long."""
        kept = 0 if self.too_long else self.length
        return np.frombuffer(bytes(self._bytes), self._dtype).reshape((kept, *self._shape))

    @property
    def digest(self) -> np.ndarray:
        """uint8[16]; zeros where the episode is too long, which no digest of another is."""
        return np.zeros(16, np.uint8) if self.too_long else np.frombuffer(self._digest, np.uint8)


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
    actions = [own for log in logs if len(own := log.actions)]
    laid = np.concatenate(actions) if actions else np.zeros((0, *action.shape[1:]), action.dtype)
    lengths = np.array([len(log.actions) for log in logs], np.int64)
    return EpisodeLogs(episode.copy(), lengths, laid, np.stack([log.digest for log in logs]), obs.copy())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
