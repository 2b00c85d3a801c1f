"""How often to return to Python; nothing about reinforcement learning.

`Device`, `Host` and `Population` are what `conf/runner` names. Each starts a runner, which has
`members` (the seeds it trains), `silent` (the iterations before the first that may learn), `iteration`,
`advance(iterations, fresh)`, `rows()`, `policy(obs)`, `state()` and `close()`; to be saved, `beside()`, arrays by name
that it needs beside the state, `exact`, whether it can come back to this very place, and
`restore(iteration, state, beside)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import annotated_types as at

from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, alternatives, shown
from rlresearch.trainer import Trainer


class RunnerPart(Protocol):
    """What the group `runner` offers."""

    def check(self, trainer: Trainer, task: Task) -> None:
        """Raises ConfigError where this trainer cannot be run in this task."""

    def start(self, trainer: Trainer, task: Task, seed: int) -> Any:
        """A runner before its first step."""


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

    seeds: members, whose seeds count up from the run's; or the seed of each. values: one value a member for each dotted
    configuration key, `algo.gamma` or `optimizer.lr`; None where members differ in their seed alone.
    """

    seeds: Annotated[int, at.Gt(0)] | tuple[Annotated[int, at.Interval(ge=0, lt=2**63)], ...] = 8
    values: Mapping[str, Any] | None = None

    def check(self, trainer: Trainer, task: Task) -> None:
        from rlresearch.runners.population import float_paths

        _require_physics("population", task)
        if self.seeds == ():
            raise ConfigError("runner.seeds=[]: must have one seed at least.")
        groups = ("noise.", "optimizer.")  # an algorithm's other parts, a schedule, are settings of its own
        known = [path if path.startswith(groups) else f"algo.{path}" for path in sorted(float_paths(trainer.algo))]
        for key, each in self.keys.items():
            setting = f"runner.values={{{key}:{shown(each)}}}"
            if key not in known:
                raise ConfigError(f"{setting}: members cannot differ in this{alternatives(key, known)}")
            count = len(self.of(0))
            if not isinstance(each, list | tuple) or len(each) != count:
                raise ConfigError(f"{setting}: must be a list of {count} values, one for each of runner.seeds.")

    def start(self, trainer: Trainer, task: Task, seed: int) -> Any:
        from rlresearch.runners.population import PopulationRunner

        return PopulationRunner(trainer, task, self.of(seed), self.paths)

    def of(self, seed: int) -> tuple[int, ...]:
        """The seed of each member in a run with that seed."""
        return tuple(range(seed, seed + self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def keys(self) -> dict[str, Any]:
        """`values` by dotted configuration key."""
        return flattened(self.values or {})

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
        raise ConfigError(f"runner={runner}: needs a compiled environment, but {task.id!r} has none; use runner=host.")
