"""The table of launchers by name, and the simplest launcher."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlresearch.config.instantiate import make
from rlresearch.errors import ConfigError, allowed_hint, format_value

if TYPE_CHECKING:
    from rlresearch.sweeps.controller import Launcher, Sweep
    from rlresearch.sweeps.ledger import Job

# Module and class of each launcher. Only the chosen module is imported, because some need optional libraries.
LAUNCHERS = {
    "basic": "basic.Basic",
    "fused": "fused.Fused",
    "local": "local.Local",
    "ray": "ray_tasks.Ray",
    "submitit_local": "submitit_jobs.SubmititLocal",
    "submitit_slurm": "submitit_jobs.SubmititSlurm",
}
# Settings with which a sweep reaches other machines or runs shell commands. They are not read from a stored sweep,
# because another person may have written it.
OUTWARD = {"ray": ("address", "working_dir", "environment"), "submitit_slurm": ("setup", "additional")}


def check_outward(name: str, stored: Mapping[str, Any], said: Collection[str]) -> None:
    """Checks stored settings of a launcher. said: the keys that the user has given again.

    Errors: ConfigError where a stored setting is in OUTWARD and the user has not given it again.
    """
    for key in OUTWARD.get(name, ()):
        if stored.get(key) is not None and key not in said:
            why = "reaches beyond the jobs, and is not taken from a stored sweep; if it is right, say it again"
            raise ConfigError(f"hydra.launcher.{key}={format_value(stored[key])}: {why}.")


def create_launcher(name: str, settings: Mapping[str, Any]) -> Launcher:
    """Returns the launcher `hydra/launcher=name` with its settings. Errors: ConfigError, one line."""
    if name not in LAUNCHERS:
        raise ConfigError(
            f"hydra/launcher={format_value(name)}: there is no such launcher{allowed_hint(name, LAUNCHERS)}"
        )
    module, _, kind = LAUNCHERS[name].rpartition(".")
    return make(getattr(import_module(f"rlresearch.sweeps.launchers.{module}"), kind), dict(settings), "hydra.launcher")


@dataclass(frozen=True)
class Basic:
    """Runs one job after the other in this process, which loads TensorFlow once. If it dies, the sweep stops."""

    def check(self) -> None:
        """Does nothing: this launcher works everywhere."""

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        return [f"{len(jobs)} jobs, one after the other in this process"]

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        for unit in [*going_on, *([job] for job in fresh)]:
            sweep.attempt(unit)
