"""Runs jobs in processes that another system starts, perhaps on other machines: a queue, or a cluster.

All processes see the sweep directory on a shared file system. Each writes its own ledger file, and claims an attempt
number by making a file. If the system starts a job a second time, that process gets another number and another run
directory. So it never writes into the rows of the earlier attempt, which may still run on a machine that seemed lost.
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
    """A system that starts processes, such as Ray or Slurm."""

    def submit(self, tasks: list[dict[str, Any]]) -> Any:
        """Submits a call of `work(tasks)`. Returns a handle for the other methods."""

    def result(self, handle: Any) -> str | None:
        """Returns None while the job waits or runs; afterwards the return value of `work`, or the error as text."""

    def cancel(self, handle: Any) -> None:
        """Asks the job to end."""

    def close(self) -> None:
        """Closes the connection to the queue."""


def work(tasks: Sequence[Mapping[str, Any]], place: str = "", gone: Any = None) -> str:
    """Claims an attempt and runs it; called in the new process. Returns "", or ANOTHER where the claim fails.

    place: the id of this machine. gone(place): whether that machine is lost. An earlier process may have claimed the
    attempt. If its machine still works, the job itself killed that process, so the job is not started again. If the
    machine is lost, the job gets a new attempt. Without `gone`, a claimed attempt stays with its process: a queue may
    hold a job twice, from a controller that was killed and from the next controller.
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
    """Claims the first free attempt number from `attempt` on. Returns it, and the machine of the attempt before it."""
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
    """Submits jobs, at most `at_once` at a time, and waits until all have ended.

    Errors: Interrupted after a signal, once every job was asked to stop.
    """
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
    """Writes the end of jobs whose process has ended without writing it."""
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
