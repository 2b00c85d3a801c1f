"""How often to return to Python; nothing about reinforcement learning.

`Device`, `Host` and `Population` are what `conf/runner` names. Each starts a runner, which has
`members` (the seeds it trains), `iteration`, `advance(iterations, fresh)`, `rows()`, `policy(obs)`,
`state()` and `close()`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import annotated_types as at

from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError
from rlresearch.trainer import Trainer


@dataclass(frozen=True)
class Device:
    """Environment and learning in one compiled loop."""

    def check(self, trainer: Trainer, task: Task) -> None:
        _require_physics("device", task)

    def start(self, trainer: Trainer, task: Task, seed: int) -> Any:
        from rlresearch.runners.device import DeviceRunner

        return DeviceRunner(trainer, task, seed)


@dataclass(frozen=True)
class Host:
    """A Gymnasium environment stepped from Python, everything else compiled."""

    def check(self, trainer: Trainer, task: Task) -> None:
        """Any task can be stepped from Python."""

    def start(self, trainer: Trainer, task: Task, seed: int) -> Any:
        from rlresearch.runners.host import HostRunner

        return HostRunner(trainer, task, seed)


@dataclass(frozen=True)
class Population:
    """Many runs in one compiled loop.

    seeds: members; their seeds count up from the run's. values: one value a member for each dotted
    configuration key, `algo.gamma` or `optimizer.lr`.
    """

    seeds: Annotated[int, at.Gt(0)] = 8
    values: Mapping[str, Any] = field(default_factory=dict)

    def check(self, trainer: Trainer, task: Task) -> None:
        from rlresearch.runners.population import check_values

        _require_physics("population", task)
        check_values(trainer.algo, self.paths, self.seeds)

    def start(self, trainer: Trainer, task: Task, seed: int) -> Any:
        from rlresearch.runners.population import PopulationRunner

        return PopulationRunner(trainer, task, range(seed, seed + self.seeds), self.paths)

    @property
    def keys(self) -> dict[str, Any]:
        """`values` by dotted configuration key."""
        return flattened(self.values)

    @property
    def paths(self) -> dict[str, Any]:
        """`values` by the fields of the algorithm: its own are under `algo.`, its parts have their group's name."""
        return {key.removeprefix("algo."): each for key, each in self.keys.items()}


def flattened(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted key."""
    flat = {}
    for key, value in tree.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _require_physics(runner: str, task: Task) -> None:
    if task.physics is None:
        raise ConfigError(f"runner={runner} needs a compiled environment, but env {task.id!r} has none: use runner=host.")
