"""The controller of a sweep: plans, runs and resumes it, with a ledger, a table and a launcher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError, RunError
from rlresearch.runtime.signals import Interrupted
from rlresearch.storage import redaction
from rlresearch.storage.atomic import lock
from rlresearch.storage.provenance import provenance
from rlresearch.storage.redaction import MASK, redacted
from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.sweeps import ledger
from rlresearch.sweeps.attempt import AttemptResult, AttemptTask, attempt, ended_as
from rlresearch.sweeps.jobs import Composer, check, frozen
from rlresearch.sweeps.ledger import DONE, FAILED, INTERRUPTED, KILLED, PENDING, RUNNING, TIMED_OUT, Job
from rlresearch.sweeps.table import Table
from rlresearch.training import resume

_ORPHANS_S = 10.0
RETRIED = {"failed": (FAILED, KILLED, TIMED_OUT), "none": ()}


class Launcher(Protocol):
    """An option of the group `hydra/launcher`; a launcher is a frozen dataclass of its settings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def check(self) -> None:
        """Tests whether the launcher can work on this machine. Errors: ConfigError."""

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        """Returns lines for the user that say how the launcher will run these jobs."""

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        """Runs all jobs until they end.

        going_on: jobs to resume, in groups; the jobs of a group were one program and stay one. fresh: new jobs.
        """


