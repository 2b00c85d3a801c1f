"""Many episodes at a time, each to its end: in this process, and beside it in forked ones.

An environment's step is Python and holds the interpreter, so that threads would not help. A forked process has the
environments as they stand, and its results come back by memory that both share; it never touches TensorFlow, and lives
for these episodes alone.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NoReturn

import numpy as np

from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.worker import ignore_signals
from rlresearch.errors import RunError
from rlresearch.runtime import heartbeat

LEAST = 64  # environments of a process: with fewer, forking costs more than it saves


def run(
    units: Sequence[CheckedEnv],
    seeds: Sequence[int],
    policy: Callable[[np.ndarray], np.ndarray],
    workers: int,
    most_steps: int | None = None,
) -> tuple[list[float], list[int]]:
    """One episode of each environment, from its seed: their returns and lengths.

    policy: actions [K, ...] for observations [K, ...] of all K, those whose episode has ended included. workers: the
    most processes, this one among them. Results do not depend on their number. most_steps: after which an episode is
    left, None for however many. Errors: RunError.
    """
    obs = _shared(np.stack([unit.reset(seed=seed)[0] for unit, seed in zip(units, seeds, strict=True)]))
    returns, lengths = _shared(np.zeros(len(units))), _shared(np.zeros(len(units), np.int64))
    actions = policy(obs)
    shared_actions = _shared(actions)
    parts = max(1, min(workers, len(units) // LEAST))
    ends = [index * len(units) // parts for index in range(parts + 1)]
    limit = most_steps or sys.maxsize
    shares = [_LocalEpisodes(units, begin, end, obs, returns, lengths, limit) for begin, end in pairwise(ends)]
    beside: list[_ForkedWorker] = []
    try:
        for share in shares[1:]:
            beside.append(_ForkedWorker(share, shared_actions, beside))
        while True:
            going = [each for each in beside if each.going]
            for each in going:
                each.begin()
            shares[0].step(shared_actions)
            for each in going:
                each.end()
            if not (shares[0].going or any(each.going for each in beside)):
                break
            shared_actions[...] = policy(obs)
    finally:
        for each in beside:
            each.close()
    shares[0].told()
    return returns.tolist(), lengths.tolist()


class _LocalEpisodes:
    """Environments that one process steps. Once `told`, their returns and lengths are where all look."""

    def __init__(
        self,
        units: Sequence[CheckedEnv],
        begin: int,
        end: int,
        obs: np.ndarray,
        returns: np.ndarray,
        lengths: np.ndarray,
        most_steps: int,
    ) -> None:
        self._units, self._obs, self._to, self._most_steps = units, obs, (returns, lengths), most_steps
        self.going = list(range(begin, end))
        # Python's own numbers: what stands around an environment's step would else take longer than it does.
        self._returns, self._lengths = dict.fromkeys(self.going, 0.0), dict.fromkeys(self.going, 0)

    def step(self, actions: np.ndarray) -> None:
        units, obs, going = self._units, self._obs, []
        for index in self.going:
            obs[index], reward, terminated, truncated, _ = units[index].step(actions[index])
            self._returns[index] += reward
            self._lengths[index] += 1
            if not (terminated or truncated or self._lengths[index] >= self._most_steps):
                going.append(index)
        self.going = going

    def told(self) -> None:
        returns, lengths = self._to
        for index, value in self._returns.items():
            returns[index], lengths[index] = value, self._lengths[index]


class _ForkedWorker:
    """A share in a forked process. others: those that were forked before."""

    def __init__(self, share: _LocalEpisodes, actions: np.ndarray, others: Sequence[_ForkedWorker]) -> None:
        self.going = bool(share.going)
        go, self._go = os.pipe()
        self._told, tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child needs none of what they hold
            self._pid = os.fork()
        if not self._pid:
            for each in (self._go, self._told, *(end for other in others for end in other.ends)):
                os.close(each)
            _worker_main(share, actions, go, tell)
        os.close(go)
        os.close(tell)

    @property
    def ends(self) -> tuple[int, int]:
        """This process' ends of the pipes; a child that kept them open would outlive it."""
        return self._go, self._told

    def begin(self) -> None:
        """Has it take a step."""
        with suppress(BrokenPipeError):  # `end` says why
            os.write(self._go, b"s")

    def end(self) -> None:
        """Waits for the step. RunError where it failed."""
        with heartbeat.waiting():
            answer = os.read(self._told, 1)
            if answer in (b"0", b"1"):
                self.going = answer == b"1"
                return
            told = answer + b"".join(iter(lambda: os.read(self._told, 65536), b""))
        if not told:
            raise RunError("a process that steps environments beside it is gone; was it killed, for want of memory?")
        why, trace = json.loads(told)
        raise RunError(why) from RuntimeError(f"in a process beside this one\n{trace}")

    def close(self) -> None:
        for end in self.ends:
            os.close(end)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)  # nothing of it is needed any more
        os.waitpid(self._pid, 0)


def _worker_main(share: _LocalEpisodes, actions: np.ndarray, go: int, tell: int) -> NoReturn:
    """The life of a forked process: a step for each word, until there is no more to do, or nobody to say so."""
    try:
        ignore_signals()
        while share.going and os.read(go, 1):
            share.step(actions)
            if not share.going:
                share.told()
            os.write(tell, b"1" if share.going else b"0")
    except BaseException as error:  # noqa: BLE001 (the parent hears of whatever it was)
        why = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error.__cause__ or error))
        with suppress(OSError):
            os.write(tell, json.dumps([why, trace[-8000:]]).encode())
    finally:
        os._exit(0)


def _shared(array: np.ndarray) -> np.ndarray:
    """A copy in memory that processes forked from this one share with it."""
    memory = mmap.mmap(-1, max(array.nbytes, 1))
    shared = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    shared[...] = array
    return shared
