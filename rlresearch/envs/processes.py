"""Copies of an environment, each stepped in a process of its own.

What crosses between processes are our own numbers and words, whatever an environment returns or raises: observations
through shared memory, rewards and flags through a pipe, an error as text. A process that is late, stopped or dead is
found by its parent, which never waits without looking, and closing ends it at last by force.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import select
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import numpy as np

from rlresearch.envs.actions import units_of
from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.closing import CLOSING_S, closing_fault
from rlresearch.envs.episode_log import EpisodeLog
from rlresearch.envs.task import Task
from rlresearch.envs.vector import Maker, Steps
from rlresearch.envs.worker import ignore_signals
from rlresearch.errors import ConfigError, RunError, describe_error
from rlresearch.runtime import watchdog

TICK_S = 0.25  # how often a process that is waited for is looked at
_DUMPED_S = 0.4  # that writing down where a process hangs may take
_log = logging.getLogger("rlresearch")


class Answer(NamedTuple):
    """What a process says. kind: `done`, `going` (in the midst of a long replay), or how it failed: `run`, `config`."""

    kind: str
    content: object = None
    trace: str = ""


class _Doing(NamedTuple):
    """What a copy was last asked to do, for messages."""

    seed: int | None = None
    step: int = -1
    action: np.ndarray | None = None


class ProcessEnvs:
    """`makers[i]()` is stepped by process i. See `VectorEnv`.

    timeout_s: what one call may take, also the making of an environment, None for however long; it counts the ticks of
    this process, so that a run that was stopped for a while is not overdue.
    """

    def __init__(self, task: Task, makers: Sequence[Maker], timeout_s: float | None) -> None:
        self._task, self._timeout_s = task, timeout_s
        # A forked process knows what modules of the user's have registered, however this one was started itself.
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
        shape = task.spec.observation_space.shape
        memory = context.RawArray(ctypes.c_float, max(1, len(makers) * int(np.prod(shape))))
        self._obs = _shared(memory, (len(makers), *shape))
        self._doing = [_Doing() for _ in makers]
        self._pipes: list[Connection] = []
        self._waits: list[Callable[[float], list]] = []  # as `Connection.poll`, ten times as fast
        self._processes: list[multiprocessing.process.BaseProcess] = []
        self._broken: set[int] = set()  # late or gone: nobody waits for them again
        try:
            for place, make in enumerate(makers):
                ours, theirs = context.Pipe()
                self._pipes.append(ours)
                self._waits.append(_waiting_for(ours))
                arguments = (make, theirs, memory, (len(makers), *shape), place, os.getpid())
                process = context.Process(target=_main, args=arguments, daemon=True, name=f"environment {place}")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # of threads, of which the child needs none
                    process.start()
                self._processes.append(process)
                theirs.close()
            self._answers(range(len(makers)))
        except BaseException:
            self.close()
            raise

    def reset(self, seeds: Sequence[int | None], which: np.ndarray) -> np.ndarray:
        """Observations float32[N, ...] of all, once those of `which`, bool[N], are reset. seeds: of each, or None."""
        places = np.flatnonzero(which).tolist()
        for place in places:
            self._ask(place, _Doing(seeds[place], 0), "reset", seeds[place])
        self._answers(places)
        return self._obs.copy()

    def step(self, actions: np.ndarray) -> Steps:
        """(observations float32[N, ...], reward float32[N], terminated, truncated bool[N]). actions: [N, A] or [N]."""
        for place, action in enumerate(actions):
            seed, step, _ = self._doing[place]
            self._ask(place, _Doing(seed, step + 1, action), "step", action)
        reward, terminated, truncated = zip(*self._answers(range(len(actions))), strict=True)
        return self._obs.copy(), np.array(reward, np.float32), np.array(terminated), np.array(truncated)

    def replay(self, parts: Sequence[tuple[int, np.ndarray]], at_most_s: float | None = None) -> list[EpisodeLog]:
        """As in `VectorEnv`, by actions [T, A] or [T]. at_most_s: seconds for all of it, or None."""
        for place, (seed, actions) in enumerate(parts):
            self._ask(place, _Doing(seed, len(actions)), "replay", (seed, actions))
        return self._answers(range(len(parts)), at_most_s)

    def close(self) -> None:
        """Has all processes close their environments and end; those that do not are ended by force."""
        (pipes, self._pipes), (processes, self._processes) = (self._pipes, []), (self._processes, [])
        for place, pipe in enumerate(pipes):
            with contextlib.suppress(OSError):
                if place not in self._broken:
                    pipe.send(("close", None))
        left = CLOSING_S
        for place, process in enumerate(processes):
            while place not in self._broken and left > 0 and process.is_alive():
                process.join(TICK_S)
                left -= TICK_S if process.is_alive() else 0.0
            fault = f"did not come back within {CLOSING_S:g} s" if process.is_alive() else _last_words(pipes[place])
            if process.is_alive():
                process.kill()
                process.join(1.0)
            if fault and place not in self._broken:
                _log.warning("environment '%s' %s when it was closed (copy %s)", self._task.id, fault, place)
        for pipe in pipes:
            pipe.close()

    def _ask(self, place: int, doing: _Doing, what: str, argument: object) -> None:
        self._doing[place] = doing
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # who waits for the answer says why
            self._pipes[place].send((what, argument))

    def _answers(self, places: Sequence[int], at_most_s: float | None = None) -> list:
        """What some copies answer, in order. RunError, or ConfigError where one cannot be made."""
        found, waited, silent = [], 0.0, 0.0
        for place in places:
            answer = Answer("going")
            while answer.kind == "going":
                if self._waits[place](1000 * TICK_S):
                    answer = self._received(place)
                    silent = 0.0 if answer.kind == "going" else silent
                    continue
                waited, silent = waited + TICK_S, silent + TICK_S
                for limit, passed in ((at_most_s, waited), (self._timeout_s, silent)):
                    if limit is not None and passed >= limit:
                        raise self._late(place, limit)
            if answer.kind != "done":
                error = ConfigError if answer.kind == "config" else RunError
                raise error(str(answer.content)) from RuntimeError(f"in a process of its own\n{answer.trace}")
            found.append(answer.content)
        return found

    def _received(self, place: int) -> Answer:
        try:
            return self._pipes[place].recv()
        except (EOFError, OSError):
            self._broken.add(place)
            process = self._processes[place]
            process.join(1.0)
            how = f" (exit code {process.exitcode})" if process.exitcode is not None else ""
            why = f"the process that steps copy {place} is gone{how}; was it killed, for want of memory?"
            raise RunError(f"environment '{self._task.id}': {why} It was at {self._at(place)}") from None

    def _late(self, place: int, limit: float) -> RunError:
        """The error of a copy that does not come back; log.txt then says where it hangs."""
        self._broken.add(place)
        pid = self._processes[place].pid
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, watchdog.DUMP)
            time.sleep(_DUMPED_S)
        return RunError(
            f"environment '{self._task.id}': copy {place} did not come back within {limit:g} s from {self._at(place)}"
        )

    def _at(self, place: int) -> str:
        seed, step, action = self._doing[place]
        if step < 0:
            return "being made"
        where = f"step {step} of its episode" if step else "reset"
        known = [f"episode seed {seed}"] if seed is not None else []
        if action is not None:
            own = np.asarray(units_of(self._task.spaces[1]).unscale_action(action))
            known.append(f"action {np.array2string(own, threshold=8)}")
        return f"{where} ({', '.join(known)})" if known else where


def _last_words(pipe: Connection) -> str | None:
    """What a process that has ended said of the closing of its environment."""
    with contextlib.suppress(EOFError, OSError):
        while pipe.poll():
            answer = pipe.recv()
            if answer.kind == "closed":
                return answer.content
    return None


def _main(
    make: Maker, pipe: Connection, memory: ctypes.Array[ctypes.c_float], shape: tuple[int, ...], place: int, parent: int
) -> None:
    """The life of a process: it does what it is told, until there is nobody to tell it."""
    ignore_signals()
    logging.getLogger("rlresearch").handlers = [logging.NullHandler()]  # files and terminal are the parent's
    obs = _shared(memory, shape)[place : place + 1]
    env: CheckedEnv | None = None
    try:
        env = make()
        pipe.send(Answer("done"))
        wait = _waiting_for(pipe)
        while (order := _next(pipe, wait, parent)) is not None and order[0] != "close":
            pipe.send(Answer("done", _obeyed(env, obs, pipe, *order)))
    except BaseException as error:  # noqa: BLE001 (the parent hears of whatever it was)
        kind = "config" if isinstance(error, ConfigError) else "run"
        words = str(error) if isinstance(error, ConfigError | RunError) else describe_error(error)
        trace = "".join(traceback.format_exception(error.__cause__ or error))
        with contextlib.suppress(OSError):
            pipe.send(Answer(kind, words, trace[-8000:]))
    with contextlib.suppress(OSError):
        pipe.send(Answer("closed", closing_fault(env.env) if env is not None else None))


def _shared(memory: ctypes.Array[ctypes.c_float], shape: tuple[int, ...]) -> np.ndarray:
    return np.ctypeslib.as_array(memory)[: int(np.prod(shape))].reshape(shape)


def _waiting_for(pipe: Connection) -> Callable[[float], list]:
    """Waits so many milliseconds; an empty list where nothing has come by then."""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return poll.poll


def _next(pipe: Connection, wait: Callable[[float], list], parent: int) -> tuple | None:
    """The next order; None where the parent is gone, whose end of the pipe a process beside this one may keep open."""
    with contextlib.suppress(EOFError, OSError):
        while not wait(1000.0):
            if os.getppid() != parent:
                return None
        return pipe.recv()
    return None


def _obeyed(env: CheckedEnv, obs: np.ndarray, pipe: Connection, what: str, argument: Any) -> object:
    """What is answered to an order. obs: float32[1, ...], where the copy's observation is shared."""
    if what == "reset":
        obs[0] = env.reset(seed=argument)[0]
        return None
    if what == "step":
        obs[0], reward, terminated, truncated, _ = env.step(argument)
        return reward, terminated, truncated
    told = time.monotonic()

    def progress() -> None:
        nonlocal told
        if time.monotonic() - told > 1.0:
            told = time.monotonic()
            pipe.send(Answer("going"))

    seed, actions = argument
    return env.replay(seed, actions, progress)
