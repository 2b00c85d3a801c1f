"""Signals: SIGTERM, Ctrl-C and SIGUSR1 (which batch systems send before they kill) end a run in good order.

The first signal is a request. The training loop answers it between two calls of compiled code: it saves a checkpoint
of the exact step and ends. In three cases the process ends at once: before training (TensorFlow is loading, or the
first program is compiling), when the loop does not answer, and at a second signal.

Python calls signal handlers between two of its own instructions, and a compiled call may delay that for long. So the
handlers do nothing; the numbers of signals arrive in a pipe, and a thread reads them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
PATIENCE_S = 30.0  # after this time the process ends, although a call or an environment's step has not
_LAST_WORDS_S = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop, and its state can be saved now. name: SIGTERM, ... exit_code: 128 + its number.

    step: the transitions of the run so far. run_directory, sweep_directory: the directories that can be resumed.
    """

    def __init__(self, number: int) -> None:
        self.name = signal.Signals(number).name
        self.exit_code = 128 + number
        self.step = 0
        self.run_directory: Path | None = None
        self.sweep_directory: Path | None = None
        super().__init__(self.name)


class SignalHandler:
    """Receives signals while the context is entered. Python allows this only in the main thread.

    Signals that the process was started to ignore stay ignored; a shell does this with Ctrl-C for background jobs.

    at_once: called before the process ends without an answer; it has about a second.
    """

    def __init__(self, at_once: Callable[[Interrupted], None] = lambda _: None) -> None:
        self._at_once = at_once
        self._first: int | None = None
        self._something_to_lose = False
        self._answered = threading.Event()
        self._before: dict[int, Any] = {}
        self._listener: threading.Thread | None = None

    def check(self) -> None:
        """Raises Interrupted if a signal came. After the first call of `check`, a signal waits for the next one."""
        self._something_to_lose = True
        if self._first is not None:
            self._answered.set()
            raise Interrupted(self._first)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            self._theirs, self._wakeup = theirs, signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, lambda *_: None) for number in heard}
            self._listener = threading.Thread(target=self._listen, name="signals", daemon=True)
            self._listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            for number, handler in self._before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(self._wakeup)
            self._theirs.close()  # the thread reads the end of the pipe and ends
            self._listener.join()  # so that `check` knows of every signal that came
            self._listener = None

    def _listen(self) -> None:
        for number in self._numbers():
            if self._first is None and self._something_to_lose:
                self._first = number
                threading.Thread(target=self._wait, args=[number], daemon=True).start()
            else:
                self._leave(self._first or number)
        self._ours.close()

    def _numbers(self) -> Iterator[int]:
        while received := self._ours.recv(1):
            if received[0] in SIGNALS:
                yield received[0]

    def _wait(self, number: int) -> None:
        if not self._answered.wait(PATIENCE_S):
            self._leave(number)

    def _leave(self, number: int) -> None:
        interrupted = Interrupted(number)
        words = threading.Thread(target=self._at_once, args=[interrupted], daemon=True)
        words.start()
        words.join(_LAST_WORDS_S)
        for child in multiprocessing.active_children():
            child.kill()
        os._exit(interrupted.exit_code)
