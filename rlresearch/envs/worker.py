"""Signals in a process that steps environments: only its parent handles them, and ends the process."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

_PARENTS_TIME_S = 5.0


def ignore_signals() -> None:
    """Ignores signals to the whole process group (Ctrl-C, a batch system's).

    The parent handles them, and needs its environments until it has saved. SIGTERM, which the parent itself may send,
    ends this process after 5 s.
    """
    with contextlib.suppress(ValueError):  # outside the main thread there are no handlers to replace
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: _later(128 + number))


def _later(code: int) -> None:
    timer = threading.Timer(_PARENTS_TIME_S, os._exit, [code])
    timer.daemon = True
    timer.start()