class Sweep:
    """The controller of a sweep. launcher, name: the launcher and its name in the group `hydra/launcher`.

    root: the folder for the new sweep directory. argv: the arguments as typed. folder: the argument of --config-dir.
    packages: packages from which components may come, None for any. header: more fields for the ledger's first event.
    """

    def __init__(
        self,
        launcher: Launcher,
        name: str,
        root: str,
        argv: Sequence[str] = (),
        folder: str | None = None,
        packages: Sequence[str] | None = None,
        **header: Any,
    ) -> None:
        self.launcher, self._name, self._root, self._header = launcher, name, root, header
        self.folder, self._command, self._cwd = folder, ["python", "-m", "rlresearch", *argv], os.getcwd()
        self.packages = None if packages is None else list(packages)
        self.path: Path | None = None
        self._reader: ledger.Reader | None = None
        self._book: ledger.Ledger | None = None
        self._composer = Composer(folder)
        self._unwritten: list[Job] = []
        self._written_bases = 0
        self._values: dict[int, dict[str, Any]] = {}  # values of each job, with the secrets that the ledger leaves out
        self.secrets: dict[str, Any] = {}  # by key; the user must give them again to resume a sweep
        self._goes_on: set[int] = set()  # jobs that resume from a checkpoint
        self._again: set[int] = set()  # jobs that start again from the beginning
        self._table: Table | None = None
        self._held: int | None = None

    # State of the sweep.

    @property
    def jobs(self) -> list[Job]:
        """All jobs planned so far, in their current state."""
        return self._reader.account.jobs if self._reader else self._unwritten

    @property
    def directory(self) -> Path:
        """The directory of the sweep. Errors: RunError before it exists."""
        if self.path is None:
            raise RunError("the sweep has no directory yet")
        return self.path

    @property
    def bases(self) -> list[ledger.Base]:
        return self._composer.bases

    @property
    def book(self) -> ledger.Ledger:
        """The ledger to which this process writes. Errors: RunError before the sweep directory exists."""
        if self._book is None:
            raise RunError("the sweep has no directory yet")
        return self._book

    def config(self, job: Job) -> dict[str, Any]:
        """Returns the frozen configuration of a job, with its secrets."""
        own = self._values.get(job.number, job.values) | self.secrets
        return frozen(replace(job, values=own), self.bases)

    def task(self, job: Job) -> AttemptTask:
        """Returns the task for the next attempt at a job."""
        base = self.bases[job.base]
        self._again.discard(job.number)
        return AttemptTask(
            job=job.number,
            attempt=job.attempts + 1,
            config=self.config(job),
            choices=base.choices,
            tuned=base.tuned,
            overrides=job.overrides,
            command=self._command,
            sweep=str(self.path),
            cwd=self._cwd,
            run=str(job.run) if job.number in self._goes_on and job.run is not None else None,
            packages=self.packages,
            folder=self.folder,
            secrets=self.secrets,
        )

    # Methods that launchers call.

    def attempt(self, jobs: Sequence[Job], fused: Mapping[str, Any] | None = None) -> list[AttemptResult]:
        """Runs one job, or several jobs as one program, in this process; see `attempt.attempt`."""
        tasks = [self.task(job) for job in jobs]
        self._goes_on -= {job.number for job in jobs}
        try:
            return attempt(tasks, self.book, fused)
        except Interrupted as interrupted:
            interrupted.sweep_directory = self.path
            raise
        finally:
            self.refresh()

    def refresh(self) -> None:
        """Reads new events from the ledger and shows them in the table."""
        if self._reader is not None:
            changed = self._reader.refresh()
            if self._table is not None:
                self._table.show(self.jobs, changed)

    def say(self, line: str) -> None:
        """Prints a line, above the table where there is one."""
        if self._table is not None:
            self._table.say(line)

    # From the plan to the end.

    def plan(self, batch: Sequence[Sequence[str]]) -> list[Job]:
        """Composes and checks more jobs. Errors: ConfigError, one line, about the first wrong job."""
        self.launcher.check()
        jobs = self._composer.jobs(batch, len(self.jobs))
        check(jobs, self.bases, self.packages)
        return jobs

    def show_plan(self, jobs: Sequence[Job]) -> None:
        """Prints which jobs would run, and how; starts nothing."""
        print(f"{len(jobs)} jobs, hydra/launcher={self._name}; nothing was started")
        for line in self.launcher.describe(self, jobs):
            print(f"  {line}")

    def launch(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Runs a batch of jobs, numbered from `first`, until they end. Jobs that have already ended do not run again.

        Returns the jobs; their status says which failed. Errors: ConfigError before any job starts, if one is wrong.
        """
        known = self.jobs[first : first + len(batch)]
        if [job.overrides for job in known] != [redacted(each) for each in batch[: len(known)]]:
            raise ConfigError(f"resume={self.path}: the sweeper proposes other jobs than it did before.")
        jobs = self.plan(batch[len(known) :])
        if self.path is None:
            self._create()
        self._write(jobs)
        self._run(self.jobs[first : first + len(batch)])
        return self.jobs[first : first + len(batch)]

    def finish(self) -> None:
        """Prints the final table. Errors: RunError where a job did not finish."""
        self.close()
        if self._table is not None:
            self._table.finish(self.jobs, self.path)
        bad = [job for job in self.jobs if job.status not in DONE]
        if bad:
            counts = ", ".join(f"{n} {status}" for status, n in _counts(bad).items())
            why = next((f"; job {job.number}: {job.reason}" for job in bad if job.reason), "")
            retry = ["retry=failed"] if all(job.status in RETRIED["failed"] for job in bad) else []
            total = len(self.jobs)
            again = resume.resume_command(self.directory, self.folder, *retry)
            raise RunError(f"{len(bad)} of {total} jobs did not finish ({counts}){why}", again=again)

    def close(self) -> None:
        """Closes the ledger and the table, and releases the lock; a second call does nothing."""
        if self._table is not None:
            self._table.close()
        if self._book is not None:
            self._book.close()
        if self._held is not None:
            os.close(self._held)
        self._book = self._held = None

    def reopen(self, path: Path, retry: str = "none") -> None:
        """Opens a sweep to resume it; `run_rest` then runs the remaining jobs.

        retry: a key of RETRIED, which says which ended jobs run again. Errors: ConfigError where it cannot be resumed.
        """
        self._reader = ledger.Reader(path)
        self._reader.refresh()
        account = self._reader.account
        if not account.planned:
            raise ConfigError(
                f"resume={path}: the sweep ended before its jobs were planned, and ran none: start it again."
            )
        self._held = ledger.locked(path)
        _wait_for_orphans(account.jobs)
        self.path, self._book = path, ledger.Ledger(path, mends=True)
        self._composer.bases = account.bases
        self._cwd = account.header.get("cwd", self._cwd)  # relative paths in the configurations refer to it
        self._written_bases = len(account.bases)
        about = {
            key: value for key, value in provenance(self._command, []).items() if key in ("command", "host", "pid")
        }
        self._book.write("resumed", at=timestamp(), retry=retry, launcher=self._name, **about)
        self._reconcile(retry)

    def run_rest(self, only: Callable[[Mapping[str, Any]], bool] = lambda config: True) -> None:
        """Runs the jobs that have not ended. only(config): whether to run the job with this configuration."""
        self.launcher.check()
        jobs = [job for job in self.jobs if only(self.config(job))]
        fresh = [job for job in jobs if self._is_fresh(job)]
        masked = [key for job in fresh for key, value in flattened(self.config(job)).items() if MASK in str(value)]
        if masked:
            raise ConfigError(f"{masked[0]}: is a secret, which no ledger holds; say it again with {masked[0]}=VALUE.")
        check([replace(job, values=job.values | self.secrets) for job in fresh], self.bases, self.packages)
        self._run(jobs)

    def adopt(self, folder: Path, storage: str, trials: Collection[int]) -> int:
        """Resumes the newest sweep below `folder`: runs the remaining jobs of `trials` of the study in `storage`.

        Later jobs join this sweep. Returns its number of jobs; 0 where no sweep can be resumed, so that all trials
        start from the beginning.
        """
        path = ledger.newest(folder)
        if path is None:
            return 0
        account = ledger.read(path)
        if not account.planned or any(MASK in str(value) for value in (account.bases, account.jobs)):
            return 0
        self.reopen(path)
        self.run_rest(lambda config: config["trial"]["storage"] == storage and config["trial"]["number"] in trials)
        return len(self.jobs)

    def _create(self) -> None:
        self.path = ledger.create(self._root)
        self._held = ledger.locked(self.path)
        self._book = ledger.Ledger(self.path)
        fields = provenance(self._command, []) | {"config_dir": self.folder, "launcher": self._name}
        fields |= {"settings": asdict(self.launcher), "schema_version": ledger.SCHEMA_VERSION, "at": timestamp()}
        fields |= {"cwd": self._cwd}
        own = {name: redacted(each) if isinstance(each, list) else each for name, each in self._header.items()}
        self._book.write("sweep", **(fields | own))
        self._reader = ledger.Reader(self.path)

    def _write(self, jobs: Sequence[Job]) -> None:
        """Writes planned jobs to the ledger. Once all of it is on the disk, the sweep can be resumed."""
        if not jobs:
            return
        bases = self.bases[self._written_bases :]
        self.book.write_all({"event": "base", **redaction.settings(asdict(base))} for base in bases)
        self._written_bases += len(bases)
        self._values |= {job.number: job.values for job in jobs}
        self.book.write_all(_written(job) for job in jobs)
        self.book.write("planned", jobs=jobs[-1].number + 1)
        self.book.sync()
        self.refresh()

    def _run(self, jobs: Sequence[Job]) -> None:
        if self._table is None:
            self._table = Table(self.directory)
        fresh = [job for job in jobs if self._is_fresh(job)]
        going_on = self._together([job for job in jobs if job.number in self._goes_on])
        for line in self.launcher.describe(self, fresh):
            self._table.say(line)
        if fresh or going_on:
            self._table.start(self.jobs)
            self.book.after = self.refresh
            try:
                self.launcher.run(self, going_on, fresh)
            finally:
                self.book.after = None
                self.refresh()

    def _is_fresh(self, job: Job) -> bool:
        return job.status == PENDING or job.number in self._again

    def _together(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Groups jobs that were one program; the order in a group is the order of the program's members."""
        units: dict[Path, dict[int, Job]] = {}
        for job in jobs:
            stored = resume.open_run(str(job.run), "resume")
            units.setdefault(stored.home, {})[stored.index] = job
        return [[unit[index] for index in sorted(unit)] for unit in units.values()]

    def _reconcile(self, retry: str) -> None:
        """Looks into the run directories of jobs without an end, then decides which jobs resume or start again."""
        for job in self.jobs:
            if job.run is not None and job.status in (RUNNING, INTERRUPTED):
                status, mean = ended_as(job.run)
                failure = _failure(job.run) if job.status == RUNNING else None
                if status is not None or failure is not None:
                    ledger.ended(self.book, job.number, job.attempts, status or FAILED, failure, mean)
        self.refresh()
        for job in self.jobs:
            if job.status in (RUNNING, INTERRUPTED) or job.status in RETRIED[retry]:
                goes_on = job.status != FAILED and job.run is not None and _can_go_on(job.run)
                (self._goes_on if goes_on else self._again).add(job.number)


def _written(job: Job) -> dict[str, Any]:
    """Returns the ledger event for a new job, without secrets."""
    values = {key: redaction.settings(value, key) for key, value in job.values.items()}
    return {"event": "job", "job": job.number, "base": job.base, "values": values, "overrides": redacted(job.overrides)}


def _wait_for_orphans(jobs: Sequence[Job]) -> None:
    """Waits for jobs of the previous controller. Errors: ConfigError where one still runs after 10 s.

    Only jobs in a queue can outlive their controller; all others die with it.
    """
    deadline = time.monotonic() + _ORPHANS_S
    for job in jobs:
        while job.status == RUNNING and job.run is not None and _is_held(job.run):
            if time.monotonic() > deadline:
                where = f"process {job.pid} on {job.host}"
                raise ConfigError(
                    f"job {job.number} is still running, {where}: wait for it, or end it, and resume then."
                )
            time.sleep(0.1)


def _is_held(run: Path) -> bool:
    try:
        file = lock(run)
    except OSError:
        return False
    if file is not None:
        os.close(file)
    return file is None


def _failure(run: Path) -> str | None:
    """Returns the error in run.json of a failed run; None where the run did not fail or cannot be read."""
    try:
        record = RunDirectory(run).recorded()
    except RunError:
        return None
    return str((record.get("reason") or {}).get("error")) if record.get("status") == FAILED else None


def _can_go_on(run: Path) -> bool:
    try:
        resume.open_run(str(run), "resume")
        return RunDirectory(run).recorded().get("status") in (RUNNING, INTERRUPTED)
    except (ConfigError, RunError):
        return False


def _counts(jobs: Sequence[Job]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for job in jobs:
        counts[job.status] = counts.get(job.status, 0) + 1
    return counts
