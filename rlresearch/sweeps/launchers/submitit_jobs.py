"""Runs jobs with submitit: in processes on this machine, or in a Slurm queue.

This module avoids three traps. Submitit's local executor starts all jobs at once, so it gets only a few at a time.
Hydra's own plugin composes the configuration again inside the job, from YAML that may have changed; here the job gets
its frozen configuration. If Slurm preempts a job, or its time runs out, the job goes back into the queue; it resumes
from its checkpoint in a new attempt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import annotated_types as at

from rlresearch.optional import require_installed
from rlresearch.sweeps import ledger
from rlresearch.sweeps.launchers import job_queue

if TYPE_CHECKING:
    from rlresearch.sweeps.controller import Sweep
    from rlresearch.sweeps.ledger import Job


@dataclass(frozen=True)
class Submitit:
    """Common settings. at_once: the most jobs that run or wait at a time. The others are submitit's own settings."""

    CLUSTER: ClassVar[str] = "local"

    at_once: Annotated[int, at.Gt(0)] | None = None
    timeout_min: Annotated[int, at.Gt(0)] = 60
    cpus_per_task: Annotated[int, at.Gt(0)] | None = None
    gpus_per_node: Annotated[int, at.Ge(0)] | None = None
    mem_gb: Annotated[float, at.Gt(0)] | None = None
    name: str = "rlresearch"

    def check(self) -> None:
        """Errors: ConfigError where submitit is not installed."""
        require_installed("submitit", f"hydra/launcher=submitit_{self.CLUSTER}", "slurm")

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        most = f", at most {self.at_once} at once" if self.at_once else ""
        return [f"{len(jobs)} jobs, submitted to submitit's {self.CLUSTER} executor{most}"]

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        units = [*going_on, *([job] for job in fresh)]
        job_queue.run(sweep, units, _Submitted(self, str(sweep.directory / ledger.LOGS)), self._most())

    def _most(self) -> int | None:
        return self.at_once

    def parameters(self) -> dict[str, Any]:
        """Returns the parameters of submitit's executor, without those that are None."""
        own = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name")
        return {key: value for key in own if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class SubmititLocal(Submitit):
    """Runs each job in a process on this machine; where `at_once` is None, half as many at a time as CPU cores."""

    def _most(self) -> int:
        return self.at_once or max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True)
class SubmititSlurm(Submitit):
    """Runs each job as a job of Slurm.

    partition, qos, account, constraint, setup (shell lines before the job), additional (for sbatch): see submitit.
    max_num_timeout: how often a job goes back into the queue after its time ran out or Slurm preempted it.
    """

    CLUSTER: ClassVar[str] = "slurm"

    partition: str | None = None
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] | None = None
    additional: Mapping[str, Any] | None = None
    max_num_timeout: Annotated[int, at.Ge(0)] = 3

    def parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("partition", "qos", "account", "constraint")}
        own |= {"setup": list(self.setup) if self.setup else None}
        own |= {"additional_parameters": dict(self.additional) if self.additional else None}
        return super().parameters() | {f"slurm_{key}": value for key, value in own.items() if value is not None}


class Work:
    """The submitted object. Submitit calls it to run, and calls `checkpoint` before a job goes back into the queue."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self.tasks = tasks

    def __call__(self) -> str:
        return job_queue.work(self.tasks)

    def checkpoint(self) -> Any:
        """Returns a new submission of the same jobs, which resumes from the newest checkpoint."""
        import submitit

        jobs = ledger.read(Path(self.tasks[0]["sweep"])).jobs
        again = []
        for task in self.tasks:
            job = jobs[task["job"]]
            run = None if job.run is None else str(job.run)
            again.append({**task, "attempt": job.attempts + 1, "run": run})
        return submitit.helpers.DelayedSubmission(Work(again))


class _Submitted:
    """A `job_queue.Queue` of submitit jobs."""

    def __init__(self, settings: Submitit, folder: str) -> None:
        import submitit

        own = {"slurm_max_num_timeout": settings.max_num_timeout} if isinstance(settings, SubmititSlurm) else {}
        self._executor = submitit.AutoExecutor(folder=folder, cluster=settings.CLUSTER, **own)
        self._executor.update_parameters(**settings.parameters())

    def submit(self, tasks: list[dict[str, Any]]) -> Any:
        return self._executor.submit(Work(tasks))

    def result(self, handle: Any) -> str | None:
        if not handle.done():
            return None
        try:
            return handle.result()
        except Exception as error:  # noqa: BLE001 (submitit raises the job's errors and its own)
            return " ".join(str(error).split())[-300:]

    def cancel(self, handle: Any) -> None:
        handle.cancel(check=False)

    def close(self) -> None:
        pass
