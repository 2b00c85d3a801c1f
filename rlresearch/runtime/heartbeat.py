"""The heartbeat says which environment call this process is in; `watchdog` reads it from another process.

The heartbeat is a few numbers in shared memory. Writing them takes less than a microsecond, and nothing is written
without a watchdog. An environment may hang in a library and block Python, but it cannot stop the other process.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

# Indices: calls begun and ended; 1 inside a call; step of the episode; its seed; steps of the run; 1 once the watchdog
# ends the run; numbers in the action; the first of these numbers.
COUNT, INSIDE, STEP, SEED, TOTAL, GIVEN_UP, WIDTH, ACTION = range(8)
MAKING, CLOSING = -3, -2  # in the place of a step: the environment is being made, or closed
LONGEST_ACTION = 56
NUMBERS = ACTION + LONGEST_ACTION  # float64

_told: np.ndarray | None = None
_owner = 0


def tell(numbers: np.ndarray | None) -> None:
    """Sets the shared array float64[NUMBERS] for this process, not for its forks; None where there is no watchdog."""
    global _told, _owner
    _told, _owner = numbers, os.getpid()


def total(step: int) -> None:
    """Records the number of transitions of the run so far."""
    if _told is not None:
        _told[TOTAL] = step


@contextlib.contextmanager
def waiting(seed: int = -1, step: int = -1, action: Any = ()) -> Iterator[None]:
    """Marks the time in which this process waits for environments of other processes."""
    enter(seed, step, action)
    try:
        yield
    finally:
        leave()


def enter(seed: int, step: int, action: Any) -> None:
    """Records a call of an environment. seed: of the episode. step: in the episode. action: in the environment's units.
    -1 and () mean unknown.
    """
    if _told is None or os.getpid() != _owner:
        return
    flat = np.ravel(action)[:LONGEST_ACTION]
    _told[STEP], _told[SEED], _told[WIDTH] = step, seed, len(flat)
    _told[ACTION : ACTION + len(flat)] = flat
    _told[COUNT] += 1
    _told[INSIDE] = 1


def leave() -> None:
    """Records that the environment has returned or raised. After a timeout, waits until the process is killed."""
    if _told is not None and os.getpid() == _owner:
        while _told[GIVEN_UP]:
            time.sleep(1.0)  # the watchdog is about to kill this process
        _told[INSIDE] = 0
        _told[COUNT] += 1
