"""Jobs through submitit: a process each on this machine, or a Slurm queue.

Traps that are avoided here: submitit's local executor starts everything at once, so jobs are handed to it a few at a
time; Hydra's own plugin composes the configuration again in the job, from YAML that may have changed, so what is
submitted here is the frozen one; a job that Slurm preempts or that runs out of time is put back into the queue, and
goes on from its checkpoint in a new attempt.
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
    """What both kinds have. at_once: the most that run, or wait, together; the others are submitit's own."""

    CLUSTER: ClassVar[str] = "local"

    at_once: Annotated[int, at.Gt(0)] | None = None
    timeout_min: Annotated[int, at.Gt(0)] = 60
    cpus_per_task: Annotated[int, at.Gt(0)] | None = None
    gpus_per_node: Annotated[int, at.Ge(0)] | None = None
    mem_gb: Annotated[float, at.Gt(0)] | None = None
    name: str = "rlresearch"

    def check(self) -> None:
        """ConfigError where submitit is not installed."""
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
        """For submitit's executor."""
        own = ("timeout_min", "cpus_per_task", "gpus_per_node", "mem_gb", "name")
        return {key: value for key in own if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class SubmititLocal(Submitit):
    """A process for each job on this machine; half the cores' number of them at once where `at_once` is None."""

    def _most(self) -> int:
        return self.at_once or max(1, len(os.sched_getaffinity(0)) // 2)


@dataclass(frozen=True)
class SubmititSlurm(Submitit):
    """A Slurm queue.

    partition, qos, account, constraint, setup (lines of shell before the job), additional (of sbatch): see submitit.
    max_num_timeout: how often a job that ran out of time, or was preempted, is put back into the queue.
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
    """What is submitted: submitit calls it, and asks it for a `checkpoint` before it puts a job back into the queue."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self.tasks = tasks

    def __call__(self) -> str:
        return job_queue.work(self.tasks)

    def checkpoint(self) -> Any:
        """The same once more, from where the newest checkpoint is."""
        import submitit

        jobs = ledger.read(Path(self.tasks[0]["sweep"])).jobs
        again = []
        for task in self.tasks:
            job = jobs[task["job"]]
            run = None if job.run is None else str(job.run)
            again.append({**task, "attempt": job.attempts + 1, "run": run})
        return submitit.helpers.DelayedSubmission(Work(again))


class _Submitted:
    """An `elsewhere.Queue`."""

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
        except Exception as error:  # noqa: BLE001 (submitit raises what the job raised, and its own)
            return " ".join(str(error).split())[-300:]

    def cancel(self, handle: Any) -> None:
        handle.cancel(check=False)

    def close(self) -> None:
        pass
