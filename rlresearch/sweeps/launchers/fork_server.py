"""A small server that starts a process for each job by forking itself.

A fork takes half a second, because TensorFlow is already loaded; a new Python takes ten seconds. The server itself
computes nothing, so no thread of TensorFlow runs when it forks.

Controller and server exchange JSON lines over a socket. If one process dies, the others end too. The server ends when
the controller's side of the socket closes, and kills the process group of every job. The kernel kills each job when
the server dies.

    {"start": 7, "jobs": [...], "environment": {...}, "log": "..."}     to the server: start job 7
    {"signal": 15, "to": 7}                                             to the server: signal job 7's process group
    {"started": 7, "pid": 4711}   {"exited": 7, "code": -11}            from the server; a negative code is a signal
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rlresearch.errors import RunError

PRELOADED: tuple[str, ...] = ("tensorflow", "keras", "gymnasium", "safetensors.numpy", "omegaconf")
PRELOADED += ("rlresearch.training.loop",)
PRELOADED += ("rlresearch.training.checkpointing", "rlresearch.runners.device", "rlresearch.runners.host")
_PR_SET_PDEATHSIG = 1
_CODES = {"finished": 0, "failed": 1}
COULD_NOT_WRITE = 74  # sysexits.h, EX_IOERR


class Server:
    """The controller's side of the server. preload: whether the server loads TensorFlow before it forks.

    Errors: RunError from `send` and `messages`, where the server has died.
    """

    def __init__(self, preload: bool) -> None:
        ours, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-m",
            "rlresearch.sweeps.launchers.fork_server",
            "serve",
            str(theirs.fileno()),
            str(int(preload)),
        ]
        places = [str(Path(__file__).parents[3]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        self._socket, self._rest = ours, b""

    def send(self, **message: Any) -> None:
        """Sends one message to the server."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise RunError("the process that starts jobs has died") from error

    def messages(self, wait_s: float) -> list[dict[str, Any]]:
        """Returns the server's new messages; waits at most `wait_s` seconds for the first."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return []
        received = self._socket.recv(1 << 16)
        if not received:
            raise RunError("the process that starts jobs has died")
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Ends the server and every job that it started."""
        self._socket.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(number: int, preload: bool) -> None:
    """Runs the server until the controller closes the socket. number: the file number of the socket."""
    die_with_parent(signal.SIGTERM)
    if preload:
        _preload()
    connection = socket.socket(fileno=number)
    woken, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    for each in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    running: dict[int, int] = {}  # process id by the number in "start"
    try:
        for signals, messages in _heard(connection, woken):
            if signals & {signal.SIGTERM, signal.SIGINT}:
                return
            for message in messages:
                if "start" in message:
                    pid = _fork(message, preload, [connection, woken, wakes])
                    running[message["start"]] = pid
                    _tell(connection, started=message["start"], pid=pid)
                elif message["to"] in running:
                    _signal_group(running[message["to"]], message["signal"])
            _reap(connection, running)
    except (OSError, ValueError):
        pass  # the controller has ended
    finally:
        for pid in running.values():
            _signal_group(pid, signal.SIGKILL)


def _heard(connection: socket.socket, woken: socket.socket) -> Iterator[tuple[set[int], list[dict]]]:
    """Yields signals and messages as they arrive, until the controller closes the socket."""
    rest = b""
    while True:
        ready = select.select([connection, woken], [], [])[0]
        signals = set(woken.recv(256)) if woken in ready else set()
        lines = []
        if connection in ready:
            received = connection.recv(1 << 16)
            if not received:
                return
            *lines, rest = (rest + received).split(b"\n")
        yield signals, [json.loads(line) for line in lines]


def _reap(connection: socket.socket, running: dict[int, int]) -> None:
    """Reports the processes that have ended, and kills what is left of their process groups."""
    for name, pid in list(running.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            _signal_group(pid, signal.SIGKILL)
            del running[name]
            _tell(connection, exited=name, code=os.waitstatus_to_exitcode(status))


def _tell(connection: socket.socket, **message: Any) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _signal_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _preload() -> None:
    """Imports every module that a job needs, but computes nothing: TensorFlow's threads would not survive a fork."""
    from rlresearch.runtime.devices import with_own_flags, without_noise

    os.environ["XLA_FLAGS"] = with_own_flags(os.environ.get("XLA_FLAGS", ""))
    with without_noise():
        for name in PRELOADED:
            importlib.import_module(name)
        import tensorflow as tf

        tf.Variable  # noqa: B018 (the package loads TensorFlow when it is first used)


def _fork(message: Mapping[str, Any], preloaded: bool, sockets: Sequence[socket.socket]) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # parent and child both set it, so that the group exists before any signal
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setpgid(0, 0)
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(code)
        for each in sockets:
            each.close()
        os.environ |= message["environment"]
        _print_to(message["log"])
        if preloaded:
            code = run_job(message)
        else:
            _exec(message)
    except BaseException as error:  # noqa: BLE001 (the child must never return into the server's loop)
        code = COULD_NOT_WRITE if isinstance(error, OSError | RunError) else code
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _exec(message: Mapping[str, Any]) -> NoReturn:
    """Replaces this process by a new Python program that runs the jobs of `message`."""
    file = os.memfd_create("job", 0)
    os.write(file, json.dumps(message).encode())
    os.lseek(file, 0, os.SEEK_SET)
    os.set_inheritable(file, True)
    os.execv(sys.executable, [sys.executable, "-m", "rlresearch.sweeps.launchers.fork_server", "job", str(file)])


def _print_to(log: str) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(file, number)
    os.close(file)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc]  # not to the terminal of the server
    faulthandler.enable(sys.stderr)


def run_job(message: Mapping[str, Any]) -> int:
    """Runs the jobs of a message in this process. Returns the exit code."""
    from rlresearch.sweeps.attempt import AttemptTask, attempt
    from rlresearch.sweeps.ledger import Ledger

    tasks = [AttemptTask(**task) for task in message["jobs"]]
    book = Ledger(Path(tasks[0].sweep))
    try:
        outcomes = attempt(tasks, book)
        return max(_CODES.get(outcome.status, 1) for outcome in outcomes)
    except KeyboardInterrupt as interrupted:
        return getattr(interrupted, "exit_code", 130)
    finally:
        book.close()


def die_with_parent(number: int) -> None:
    """Asks the kernel to send this process signal `number` when its parent thread ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3] == "1")
    else:
        faulthandler.enable()
        with os.fdopen(int(sys.argv[2])) as given:
            sys.exit(run_job(json.load(given)))
