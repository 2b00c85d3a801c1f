"""Runs jobs on a Ray cluster: an existing one, or a temporary one on this machine.

This module avoids four traps. Without an address it starts its own cluster; it never uses one that an old file in /tmp
names. If a task's process dies, the task starts again only if its machine is lost. A task that starts again is a new
attempt with a new run directory. Ray's servers listen on every address of the machine, so a temporary cluster requires
a secret random token.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import annotated_types as at

from rlresearch import remove_lazy_module
from rlresearch.errors import ConfigError
from rlresearch.optional import require_installed
from rlresearch.sweeps.launchers import job_queue

if TYPE_CHECKING:
    from rlresearch.sweeps.controller import Sweep
    from rlresearch.sweeps.ledger import Job

_LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's public address


@dataclass(frozen=True)
class Ray:
    """Runs each job as a Ray task.

    address: of a cluster, None for a temporary one on this machine. num_cpus, num_gpus, memory_gb: the resources that
    a job requests. retries: how often a job starts again after its machine was lost. at_once: the most jobs that are
    submitted at a time. working_dir: a folder that Ray copies to the machines. environment: environment variables on
    the machines, in addition to PYTHONPATH.
    """

    address: str | None = None
    num_cpus: Annotated[float, at.Ge(0)] = 1.0
    num_gpus: Annotated[float, at.Ge(0)] = 0.0
    memory_gb: Annotated[float, at.Gt(0)] | None = None
    retries: Annotated[int, at.Ge(0)] = 3
    at_once: Annotated[int, at.Gt(0)] | None = None
    working_dir: str | None = None
    environment: Mapping[str, str] | None = None

    def check(self) -> None:
        """Errors: ConfigError where Ray is not installed, or where `working_dir` is not a folder."""
        require_installed("ray", "hydra/launcher=ray", "ray")
        if self.working_dir is not None and not Path(self.working_dir).is_dir():
            raise ConfigError(f"hydra.launcher.working_dir={self.working_dir}: must be a folder that exists.")

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        return [f"{len(jobs)} jobs, a Ray task each, on {self.address or 'a cluster of its own on this machine'}"]

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        units = [*going_on, *([job] for job in fresh)]
        job_queue.run(sweep, units, _Tasks(self), self.at_once)


class _Tasks:
    """A `job_queue.Queue` of Ray tasks."""

    def __init__(self, settings: Ray) -> None:
        if settings.address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        remove_lazy_module("tensorflow")  # Ray inspects every module, and that would load TensorFlow
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        shipped: dict[str, Any] = {"env_vars": _environment(settings)}
        if settings.working_dir is not None:
            shipped["working_dir"] = settings.working_dir
        own = {} if settings.address else {"_node_ip_address": _LOOPBACK, "include_dashboard": False}
        try:
            ray.init(
                settings.address or "local", runtime_env=shipped, log_to_driver=False, logging_level="ERROR", **own
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"hydra.launcher.address={settings.address}: {error}") from None
        wanted = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus}
        if settings.memory_gb is not None:
            wanted["memory"] = int(settings.memory_gb * 1e9)
        # max_calls=1: a new process for each job, so that no job inherits the TensorFlow of another
        self._remote = ray.remote(max_retries=settings.retries, retry_exceptions=False, max_calls=1, **wanted)(_on_ray)
        self._ray = ray

    def submit(self, tasks: list[dict[str, Any]]) -> Any:
        return self._remote.remote(tasks)

    def result(self, handle: Any) -> str | None:
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            return self._ray.get(handle)
        except Exception as error:  # noqa: BLE001 (a task may end because of its process, its machine, or Ray itself)
            return " ".join(str(error).split())[:300]

    def cancel(self, handle: Any) -> None:
        self._ray.cancel(handle)

    def close(self) -> None:
        self._ray.shutdown()


def _on_ray(tasks: list[dict[str, Any]]) -> str:
    import ray

    from rlresearch.sweeps.launchers.job_queue import work

    def gone(place: str) -> bool:
        return place not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}

    return work(tasks, ray.get_runtime_context().get_node_id(), gone)


def _environment(settings: Ray) -> dict[str, str]:
    places = [str(Path(__file__).parents[3]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    own = {} if settings.working_dir is not None else {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    return own | {str(name): str(value) for name, value in (settings.environment or {}).items()}
