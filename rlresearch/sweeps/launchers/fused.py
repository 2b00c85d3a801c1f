"""Runs jobs as members of a population, in one compiled program, where they differ only in seeds and numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import annotated_types as at

from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError, format_value
from rlresearch.runners import Device, Population
from rlresearch.runtime import devices
from rlresearch.storage.run_directory import timestamp
from rlresearch.sweeps.ledger import INTERRUPTED
from rlresearch.training.experiment import member_configs, plan
from rlresearch.training.optuna_trial import without_trial

if TYPE_CHECKING:
    from rlresearch.sweeps.controller import Sweep
    from rlresearch.sweeps.ledger import Job

_log = logging.getLogger("rlresearch")
_SEED = "seed"


class Group(NamedTuple):
    """Jobs for one program, or a single job. config: the population's configuration, None for a single job. why: the
    reason for a single job.
    """

    jobs: list[Job]
    config: dict[str, Any] | None
    reason: str | None = None


@dataclass(frozen=True)
class Fused:
    """Jobs that differ only in seed and floating-point hyperparameters become members of one compiled program. All
    other jobs run one after the other. Everything runs in this process.

    members: the most members in one program. memory_gb: the memory for all members together, None for what is free
    at the start.
    """

    members: Annotated[int, at.Gt(0)] = 256
    memory_gb: Annotated[float, at.Gt(0)] | None = None

    def check(self) -> None:
        """Does nothing: this launcher works everywhere."""

    def describe(self, sweep: Sweep, jobs: Sequence[Job]) -> list[str]:
        """Returns a line for each program, and the reasons why other jobs run alone."""
        lines = []
        alone: dict[str | None, list[int]] = {}
        for group in grouped(sweep, jobs):
            if group.config is None:
                alone.setdefault(group.reason, []).append(group.jobs[0].number)
                continue
            runner = group.config["runner"]
            keys = [_SEED] * (len(set(runner["seeds"])) > 1) + list(runner["values"] or {})
            parts = -(-len(group.jobs) // self.members)
            programs = f", in {parts} programs of at most {self.members}" if parts > 1 else ""
            lines.append(
                f"one program: {len(group.jobs)} jobs {_span(group.jobs)} that differ in {', '.join(keys)}{programs}"
            )
        for why, numbers in alone.items():
            lines.append(f"alone: job{'s' if len(numbers) > 1 else ''} {format_value(numbers)[1:-1]}: {why}")
        return lines

    def run(self, sweep: Sweep, going_on: Sequence[Sequence[Job]], fresh: Sequence[Job]) -> None:
        for unit in going_on:
            sweep.attempt(unit)
        for group in grouped(sweep, fresh):
            if group.config is None:
                sweep.attempt(group.jobs)
                continue
            self._in_parts(sweep, group)

    def _together(self, sweep: Sweep, jobs: Sequence[Job]) -> None:
        """Runs jobs as one program. If some jobs make it fail, it runs the others again without them."""
        config = fused_config([sweep.config(job) for job in jobs])
        if len(jobs) == 1:
            sweep.attempt(jobs)
            return
        outcomes = sweep.attempt(jobs, config)
        rest = [job for job, outcome in zip(jobs, outcomes) if outcome.status == INTERRUPTED]
        if not rest:
            return
        why = outcomes[0].reason or ""
        if len(rest) < len(jobs):
            sweep.say(
                f"{len(jobs) - len(rest)} of {len(jobs)} jobs failed; the other {len(rest)} begin again without them"
            )
            again = [rest]
        elif "ResourceExhausted" in why or "out of memory" in why.lower():
            sweep.say(f"{len(jobs)} jobs in one program need too much memory: once more in two halves")
            again = [rest[: len(rest) // 2], rest[len(rest) // 2 :]]
        else:
            sweep.say(f"{len(jobs)} jobs cannot be one program, they run alone: {why}")
            again = [[job] for job in rest]
        for part in again:
            self._together(sweep, part)

    def _in_parts(self, sweep: Sweep, group: Group) -> None:
        """Runs a group as programs of nearly equal size, as large as memory allows.

        The size of the first program follows from the predicted memory per member. Later ones use the measured memory.
        """
        made = plan(sweep.config(group.jobs[0]), sweep.packages)
        settings = made.settings
        devices.prepare(settings.device, settings.threads, settings.deterministic, settings.compile_cache)
        from rlresearch.sweeps.launchers import memory

        rest, each = list(group.jobs), memory.member_bytes(made)
        while rest:
            free = self.memory_gb * 1e9 if self.memory_gb else memory.SHARE * memory.available_bytes()
            fitting = max(1, min(self.members, int(free // max(each, 1))))
            if fitting < min(len(rest), self.members):
                sweep.say(f"{fitting} members at a time: each takes {each / 1e6:,.1f} MB of {free / 1e9:,.1f} GB")
            size = -(-len(rest) // -(-len(rest) // fitting))
            part, rest = rest[:size], rest[size:]
            used = memory.Used()
            self._together(sweep, part)
            took = used.bytes()
            told = {"jobs": len(part), "member_bytes": each, "free_bytes": int(free), "used_bytes": took}
            sweep.book.write("memory", at=timestamp(), **told)
            each = max(each, (took - memory.PROGRAM) // len(part))


def grouped(sweep: Sweep, jobs: Sequence[Job]) -> list[Group]:
    """Returns groups of jobs that can be one program, in the order of the jobs; each job is in exactly one group."""
    paths: dict[tuple, Any] = {}
    groups: dict[str, list[Job]] = {}
    alone: list[Group] = []
    for job in jobs:
        config = sweep.config(job)
        shape = job.base, tuple(value for key, value in sorted(job.values.items()) if isinstance(value, str))
        if shape not in paths:
            paths[shape] = _fusable(config, sweep.packages)
        if isinstance(paths[shape], str):
            alone.append(Group([job], None, paths[shape]))
        else:
            groups.setdefault(_signature(config, paths[shape]), []).append(job)
    made = [_group(sweep, members) for members in groups.values()]
    return [group for each in made for group in each] + alone


def fused_config(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the configuration of a population; its members have the given configurations.

    Settings that differ become `runner.values`. The settings of a search's trial are left out.
    """
    configs = [without_trial(config) for config in configs]
    flat = [flattened(config) for config in configs]
    differing = [key for key in flat[0] if key != _SEED and len({repr(each[key]) for each in flat}) > 1]
    runner = {
        "_target_": "rlresearch.runners.Population",
        "seeds": [each[_SEED] for each in flat],
        "values": {key: [each[key] for each in flat] for key in differing} or None,
    }
    return {**configs[0], "runner": runner}


