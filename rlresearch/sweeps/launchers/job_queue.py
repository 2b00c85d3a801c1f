"""Jobs in processes that somebody else starts, perhaps on other machines: a queue, or a cluster.

All of them see the sweep directory, on a file system that they share. Each writes a ledger file of its own, and claims
the number of its attempt by making a file: whoever starts a job once more gets another number and another directory.
Nothing ever writes into the rows of an earlier attempt, which may still be at it on a machine that was thought lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlresearch.runtime.signals import Interrupted, SignalHandler
from rlresearch.sweeps import ledger
from rlresearch.sweeps.ledger import INTERRUPTED, KILLED, PENDING, RUNNING

if TYPE_CHECKING:
    from rlresearch.sweeps.attempt import AttemptTask
    from rlresearch.sweeps.controller import Sweep
    from rlresearch.sweeps.ledger import Job

CLAIMS = "attempts"
ANOTHER = "another process has this attempt"
_TICK_S, _PATIENCE_S = 0.5, 40.0


class Queue(Protocol):
    """Whatever starts processes."""

    def submit(self, tasks: list[dict[str, Any]]) -> Any:
        """Has `work(tasks)` called somewhere; returns what the following know it by."""

    def result(self, handle: Any) -> str | None:
        """None while it is waiting or running; then what `work` returned, or why it did not."""

    def cancel(self, handle: Any) -> None:
        """Has it end."""

    def close(self) -> None:
        """Lets go of the queue."""


def work(tasks: Sequence[Mapping[str, Any]], place: str = "", gone: Any = None) -> str:
    """What the process does: claims the attempt, and carries it out. Returns nothing, or ANOTHER.

    place: where this is, as `gone(place)` knows it, which says whether that machine is lost. An attempt that began on
    one that is not has died by its own doing and is not begun again. Without `gone` an attempt that somebody has
    claimed is left to them: a queue may hold a job twice, of a controller that was killed and of the next one.
    """
    from rlresearch.sweeps.attempt import AttemptTask, attempt

    own = [AttemptTask(**task) for task in tasks]
    book = ledger.Ledger.for_process(Path(own[0].sweep))
    try:
        claimed = []
        for task in own:
            number, before = _claimed(Path(task.sweep), task.job, task.attempt, place)
            if before is not None and gone is None:
                return ANOTHER
            if before is not None and not gone(before):
                ledger.ended(book, task.job, number - 1, KILLED, f"its process died, on node {before}")
                return ""
            claimed.append(task._replace(attempt=number, run=task.run if number == task.attempt else None))
        attempt(claimed, book)
        return ""
    finally:
        book.close()


def _claimed(sweep: Path, job: int, attempt: int, place: str) -> tuple[int, str | None]:
    """The number of an attempt that nobody has, from `attempt` on, and where the one before it began."""
    (sweep / CLAIMS).mkdir(exist_ok=True)
    before = None
    while True:
        path = sweep / CLAIMS / f"{job}.{attempt}"
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            with contextlib.suppress(OSError, ValueError):
                before = str(json.loads(path.read_text())["place"])
            attempt += 1
            continue
        os.write(file, json.dumps({"place": place}).encode())
        os.close(file)
        return attempt, before


def run(sweep: Sweep, units: Sequence[Sequence[Job]], queue: Queue, at_once: int | None) -> None:
    """Submits jobs, at most so many at once, and waits for their ends. Interrupted once all were told to stop."""
    waiting = deque(units)
    running: dict[int, tuple[Any, list[AttemptTask]]] = {}
    with SignalHandler() as watch:
        try:
            while waiting or running:
                watch.check()
                while waiting and (at_once is None or len(running) < at_once):
                    tasks = [sweep.task(job) for job in waiting.popleft()]
                    handle = queue.submit([task._asdict() for task in tasks])
                    running[tasks[0].job] = handle, tasks
                time.sleep(_TICK_S)
                _collect(sweep, queue, running)
        except Interrupted as interrupted:
            for handle, _ in running.values():
                if handle is not None:
                    queue.cancel(handle)
            deadline = time.monotonic() + _PATIENCE_S
            while running and time.monotonic() < deadline:
                time.sleep(_TICK_S)
                _collect(sweep, queue, running, INTERRUPTED)
            interrupted.sweep_directory = sweep.path
            raise
        finally:
            queue.close()


def _collect(sweep: Sweep, queue: Queue, running: dict, otherwise: str = KILLED) -> None:
    """Enters what became of jobs that are over and have not said so themselves."""
    sweep.refresh()
    for name, (handle, tasks) in list(running.items()):
        why = ANOTHER if handle is None else queue.result(handle)
        if why == ANOTHER and any(sweep.jobs[task.job].status in (RUNNING, PENDING) for task in tasks):
            running[name] = None, tasks
            continue
        if why is None:
            continue
        del running[name]
        sweep.refresh()
        for task in tasks:
            job = sweep.jobs[task.job]
            if job.attempts < task.attempt or job.status == RUNNING:
                number = max(job.attempts, task.attempt)
                ledger.ended(sweep.book, task.job, number, otherwise, why or "it left without a word")
