"""Which environment this process is in right now: `watchdog` reads it from outside and sees whether that one returns.

A few numbers in memory that another process reads: writing them takes less than a microsecond, and costs nothing where
nobody watches. Whatever an environment does, hang in a library without letting Python go on included, cannot stop that
other process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

# Where what stands: times begun and ended; 1 inside; steps of the episode; its seed; steps of the run; 1 where who
# watches has given it up; numbers in the action.
COUNT, INSIDE, STEP, SEED, TOTAL, GIVEN_UP, WIDTH, ACTION = range(8)
MAKING, CLOSING = -3, -2  # in the place of a step: the environment is being made, or closed
LONGEST_ACTION = 56
NUMBERS = ACTION + LONGEST_ACTION  # float64

_told: np.ndarray | None = None
_owner = 0


def tell(numbers: np.ndarray | None) -> None:
    """From now on this process, and none that it forks, writes into float64[NUMBERS]; None: nobody watches."""
    global _told, _owner
    _told, _owner = numbers, os.getpid()


def total(step: int) -> None:
    """How many transitions the run has behind it."""
    if _told is not None:
        _told[TOTAL] = step


@contextlib.contextmanager
def waiting(seed: int = -1, step: int = -1, action: Any = ()) -> Iterator[None]:
    """While an environment is waited for that others step (`CheckedEnv` tells of its own, for less)."""
    enter(seed, step, action)
    try:
        yield
    finally:
        leave()


def enter(seed: int, step: int, action: Any) -> None:
    """An environment is called. seed: of its episode; step: in it; action: in its own units; -1 and () for unknown."""
    if _told is None or os.getpid() != _owner:
        return
    flat = np.ravel(action)[:LONGEST_ACTION]
    _told[STEP], _told[SEED], _told[WIDTH] = step, seed, len(flat)
    _told[ACTION : ACTION + len(flat)] = flat
    _told[COUNT] += 1
    _told[INSIDE] = 1


def leave() -> None:
    """It has come back, or raised. What does so too late, woken by the signal that asks where it is, stays here."""
    if _told is not None and os.getpid() == _owner:
        while _told[GIVEN_UP]:
            time.sleep(1.0)  # for the end of this process
        _told[INSIDE] = 0
        _told[COUNT] += 1
