"""Chooses the number of iterations of a compiled call, so that it takes about a second."""

from __future__ import annotations

import time

_FIRST_CALL, _GROWTH = 10, 8  # iterations of the first call after the one that compiles; how fast calls grow


class Pace:
    """Measures the speed of training, without evaluations and without the first call, which compiles."""

    def __init__(self, transitions: int) -> None:
        self._transitions = transitions  # of one iteration, all members together
        self._recent = 0.0  # iterations per second
        self._longest = _FIRST_CALL
        self._iterations, self._seconds = 0, 0.0
        self._since = time.perf_counter()
        self._compiled = False

    def took(self, iterations: int) -> None:
        """Records a call of `iterations` iterations that has just ended."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        if not self._compiled:
            self._compiled = True
            return
        self._recent = iterations / max(seconds, 1e-6)
        self._longest = max(self._longest, _GROWTH * iterations)
        self._iterations += iterations
        self._seconds += seconds

    def pause(self) -> None:
        """Excludes the time since the last call, which was not training."""
        self._since = time.perf_counter()

    def iterations(self, seconds: float) -> int:
        """Returns about how many iterations take this many seconds; 1 for the first call, which compiles.

        The number grows slowly from call to call, because later iterations may be much slower than earlier ones.
        """
        if not self._compiled:
            return 1
        wanted = max(int(self._recent * seconds), 1) if self._recent else _FIRST_CALL
        return min(wanted, self._longest)

    def reset(self) -> None:
        """Starts again with short calls, because the next iterations do other work."""
        self._longest = _FIRST_CALL

    def speed(self) -> float:
        """Returns the transitions per second of all members together, since the last call of this method."""
        speed = self._iterations * self._transitions / self._seconds if self._seconds else float("nan")
        self._iterations, self._seconds = 0, 0.0
        return speed
