"""`python -m rlresearch.loggers.wandb.uploader`: sends runs to W&B during training, in a separate process.

The first line of standard input says which runs to send. The end of standard input means that the run has ended, also
after a crash. Messages for the user go to standard output, one line of JSON each. The process reads the rows from
files, so a slow or broken server does not slow training. Unsent rows stay in the files until the server answers again,
or until the user runs `rlresearch-review sync`.
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
RETRY_S = 30.0  # the wait after a server did not answer
_BEHIND = 5  # added to the nice value, so that training has priority

Tell = Callable[..., None]


def main() -> int:
    """Sends rows until standard input ends, and then for at most `exit_wait_s` seconds."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # signals are for the run; its end closes the input of this process
    os.nice(_BEHIND)
    remove_lazy_module("tensorflow")
    asked = json.loads(sys.stdin.readline())
    settings = WandbSettings(**asked["settings"] | {"tags": tuple(asked["settings"]["tags"])})
    ended = threading.Event()
    threading.Thread(target=_listen, args=[ended, settings.exit_wait_s], daemon=True).start()
    client.prepare()
    mirror([Path(run) for run in asked["runs"]], settings, ended, _tell)
    os._exit(0)  # skips the wait of W&B's library at exit: all rows are sent, or `sync` will send them


def mirror(runs: Sequence[Path], settings: WandbSettings, ended: threading.Event, tell: Tell) -> None:
    """Sends new rows until `ended` is set, then the remaining rows. tell(kind, **about): a function for messages."""
    members = [_Member(run, settings) for run in runs]
    server = _Server(tell, members)
    while not ended.wait(POLL_S):
        for member in members:
            if ended.is_set():
                break
            server.tries(member.send_new)
    end = time.monotonic() + settings.exit_wait_s
    server.last_chance()
    for member in members:
        # After a resume, the process that was started before the interruption may still be sending rows.
        while server.tries(partial(member.end, end)) == "busy" and time.monotonic() < end:
            time.sleep(POLL_S)
    if not all(member.complete for member in members):
        server.lacks_rows()


class _Member:
    """One run directory, its connection to W&B, and the rows that are not sent yet."""

    def __init__(self, path: Path, settings: WandbSettings) -> None:
        self.path, self._settings = path, settings
        self._connection: Connection | None = None
        self._following = RowFollower(path)
        self.complete = False

    def send_new(self) -> str | None:
        """Sends the new rows. Returns the URL of the run's page where this call opened the connection, else None."""
        opened = self._connection is None
        connection = self._connected()
        connection.send(self._following.so_far())
        return connection.page if opened else None

    def end(self, until: float) -> str | None:
        """Sends the remaining rows, waits for them, and asks the server whether they have arrived. Returns the URL."""
        connection = self._connected()
        connection.send_last(self._following.rest(), RowFollower(self.path).rest())
        connection.finish()
        self._connection, page = None, connection.page
        self.complete = not connection.online or confirmed(self.path, self._settings, connection.last, until)
        connection.mark(self.complete)
        return page

    def lose(self) -> None:
        """Forgets the connection and releases its lock, after W&B's library was shut down."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._following = RowFollower(self.path)
            self._connection = Connection(self.path, self._settings, self._settings.exit_wait_s)
        return self._connection


class _Server:
    """Remembers whether W&B answers, and which messages the user has got about that."""

    def __init__(self, tell: Tell, members: Sequence[_Member]) -> None:
        self._tell, self._members = tell, members
        self._not_before = 0.0
        self._page: str | None = None
        self._said_gone = False

    def last_chance(self) -> None:
        """Allows the next try at once, without the wait after a failure."""
        self._not_before = 0.0

    def tries(self, send: Callable[[], str | None]) -> str:
        """Calls `send`, unless the server failed less than RETRY_S ago.

        Returns "sent", "gone" (no answer), or "busy" (another process is sending this run).
        """
        if time.monotonic() < self._not_before:
            return "gone"
        try:
            page = send()
        except client.Busy:
            return "busy"
        except Exception as error:  # noqa: BLE001 (an error of W&B's library is no reason to stop)
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
        """Shuts down W&B's library and forgets the connections of all members; later calls open new ones."""
        client.forget()
        for member in self._members:
            member.lose()

    def lacks_rows(self) -> None:
        """Tells the user that W&B lacks rows, unless a message already said that W&B does not answer."""
        if not self._said_gone:
            self._tell("lacks", sync=_sync(self._members))


def _sync(members: Sequence[_Member]) -> str:
    return sync_command([member.path for member in members])


def _listen(ended: threading.Event, exit_wait_s: float) -> None:
    """Waits for the end of standard input or of the parent process, then ends this process after `exit_wait_s`.

    Other children of the parent may keep the input open, so its end alone is not enough.
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
        pass  # the reader has gone


if __name__ == "__main__":
    sys.exit(main())
