"""What `conf/runner` names: how often to return to Python, and how many members one program has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import annotated_types as at

from rlresearch.config.dotted import flattened
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainingStep


class RunnerPart(Protocol):
    """What the group `runner` offers."""

    def check(self, trainer: TrainingStep, task: Task) -> None:
        """Raises ConfigError where this trainer cannot be run in this task."""
        ...

    def start(self, trainer: TrainingStep, task: Task, seed: int) -> Runner:
        """A runner before its first step."""
        ...


@dataclass(frozen=True)
class Device:
    """Environment and learning in one compiled loop."""

    def check(self, trainer: TrainingStep, task: Task) -> None:
        """ConfigError where the task has no compiled environment."""
        _require_physics("device", task)

    def start(self, trainer: TrainingStep, task: Task, seed: int) -> Runner:
        """A `DeviceRunner` before its first step."""
        from rlresearch.runners.device import DeviceRunner

        return DeviceRunner(trainer, task, seed)


@dataclass(frozen=True)
class Host:
    """A Gymnasium environment stepped from Python, everything else compiled."""

    def check(self, trainer: TrainingStep, task: Task) -> None:
        """Any task can be stepped from Python."""

    def start(self, trainer: TrainingStep, task: Task, seed: int) -> Runner:
        """A `HostRunner` before its first step."""
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

    def check(self, trainer: TrainingStep, task: Task) -> None:
        """ConfigError where the task has no compiled environment, or `seeds` or `values` are wrong."""
        from rlresearch.runners.population import float_paths

        _require_physics("population", task)
        if self.seeds == ():
            raise ConfigError("runner.seeds=[]: must have one seed at least.")
        groups = ("noise.", "optimizer.")  # an algorithm's other parts, a schedule, are settings of its own
        known = [path if path.startswith(groups) else f"algo.{path}" for path in sorted(float_paths(trainer.algo))]
        for key, each in self.keys.items():
            setting = f"runner.values={{{key}:{format_value(each)}}}"
            if key not in known:
                raise ConfigError(f"{setting}: members cannot differ in this{allowed_hint(key, known)}")
            count = len(self.of(0))
            if not isinstance(each, list | tuple) or len(each) != count:
                raise ConfigError(f"{setting}: must be a list of {count} values, one for each of runner.seeds.")

    def start(self, trainer: TrainingStep, task: Task, seed: int) -> Runner:
        """A `PopulationRunner` before its first step. seed: of the first member, where `seeds` is a number."""
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


@dataclass(frozen=True)
class PBT(Population):
    """A population in which, at each evaluation, the worst members go on as copies of the best, with other
    hyperparameters (Jaderberg et al. 2017, "Population Based Training of Neural Networks").

    explore: [lowest, highest] of each hyperparameter that is tried out, by dotted configuration key, None for the
    learning rate; members begin evenly spread between these by magnitude, where `values` says nothing. truncation: the
    share of members that are replaced, and of those that are copied. A copy's hyperparameters are multiplied by one of
    `factors`, or with probability `resample` drawn anew.
    """

    explore: Mapping[str, Any] | None = None
    truncation: Annotated[float, at.Interval(gt=0, le=0.5)] = 0.25
    factors: tuple[Annotated[float, at.Gt(0)], ...] = (0.8, 1.25)
    resample: Annotated[float, at.Interval(ge=0, le=1)] = 0.25

    def check(self, trainer: TrainingStep, task: Task) -> None:
        """As a population's. ConfigError also where there are fewer than two members, or nothing to explore."""
        if not self.factors or self.explore == {}:
            name = "explore" if self.factors else "factors"
            raise ConfigError(f"runner.{name}: must not be empty.")
        for key, each in self.bounds.items():
            pair = isinstance(each, list | tuple) and len(each) == 2
            if not pair or not all(isinstance(end, int | float) for end in each) or not 0 < each[0] < each[1]:
                setting = f"runner.explore={{{key}:{format_value(each)}}}"
                raise ConfigError(f"{setting}: must be [LOWEST,HIGHEST], two numbers above 0.")
        if len(self.of(0)) < 2:
            raise ConfigError(
                f"runner.seeds={format_value(self.seeds)}: must be at least two members, to choose between."
            )
        super().check(trainer, task)

    def start(self, trainer: TrainingStep, task: Task, seed: int) -> Runner:
        """A `PBTRunner` before its first step. seed: of the first member, where `seeds` is a number."""
        from rlresearch.runners.pbt import PBTRunner

        return PBTRunner(trainer, task, self.of(seed), self)

    @property
    def bounds(self) -> dict[str, Any]:
        """`explore` by dotted configuration key."""
        return flattened(self.explore or {"optimizer.lr": [1e-5, 1e-2]})

    @property
    def keys(self) -> dict[str, Any]:
        """What members begin with. A Latin hypercube: of each hyperparameter every member has a part of its own."""
        given, members = flattened(self.values or {}), len(self.of(0))
        drawn = {}
        for key, (low, high) in self.bounds.items():
            places = list(range(members))
            random.Random(key).shuffle(places)
            drawn[key] = [low * (high / low) ** ((place + 0.5) / members) for place in places]
        return drawn | given


def _require_physics(runner: str, task: Task) -> None:
    if task.physics is None:
        raise ConfigError(f"runner={runner}: needs a compiled environment, but {task.id!r} has none; use runner=host.")
    if not task.reseed:
        why = "compiled environments begin each episode from a key of its own"
        raise ConfigError(f"env.reseed=false: {why}; use runner=host, or leave it out.")
