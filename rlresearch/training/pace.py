"""How many iterations a compiled call has: about a second's worth."""

from __future__ import annotations

import time

_FIRST_CALL, _GROWTH = 10, 8  # iterations of the first call after the one that compiles; how fast calls grow


class Pace:
    """How fast training is going, evaluation and the first call's compilation apart."""

    def __init__(self, transitions: int) -> None:
        self._transitions = transitions  # of one iteration, all members together
        self._recent = 0.0  # iterations per second
        self._longest = _FIRST_CALL
        self._iterations, self._seconds = 0, 0.0
        self._since = time.perf_counter()
        self._compiled = False

    def took(self, iterations: int) -> None:
        """Notes a call that has just ended."""
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
        """What passed since the last call was no training."""
        self._since = time.perf_counter()

    def iterations(self, seconds: float) -> int:
        """About how many take that long; 1 for the first call, which compiles.

        Never many more than in the call before: a second of what went fast may be minutes of what follows.
        """
        if not self._compiled:
            return 1
        wanted = max(int(self._recent * seconds), 1) if self._recent else _FIRST_CALL
        return min(wanted, self._longest)

    def reset(self) -> None:
        """What follows is of another kind: short calls at first."""
        self._longest = _FIRST_CALL

    def speed(self) -> float:
        """Transitions per second since the last time it was asked, all members together."""
        speed = self._iterations * self._transitions / self._seconds if self._seconds else float("nan")
        self._iterations, self._seconds = 0, 0.0
        return speed
