"""Starts the process that sends a run to W&B, shows its messages, and ends it in time."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import rlresearch
from rlresearch.loggers.wandb.settings import WandbSettings, allowed, sync_command

_log = logging.getLogger("rlresearch.loggers.wandb")
_GONE = "W&B is not there: %s. The run goes on, its rows are in its files; to send them later: %s"
_LACKS = "W&B has not taken every row; to send the rest: %s"


def start_wandb(runs: Sequence[Path], settings: WandbSettings, show: Callable[[str], None]) -> WandbProcess | None:
    """The process that mirrors `runs`, as far as W&B's own switches allow; None where they allow nothing."""
    own, why = allowed(settings)
    if why is not None:
        _log.info("%s", why)
        show(why)
    return None if own is None else WandbProcess(runs, own, show)


class WandbProcess:
    """Sends the run directories `runs` to W&B until `close`. Problems of the process or of W&B are only warnings.

    show: a function that prints a line in the terminal.
    """

    def __init__(self, runs: Sequence[Path], settings: WandbSettings, show: Callable[[str], None]) -> None:
        self._settings, self._show = settings, show
        self._sync = sync_command(runs)
        self._warned = False
        command = [sys.executable, "-m", "rlresearch.loggers.wandb.uploader"]
        self._process: subprocess.Popen | None = None
        try:
            # A new session, so that Ctrl-C and other signals to the run's process group do not reach this process.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,
            )
            assert self._process.stdin is not None and self._process.stdout is not None
            self._listener = threading.Thread(target=self._listen, args=[self._process.stdout], daemon=True)
            self._listener.start()
            order = {"runs": [str(run.absolute()) for run in runs], "settings": asdict(settings)}
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            self._warn(_GONE, error.strerror or error, self._sync)

    def close(self) -> None:
        """Waits at most `exit_wait_s` seconds until all rows are sent; a second call does nothing."""
        ending, self._process = self._process, None
        if ending is None:
            return
        assert ending.stdin is not None and ending.stdout is not None
        early = ending.poll() is not None  # nobody had told it to end
        with contextlib.suppress(OSError):
            ending.stdin.close()
        try:
            ending.wait(self._settings.exit_wait_s)
        except subprocess.TimeoutExpired:
            self._warn(_LACKS, self._sync)
        finally:  # also when Ctrl-C interrupts the wait
            with contextlib.suppress(OSError):
                os.killpg(ending.pid, signal.SIGKILL)
            ending.wait()
        self._listener.join(1.0)
        if not self._listener.is_alive():
            ending.stdout.close()
        if early or ending.returncode not in (0, -signal.SIGKILL):
            self._warn(_GONE, f"its process ended with code {ending.returncode}", self._sync)

    def _listen(self, told: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in told:
                self._hear(json.loads(line))

    def _hear(self, told: dict) -> None:
        kind = told.get("kind")
        if kind == "gone":
            self._warn(_GONE, told["why"], told["sync"])
        elif kind == "lacks":
            self._warn(_LACKS, told["sync"])
        elif kind == "back":
            self._warned = False
            _log.info("W&B answers again")
        elif kind == "page":
            _log.info("W&B: %s", told["page"])
            self._show(f"W&B: {told['page']}")

    def _warn(self, message: str, *about: object) -> None:
        """Logs a warning, unless there was one since W&B last answered."""
        if not self._warned:
            self._warned = True
            _log.warning(message, *about)


def _environment() -> dict[str, str]:
    """Returns an environment in which Python finds this package, also from a checkout that is not installed."""
    own = str(Path(rlresearch.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])}
