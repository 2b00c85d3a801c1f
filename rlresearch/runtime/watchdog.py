"""Ends a run when an environment does not return, and reports the environment, the step and the action.

A separate process watches, because a call into a library may block Python in the run's process for ever. It needs no
package, takes some 10 MB, and ends with the run. It counts its own ticks, not the time of day, so a stopped run or a
sleeping machine causes no timeout.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TICK_S = 0.25
DUMP = signal.SIGUSR2  # by which Python writes down where each thread is, whatever that waits for
_DUMPED_S, _ALL_DUMPED_S = 0.4, 2.0  # for one process, and at most for all: they write into the same file


@contextlib.contextmanager
def watched(timeout_s: float | None, environment: str, runs: Sequence[Path] = ()) -> Iterator[None]:
    """In this context, a call of an environment that takes too long ends this process.

    timeout_s: the longest time of one call, None for no limit. run.json and log.txt of `runs` get the reason. The
    process ends by SIGKILL, after the processes that it forked.
    """
    if timeout_s is None or not hasattr(os, "memfd_create"):
        yield
        return
    import numpy as np

    from rlresearch.runtime import heartbeat

    memory = os.memfd_create("heartbeat")
    os.ftruncate(memory, 8 * heartbeat.NUMBERS)
    block = mmap.mmap(memory, 8 * heartbeat.NUMBERS)
    names = ("COUNT", "INSIDE", "STEP", "SEED", "TOTAL", "GIVEN_UP", "WIDTH", "ACTION")
    places = {name: getattr(heartbeat, name) for name in names}
    told = {"memory": memory, "size": heartbeat.NUMBERS, "places": places, "timeout_s": timeout_s}
    told |= {"parent": os.getpid(), "environment": environment, "runs": [str(run) for run in runs]}
    with contextlib.ExitStack() as left:
        if runs:
            log = left.enter_context(open(Path(runs[0]) / "log.txt", "a", encoding="utf-8"))
            faulthandler.register(DUMP, log, all_threads=True)
            left.callback(faulthandler.unregister, DUMP)
        command = [sys.executable, "-I", "-S", __file__, json.dumps(told)]
        watcher = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[memory], start_new_session=True)
        left.callback(_end, watcher)
        heartbeat.tell(np.frombuffer(block, np.float64))
        left.callback(heartbeat.tell, None)
        left.callback(os.close, memory)
        yield


def _end(watcher: subprocess.Popen) -> None:
    if watcher.stdin is not None:
        watcher.stdin.close()
    try:
        watcher.wait(4 * TICK_S)
    except subprocess.TimeoutExpired:
        watcher.kill()
        watcher.wait()


class _Heartbeat:
    """Reads the heartbeat of the run's process; see `rlresearch.runtime.heartbeat`."""

    def __init__(self, told: dict) -> None:
        self._block = mmap.mmap(told["memory"], 8 * told["size"])
        self._size, self._places = told["size"], told["places"]

    def read(self) -> dict[str, Any]:
        numbers = struct.unpack(f"{self._size}d", self._block[:])
        return {name: numbers[place] for name, place in self._places.items()} | {"numbers": numbers}

    def give_up(self) -> None:
        """Keeps the run's process in `heartbeat.leave`, so that a late answer of the environment has no effect."""
        place = 8 * self._places["GIVEN_UP"]
        self._block[place : place + 8] = struct.pack("d", 1.0)

    def described(self) -> str:
        """Returns the step, seed and action of the environment as text."""
        now = self.read()
        begin = self._places["ACTION"]
        action = [float(f"{each:.6g}") for each in now["numbers"][begin : begin + int(now["WIDTH"])]]
        step, seed = int(now["STEP"]), int(now["SEED"])
        places = {-3: "being made", -2: "being closed", -1: "a step of its copies", 0: "reset"}
        place = places.get(step, f"step {step} of its episode")
        known = [f"seed {seed}"] if seed >= 0 else []
        known += [f"action {action}"] if action else []
        return f"{place}{f' ({chr(44).join(known)})' if known else ''}".replace(",action", ", action")


def main() -> None:
    """Watches until standard input ends, which happens when the run's process ends."""
    told = json.loads(sys.argv[1])
    heartbeat, still, seen = _Heartbeat(told), 0.0, -1.0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # signals are for the run; its end closes standard input
    while os.getppid() == told["parent"]:
        if select.select([0], [], [], TICK_S)[0]:
            return
        now = heartbeat.read()
        inside = now["INSIDE"] == 1 and now["COUNT"] == seen
        still = (still + TICK_S if not _stopped(told["parent"]) else still) if inside else 0.0
        seen = now["COUNT"]
        if still >= told["timeout_s"]:
            _give_up(told, heartbeat)
            return


def _stopped(process: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    return False


def _give_up(told: dict, heartbeat: _Heartbeat) -> None:
    parent, children = told["parent"], _children(told["parent"])
    heartbeat.give_up()
    if told["runs"]:
        for process in [parent, *children]:
            with contextlib.suppress(OSError):
                os.kill(process, DUMP)
            time.sleep(min(_DUMPED_S, _ALL_DUMPED_S / (1 + len(children))))
    name = told["environment"]
    line = f"environment '{name}' did not come back within {told['timeout_s']:g} s from {heartbeat.described()}"
    for run in told["runs"]:
        with contextlib.suppress(OSError, ValueError):
            _record(Path(run), line, name, int(heartbeat.read()["TOTAL"]))
    where = f" (what was logged is in {told['runs'][0]})" if told["runs"] else ""
    print(f"rlresearch: {line}{where}", file=sys.stderr, flush=True)
    for process in [*children, parent]:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _children(process: int) -> list[int]:
    """Returns the forks of a process, which step environments; not children with another program, such as mirrors."""
    found, own = [], _command(process)
    for file in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(each) for each in file.read_text().split() if _command(int(each)) == own]
    return found


def _command(process: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes()
    return b""


def _record(run: Path, line: str, environment: str, step: int) -> None:
    """Writes to log.txt and run.json what the run itself would have written."""
    now = datetime.now(UTC)
    with open(run / "log.txt", "a", encoding="utf-8") as log:
        log.write(f"{now:%Y-%m-%dT%H:%M:%S}Z ERROR rlresearch: failed: {line}\n")
    record = json.loads((run / "run.json").read_text())
    reason = {"kind": "TimeoutError", "environment": environment, "step": step, "error": line}
    ended = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record |= {"status": "failed", "reason": reason, "finished_at": ended, "total_steps": step}
    fresh = run / ".run.json.overdue"
    fresh.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(fresh, run / "run.json")


if __name__ == "__main__":
    main()
