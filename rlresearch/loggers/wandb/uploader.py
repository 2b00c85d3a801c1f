"""`python -m rlresearch.loggers.wandb.uploader`: sends runs to W&B while they are trained, from a process of its own.

Its first line of standard input says what to mirror; when that input ends, so has the run, however it did. What there
is to tell a person goes to standard output, a line of JSON each. It reads files, so a server that is slow, or gone, or
answers nonsense costs training nothing; rows wait in the files until it is back, or for `rlresearch-review sync`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlresearch import remove_lazy_module
from rlresearch.errors import RunError, one_line
from rlresearch.loggers.tail import RowFollower
from rlresearch.loggers.wandb import client
from rlresearch.loggers.wandb.client import Connection, confirmed
from rlresearch.loggers.wandb.settings import WandbSettings, sync_command
from rlresearch.storage import redaction

POLL_S = 1.0
RETRY_S = 30.0  # after a server did not answer
_BEHIND = 5  # how much lower its priority is than training's

Tell = Callable[..., None]


def main() -> int:
    """Mirrors until the input ends, and at most `exit_wait_s` longer."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # they are for the run, whose end is heard of
    os.nice(_BEHIND)
    remove_lazy_module("tensorflow")
    asked = json.loads(sys.stdin.readline())
    settings = WandbSettings(**asked["settings"] | {"tags": tuple(asked["settings"]["tags"])})
    ended = threading.Event()
    threading.Thread(target=_listen, args=[ended, settings.exit_wait_s], daemon=True).start()
    client.prepare()
    mirror([Path(run) for run in asked["runs"]], settings, ended, _tell)
    os._exit(0)  # what W&B's library would still wait for at exit is sent, or will be by `sync`


def mirror(runs: Sequence[Path], settings: WandbSettings, ended: threading.Event, tell: Tell) -> None:
    """Sends what comes until `ended`, then the rest. tell(kind, **about) says what a person should know."""
    members = [_Member(run, settings) for run in runs]
    server = _Server(tell, members)
    while not ended.wait(POLL_S):
        for member in members:
            if ended.is_set():
                break
            server.tries(member.go_on)
    end = time.monotonic() + settings.exit_wait_s
    server.last_chance()
    for member in members:
        # A run that goes on may find the process beside its earlier part still at work.
        while server.tries(partial(member.end, end)) == "busy" and time.monotonic() < end:
            time.sleep(POLL_S)
    if not all(member.complete for member in members):
        server.lacks_rows()


class _Member:
    """One run directory on its way."""

    def __init__(self, path: Path, settings: WandbSettings) -> None:
        self.path, self._settings = path, settings
        self._connection: Connection | None = None
        self._following = RowFollower(path)
        self.complete = False

    def go_on(self) -> str | None:
        """Sends what is new. Returns the run's page where it has just been opened."""
        opened = self._connection is None
        connection = self._connected()
        connection.send(self._following.so_far())
        return connection.page if opened else None

    def end(self, until: float) -> str | None:
        """Sends the rest, waits for it, and makes sure that the server has it."""
        connection = self._connected()
        connection.send_last(self._following.rest(), RowFollower(self.path).rest())
        connection.finish()
        self._connection, page = None, connection.page
        self.complete = not connection.online or confirmed(self.path, self._settings, connection.last, until)
        connection.mark(self.complete)
        return page

    def lose(self) -> None:
        """The connection is no more."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._following = RowFollower(self.path)
            self._connection = Connection(self.path, self._settings, self._settings.exit_wait_s)
        return self._connection


class _Server:
    """Whether W&B answers, and what was said about that."""

    def __init__(self, tell: Tell, members: Sequence[_Member]) -> None:
        self._tell, self._members = tell, members
        self._not_before = 0.0
        self._page: str | None = None
        self._said_gone = False

    def last_chance(self) -> None:
        """The next try does not wait for its time."""
        self._not_before = 0.0

    def tries(self, send: Callable[[], str | None]) -> str:
        """Calls `send`, unless the server failed a moment ago. Returns sent, gone, or busy where another mirrors it."""
        if time.monotonic() < self._not_before:
            return "gone"
        try:
            page = send()
        except client.Busy:
            return "busy"
        except Exception as error:  # noqa: BLE001 (whatever W&B's library does, it is no reason to stop)
            self._not_before = time.monotonic() + RETRY_S
            if not isinstance(error, client.NoAnswer):
                self.forget()
            if not self._said_gone:
                name = "" if isinstance(error, RunError) else f"{type(error).__name__}: "
                why = redaction.text(f"{name}{error}")
                self._tell("gone", why=one_line(why)[:200], sync=_sync(self._members))
                self._said_gone = True
            return "gone"
        if self._said_gone:
            self._tell("back")
            self._said_gone = False
        if page is not None and self._page is None:
            self._page = page
            self._tell("page", page=page)
        return "sent"

    def forget(self) -> None:
        """Begins anew with W&B's library, for all members."""
        client.forget()
        for member in self._members:
            member.lose()

    def lacks_rows(self) -> None:
        """Says so, where it was not said before."""
        if not self._said_gone:
            self._tell("lacks", sync=_sync(self._members))


def _sync(members: Sequence[_Member]) -> str:
    return sync_command([member.path for member in members])


def _listen(ended: threading.Event, exit_wait_s: float) -> None:
    """Waits for the end of the input, or of the parent, whose children may hold the input open; and then for no longer
    than was agreed.
    """
    parent = os.getppid()
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], POLL_S)[0] and not os.read(sys.stdin.fileno(), 1):
            break
    ended.set()
    time.sleep(exit_wait_s + POLL_S)
    os._exit(1)


def _tell(kind: str, **about: Any) -> None:
    line = json.dumps({"kind": kind} | about) + "\n"
    try:
        assert sys.__stdout__ is not None  # the supervisor started this process with a pipe
        os.write(sys.__stdout__.fileno(), line.encode())
    except OSError:
        pass  # nobody listens any more


if __name__ == "__main__":
    sys.exit(main())
