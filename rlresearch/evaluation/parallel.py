"""Runs many episodes at a time, each to its end, in this process and in forked processes.

The step of an environment is Python code and blocks other threads, so threads would not help. A forked process has
copies of the environments, and returns results through shared memory. It never uses TensorFlow, and ends with these
episodes.
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
    """Runs one episode of each environment, from its seed. Returns the returns and the lengths.

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
    forked: list[_ForkedWorker] = []
    try:
        for share in shares[1:]:
            forked.append(_ForkedWorker(share, shared_actions, forked))
        while True:
            active = [each for each in forked if each.active]
            for each in active:
                each.begin()
            shares[0].step(shared_actions)
            for each in active:
                each.end()
            if not (shares[0].active or any(each.active for each in forked)):
                break
            shared_actions[...] = policy(obs)
    finally:
        for each in forked:
            each.close()
    shares[0].publish()
    return returns.tolist(), lengths.tolist()


class _LocalEpisodes:
    """Environments that one process steps. `publish` copies their returns and lengths to the shared arrays."""

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
        self.active = list(range(begin, end))
        # Python numbers, not arrays: adding to arrays would take longer than a cheap environment's step.
        self._returns, self._lengths = dict.fromkeys(self.active, 0.0), dict.fromkeys(self.active, 0)

    def step(self, actions: np.ndarray) -> None:
        units, obs, active = self._units, self._obs, []
        for index in self.active:
            obs[index], reward, terminated, truncated, _ = units[index].step(actions[index])
            self._returns[index] += reward
            self._lengths[index] += 1
            if not (terminated or truncated or self._lengths[index] >= self._most_steps):
                active.append(index)
        self.active = active

    def publish(self) -> None:
        returns, lengths = self._to
        for index, value in self._returns.items():
            returns[index], lengths[index] = value, self._lengths[index]


class _ForkedWorker:
    """Steps a part of the environments in a forked process. others: the workers that were forked before."""

    def __init__(self, share: _LocalEpisodes, actions: np.ndarray, others: Sequence[_ForkedWorker]) -> None:
        self.active = bool(share.active)
        go, self._go = os.pipe()
        self._told, tell = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads; the child needs no lock that they hold
            self._pid = os.fork()
        if not self._pid:
            for each in (self._go, self._told, *(end for other in others for end in other.ends)):
                os.close(each)
            _worker_main(share, actions, go, tell)
        os.close(go)
        os.close(tell)

    @property
    def ends(self) -> tuple[int, int]:
        """This process' ends of the pipes. A child must close them; otherwise it would not end with this process."""
        return self._go, self._told

    def begin(self) -> None:
        """Starts a step in the worker."""
        with suppress(BrokenPipeError):  # `end` raises the error
            os.write(self._go, b"s")

    def end(self) -> None:
        """Waits for the step. Errors: RunError where it failed."""
        with heartbeat.waiting():
            answer = os.read(self._told, 1)
            if answer in (b"0", b"1"):
                self.active = answer == b"1"
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
            os.kill(self._pid, signal.SIGKILL)  # its results are no longer needed
        os.waitpid(self._pid, 0)


def _worker_main(share: _LocalEpisodes, actions: np.ndarray, go: int, tell: int) -> NoReturn:
    """Runs in a forked process: takes a step for each byte from the parent, until all episodes or the parent end."""
    try:
        ignore_signals()
        while share.active and os.read(go, 1):
            share.step(actions)
            if not share.active:
                share.publish()
            os.write(tell, b"1" if share.active else b"0")
    except BaseException as error:  # noqa: BLE001 (the parent gets every error)
        why = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        trace = "".join(traceback.format_exception(error.__cause__ or error))
        with suppress(OSError):
            os.write(tell, json.dumps([why, trace[-8000:]]).encode())
    finally:
        os._exit(0)


def _shared(array: np.ndarray) -> np.ndarray:
    """Returns a copy in memory that this process shares with processes that it forks later."""
    memory = mmap.mmap(-1, max(array.nbytes, 1))
    shared = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
    shared[...] = array
    return shared
