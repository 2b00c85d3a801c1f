"""Jobs on a Ray cluster: one that is there, or one on this machine for as long as the sweep takes.

Traps that are avoided here: an address that is not given means a cluster of one's own, never one that an old file in
/tmp names; a task whose process dies is not begun again unless its machine is gone; one that is begun again gets a new
attempt, with a directory of its own; Ray's servers listen on every address of a machine, so that a cluster of one's own
asks for a token that nobody else knows.
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

_LOOPBACK = "127.0.0.2"  # Ray takes 127.0.0.1 for the machine's outer address


@dataclass(frozen=True)
class Ray:
    """A Ray task for each job.

    address: of a cluster, None for one of its own on this machine. num_cpus, num_gpus, memory_gb: what a job asks for.
    retries: how often a job whose machine was lost is begun again. at_once: the most that are submitted together.
    working_dir: a folder that Ray copies to the machines; environment: variables set there, beside PYTHONPATH.
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
        """ConfigError where Ray is not installed."""
        require_installed("ray", "hydra/launcher=ray", "ray")
        if self.working_dir is not None and not Path(self.working_dir).is_dir():
            raise ConfigError(f"hydra.launcher.working_dir={self.working_dir}: must be a folder that exists.")

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        return [f"{len(jobs)} jobs, a Ray task each, on {self.address or 'a cluster of its own on this machine'}"]

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        units = [*going_on, *([job] for job in fresh)]
        job_queue.run(sweep, units, _Tasks(self), self.at_once)


class _Tasks:
    """An `elsewhere.Queue`."""

    def __init__(self, settings: Ray) -> None:
        if settings.address is None:
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        remove_lazy_module("tensorflow")  # Ray looks at every module, and that would load it
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
        # max_calls: a process a job, so that none inherits another's TensorFlow
        self._remote = ray.remote(max_retries=settings.retries, retry_exceptions=False, max_calls=1, **wanted)(_on_ray)
        self._ray = ray

    def submit(self, tasks: list[dict[str, Any]]) -> Any:
        return self._remote.remote(tasks)

    def result(self, handle: Any) -> str | None:
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            return self._ray.get(handle)
        except Exception as error:  # noqa: BLE001 (whatever ended the task: its process, its machine, Ray itself)
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
