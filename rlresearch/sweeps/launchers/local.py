"""Runs each job in its own process, several at a time, so that a crash of one job does not affect the others.

The controller's process only watches them. It neither loads TensorFlow nor opens a GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import annotated_types as at

from rlresearch.errors import ConfigError, RunError
from rlresearch.runtime.signals import Interrupted, SignalHandler
from rlresearch.sweeps import ledger
from rlresearch.sweeps.launchers.fork_server import COULD_NOT_WRITE, Server
from rlresearch.sweeps.ledger import FAILED, INTERRUPTED, KILLED, RUNNING, TIMED_OUT

if TYPE_CHECKING:
    from rlresearch.sweeps.attempt import AttemptTask
    from rlresearch.sweeps.controller import Sweep
    from rlresearch.sweeps.ledger import Job

_TICK_S = 0.2
_PATIENCE_S = 40.0  # time for a job to save a checkpoint after it was asked to stop
_STARTS = 3  # the sweep stops if the server dies so often before any job has ended


@dataclass
class _Running:
    """An attempt that has a process. slot: the index of its worker. began: when, by `time.monotonic`.

    verdict: the status and the reason, where the launcher ends it. told: when it was asked to end.
    """

    tasks: list[AttemptTask]
    slot: int
    began: float
    pid: int | None = None
    verdict: tuple[str, str] | None = None
    signalled_at: float | None = None


class _Order(NamedTuple):
    number: int
    running: _Running


@dataclass(frozen=True)
class Local:
    """Runs each job in its own process.

    workers: how many jobs run at a time, None for the number of GPUs times jobs_per_gpu or, without gpus, half the CPU
    cores. start: `forkserver` forks a process that has TensorFlow loaded. `plain` starts a new Python, which is safe
    with any GPU. `auto` means plain where there is a GPU. threads: CPU threads of each job, None for its share of the
    cores. gpus: numbers or identifiers of the GPUs to use, None to leave CUDA_VISIBLE_DEVICES unchanged.
    jobs_per_gpu: how many jobs share a GPU. timeout_minutes: the longest time for one attempt. hang_minutes: the
    longest time without a write in the run's directory. memory_gb: the most memory of all processes of one job.
    """

    workers: Annotated[int, at.Gt(0)] | None = None
    start: Literal["auto", "forkserver", "plain"] = "auto"
    threads: Annotated[int, at.Gt(0)] | None = None
    gpus: tuple[int | str, ...] | None = None
    jobs_per_gpu: Annotated[int, at.Gt(0)] = 1
    timeout_minutes: Annotated[float, at.Gt(0)] | None = None
    hang_minutes: Annotated[float, at.Gt(0)] | None = None
    memory_gb: Annotated[float, at.Gt(0)] | None = None

    def check(self) -> None:
        """Errors: ConfigError where `workers` is larger than the number of GPUs times `jobs_per_gpu`."""
        if self.gpus is not None and self.workers is not None and self.workers > len(self.gpus) * self.jobs_per_gpu:
            places = len(self.gpus) * self.jobs_per_gpu
            raise ConfigError(
                f"hydra.launcher.workers={self.workers}: must be at most {places}, the places on "
                "hydra.launcher.gpus; more with hydra.launcher.jobs_per_gpu."
            )

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        how = "forked from one that has TensorFlow loaded" if self._preloads() else "each started anew"
        where = f", on GPUs {', '.join(map(str, self.gpus))}" if self.gpus else ""
        return [f"{len(jobs)} jobs, a process each, {self._count()} at a time{where}, {how}"]

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        _Workers(self, sweep, [*going_on, *([job] for job in fresh)], self._count()).run()

    def environment(self, slot: int) -> dict[str, str]:
        """Returns the environment variables of the worker `slot`: numbers of threads, and the GPU."""
        threads = self.threads or max(1, _cores() // self._count())
        own: dict[str, int | str] = dict.fromkeys(
            ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), threads
        )
        if self.gpus is not None:
            own["CUDA_VISIBLE_DEVICES"] = self.gpus[slot // self.jobs_per_gpu] if self.gpus else -1
        return {name: str(value) for name, value in own.items()}

    def _count(self) -> int:
        if self.workers is not None:
            return self.workers
        return len(self.gpus) * self.jobs_per_gpu if self.gpus else max(1, _cores() // 2)

    def _preloads(self) -> bool:
        return self.start == "forkserver" or (self.start == "auto" and not _has_gpu())


class _Workers:
    """Starts jobs on free workers, and watches every process."""

    def __init__(self, settings: Local, sweep: Sweep, units: Sequence[Sequence[Job]], places: int) -> None:
        self._settings, self._sweep = settings, sweep
        self._waiting, self._free = deque(units), list(range(places))[::-1]
        self._running: dict[int, _Running] = {}
        self._started, self._deaths = 0, 0
        self._server: Server | None = None

    def run(self) -> None:
        """Runs until every job has ended. Errors: Interrupted after a signal, once every job has stopped."""
        with SignalHandler() as watch:
            try:
                while self._waiting or self._running:
                    watch.check()
                    self._fill()
                    self._hear(_TICK_S)
                    self._look_after()
            except Interrupted as interrupted:
                self._stop_all()
                interrupted.sweep_directory = self._sweep.path
                raise
            finally:
                if self._server is not None:
                    self._server.close()

    def _fill(self) -> None:
        while self._waiting and self._free:
            if self._server is None:
                self._server = Server(self._settings._preloads())
            unit, slot = self._waiting.popleft(), self._free.pop()
            tasks = [self._sweep.task(job) for job in unit]
            number, self._started = self._started, self._started + 1
            self._running[number] = _Running(tasks, slot, time.monotonic())
            log = self._sweep.directory / ledger.LOGS / f"{tasks[0].job}.{tasks[0].attempt}.log"
            ledger.begun(self._sweep.book, [task.job for task in tasks], [task.attempt for task in tasks])
            with contextlib.suppress(RunError):  # if the server has died, `_hear` notices it
                jobs = [task._asdict() for task in tasks]
                self._server.send(start=number, jobs=jobs, environment=self._settings.environment(slot), log=str(log))

    def _hear(self, wait_s: float) -> None:
        if self._server is None:
            return
        try:
            messages = self._server.messages(wait_s)
        except RunError as error:
            self._server_died(error)
            return
        for message in messages:
            if "started" in message:
                running = self._running[message["started"]]
                running.pid, running.began = message["pid"], time.monotonic()
            else:
                self._deaths = 0
                self._ended(_Order(message["exited"], self._running[message["exited"]]), message["code"])
        self._sweep.refresh()

    def _ended(self, order: _Order, code: int) -> None:
        """Writes the end of an attempt whose process has ended, unless the process wrote it."""
        del self._running[order.number]
        self._free.append(order.running.slot)
        self._sweep.refresh()
        for task in order.running.tasks:
            job = self._sweep.jobs[task.job]
            if order.running.verdict is not None:
                ledger.ended(self._sweep.book, task.job, task.attempt, *order.running.verdict)
            elif job.attempts == task.attempt and job.status == RUNNING:
                ledger.ended(self._sweep.book, task.job, task.attempt, *_death(code, self._log(task)))

    def _log(self, task: AttemptTask) -> Path:
        return self._sweep.directory / ledger.LOGS / f"{task.job}.{task.attempt}.log"

    def _look_after(self) -> None:
        """Ends jobs that take too long, hang, or use too much memory."""
        now = time.monotonic()
        for number, running in self._running.items():
            if running.pid is None:
                continue
            if running.signalled_at is not None:
                if now - running.signalled_at > _PATIENCE_S:
                    self._signal(number, signal.SIGKILL)
                continue
            verdict = self._verdict(running, now)
            if verdict is not None:
                running.verdict, running.signalled_at = verdict, now
                # A job that hangs ignores SIGTERM, and a job with too much memory must stop at once: SIGKILL.
                gentle = verdict[1].startswith("longer")
                self._signal(number, signal.SIGTERM if gentle else signal.SIGKILL)

    def _verdict(self, running: _Running, now: float) -> tuple[str, str] | None:
        own = self._settings
        if own.timeout_minutes is not None and now - running.began > own.timeout_minutes * 60:
            return TIMED_OUT, f"longer than hydra.launcher.timeout_minutes={own.timeout_minutes:g}"
        if own.hang_minutes is not None and self._silent_s(running, now) > own.hang_minutes * 60:
            return TIMED_OUT, f"no sign of life for hydra.launcher.hang_minutes={own.hang_minutes:g}"
        used = _resident_bytes(running.pid) if own.memory_gb is not None and running.pid is not None else 0
        if own.memory_gb is not None and used > own.memory_gb * 1e9:
            return KILLED, f"took {used / 1e9:.1f} GB, more than hydra.launcher.memory_gb={own.memory_gb:g}"
        return None

    def _silent_s(self, running: _Running, now: float) -> float:
        """Returns the seconds since the last write in the run's directory."""
        run = self._sweep.jobs[running.tasks[0].job].run
        latest = max((_changed_at(each) for each in run.iterdir()), default=0.0) if run and run.is_dir() else 0.0
        return min(now - running.began, max(0.0, time.time() - latest))

    def _signal(self, number: int, which: int) -> None:
        assert self._server is not None  # a running job has a server
        with contextlib.suppress(RunError):
            self._server.send(signal=int(which), to=number)

    def _stop_all(self) -> None:
        """Asks every job to save a checkpoint and end, and waits up to 40 s for them."""
        for number in self._running:
            self._signal(number, signal.SIGTERM)
        deadline = time.monotonic() + _PATIENCE_S
        while self._running and time.monotonic() < deadline:
            self._hear(_TICK_S)
        for running in self._running.values():
            for task in running.tasks:
                why = "told to stop, and did not in time"
                ledger.ended(self._sweep.book, task.job, task.attempt, INTERRUPTED, why)

    def _server_died(self, error: RunError) -> None:
        """Records that the server's jobs died with it; the next job starts a new server."""
        assert self._server is not None
        self._server.close()
        self._server, self._deaths = None, self._deaths + 1
        for number, running in list(self._running.items()):
            self._ended(_Order(number, running), -signal.SIGKILL)
        if self._deaths >= _STARTS:
            raise error


