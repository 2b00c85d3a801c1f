"""A process of its own that steps an environment: its parent answers to signals, and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

_PARENTS_TIME_S = 5.0


def ignore_signals() -> None:
    """Signals to the whole group (Ctrl-C, a batch system's) are for the parent, which needs its environments to answer.

    SIGTERM, by which the parent itself ends such a process, is obeyed once the parent has had its time.
    """
    with contextlib.suppress(ValueError):  # not in the main thread: nothing was inherited
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: _later(128 + number))


def _later(code: int) -> None:
    timer = threading.Timer(_PARENTS_TIME_S, os._exit, [code])
    timer.daemon = True
    timer.start()