def _group(sweep: Sweep, jobs: list[Job]) -> list[Group]:
    """Returns one group, if each member's configuration equals the job's exactly; otherwise single jobs."""
    if len(jobs) == 1:
        return [Group(jobs, None, "no other has its shapes and settings")]
    configs = [without_trial(sweep.config(job)) for job in jobs]
    config = fused_config(configs)
    try:
        same = member_configs(plan(config, sweep.packages).runner, config) == configs
        why = None if same else "it differs from the others in more than seed and numbers"
    except ConfigError as error:
        why = str(error)
    return [Group(jobs, config)] if why is None else [Group([job], None, why) for job in jobs]


def _fusable(config: Mapping[str, Any], packages: Sequence[str] | None) -> frozenset[str] | str:
    """Returns the keys in which members may differ, or the reason why this job cannot be a member."""
    from rlresearch.runners.population import float_paths

    made = plan(config, packages)
    if isinstance(made.runner, Population):
        return "it is a population already"
    if not isinstance(made.runner, Device):
        return f"runner={type(made.runner).__name__.lower()} steps its environment in Python"
    groups = ("noise.", "optimizer.")  # these parts have their own groups; all other settings are below `algo.`
    return frozenset(path if path.startswith(groups) else f"algo.{path}" for path in float_paths(made.trainer.algo))


def _signature(config: Mapping[str, Any], paths: frozenset[str]) -> str:
    """Returns a text that is equal for jobs that differ only in their seed and in numbers at `paths`."""
    flat = flattened(without_trial(config))
    own = {key: value for key, value in flat.items() if key != _SEED and not (key in paths and _is_number(value))}
    return json.dumps([own, sorted(flat)], sort_keys=True, default=str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _span(jobs: Sequence[Job]) -> str:
    return format_value([job.number for job in jobs])