def _death(code: int, log: Path) -> tuple[str, str]:
    """Returns the status and the reason for an exit code, with the last line of the log."""
    said = _last_line(log)
    words = f": {said}" if said else ""
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return KILLED, f"killed by {name}{words}"
    if code > 128 and code - 128 in {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1}:
        return INTERRUPTED, f"told to stop by {signal.Signals(code - 128).name}"
    if code == COULD_NOT_WRITE:
        return FAILED, f"could not write what became of it: is the disk full?{words}"
    return FAILED, f"left with exit code {code}{words}"


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip()]
    fatal = [line for line in told if line.startswith("Fatal Python error")]
    return (fatal or told or [""])[-1][:200]


def _changed_at(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _resident_bytes(group: int) -> int:
    """Returns the memory of all processes in a group; shared pages count once for each process."""
    page, total = os.sysconf("SC_PAGE_SIZE"), 0
    for stat in _stats():
        if stat[2] == str(group):
            total += int(stat[21]) * page
    return total


def _stats() -> Iterator[list[str]]:
    """Yields the fields of /proc/PID/stat of every process, from the third on: state, parent, group, ..."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield (entry / "stat").read_text().rpartition(")")[2].split()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _has_gpu() -> bool:
    """Returns whether a job could find a GPU, from device files only; it opens no GPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and (Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists())
