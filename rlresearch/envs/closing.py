"""Closing environments: one that raises then, or does not come back, costs a warning and a few seconds."""

from __future__ import annotations

import logging
import signal
import threading

import gymnasium as gym

from rlresearch.errors import describe_error
from rlresearch.runtime import heartbeat

CLOSING_S = 5.0  # seconds that an environment may take to close, or all processes that step environments together

_log = logging.getLogger("rlresearch")


class _TooLongError(BaseException):
    """Not an Exception: an environment that catches those would go on waiting."""


def closing_fault(env: gym.Env) -> str | None:
    """Closes an environment, in CLOSING_S seconds at most; returns what went wrong, None where nothing did.

    What it waits for is interrupted by a signal. Python hears those in its main thread alone; in others nothing does.
    """

    inside = True

    def interrupt(*_: object) -> None:
        if inside:
            raise _TooLongError

    heard = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    before = signal.signal(signal.SIGALRM, interrupt) if heard else None
    # Again and again: the first may come where what it raises is lost, as in a destructor.
    timer = signal.setitimer(signal.ITIMER_REAL, CLOSING_S, CLOSING_S) if heard else None
    try:
        env.close()
        inside = False
    except _TooLongError:
        return f"did not come back within {CLOSING_S:g} s"
    except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever an environment does at its end)
        return f"raised {describe_error(error)}"
    finally:
        inside = False
        if timer is not None:
            signal.setitimer(signal.ITIMER_REAL, *timer)  # somebody else's, where there was one
            signal.signal(signal.SIGALRM, before)
    return None


def close(env: gym.Env, name: str) -> None:
    """Closes an environment; a warning names it where that fails."""
    with heartbeat.waiting(step=heartbeat.CLOSING):
        fault = closing_fault(env)
    if fault is not None:
        _log.warning("environment '%s' %s when it was closed", name, fault)
