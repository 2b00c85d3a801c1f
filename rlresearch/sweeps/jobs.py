"""Composes the configurations of many jobs from their overrides; fast enough for ten thousand jobs.

Hydra needs 0.1 s or more for one configuration. Jobs with the same choices and the same keys differ only in the values
at these keys; they are a family. Hydra composes the first job of a family; the others are copies with other values. As
a check, Hydra also composes the last job. If the result differs from the copy, Hydra composes every job of the family.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rlresearch.config.compose import Composed, compose, tuned_values
from rlresearch.config.overrides import set_values
from rlresearch.errors import ConfigError, format_value
from rlresearch.sweeps.ledger import Base, Job, swept, swept_overrides
from rlresearch.training.experiment import Plan, plan
from rlresearch.training.resume import check_source

CHECKED_VALUES = 50  # values of one key that are checked before the sweep starts; each job is checked again later
ALL_CHECKED = 1_000  # the first jobs are all checked; later ones only where they have a value that was not seen


class _Family(NamedTuple):
    """Jobs with the same choices and the same keys. exact: whether copies with other values are correct."""

    number: int
    composed: Composed
    exact: bool


class Composer:
    """Makes jobs from overrides. bases: the common parts of jobs, in the order in which they were composed."""

    def __init__(self, extra_folder: str | None = None, bases: Sequence[Base] = ()) -> None:
        self.bases = list(bases)
        self._folder = extra_folder
        self._families: dict[tuple, _Family] = {}
        self._settings: dict[str, tuple[str, Any] | None] = {}

    def jobs(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Returns a job for each list of overrides, numbered from `first`. Errors: ConfigError, one line."""
        new = [text for text in dict.fromkeys(text for each in batch for text in each) if text not in self._settings]
        self._settings |= set_values(new, self._folder) if new else {}
        self._compare(batch)
        return [self._job(first + index, list(overrides)) for index, overrides in enumerate(batch)]

    def _job(self, number: int, overrides: list[str]) -> Job:
        key, values = self._split(overrides)
        family = self._families[key]
        if not family.exact:
            return Job(number, self._base(compose(overrides, self._folder)), {}, overrides)
        own = {name: value for name, value in values.items() if _at(family.composed.config, name) is not value}
        return Job(number, family.number, own, overrides)

    def _split(self, overrides: Sequence[str]) -> tuple[tuple, dict[str, Any]]:
        """Returns the key of the family (choices and sorted keys), and the values by key."""
        settings = [(text, self._settings[text]) for text in overrides]
        choices = tuple(text for text, each in settings if each is None)
        values = dict(each for _, each in settings if each is not None)
        return (choices, tuple(sorted(values))), values

    def _compare(self, batch: Sequence[Sequence[str]]) -> None:
        """Composes the first job of each new family, and the last one to check that copies are correct."""
        ends: dict[tuple, list[Sequence[str]]] = {}
        for overrides in batch:
            key, _ = self._split(overrides)
            if key not in self._families:
                ends[key] = [ends.get(key, [overrides])[0], overrides]
        for key, (first, last) in ends.items():
            composed = compose(first, self._folder)
            exact = not _referred_to(key[1], composed.referenced())
            if exact and first is not last:
                exact = with_values(composed.config, self._split(last)[1]) == compose(last, self._folder).config
            self._families[key] = _Family(self._base(composed) if exact else -1, composed, exact)

    def _base(self, composed: Composed) -> int:
        tuned = tuned_values(composed.choices.get("tuned"), composed.config, self._folder)
        choices = {name: option for name, option in composed.choices.items() if not name.startswith("hydra/")}
        self.bases.append(Base(composed.config, choices, tuned))
        return len(self.bases) - 1


def with_values(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a configuration with other values at dotted keys. Errors: KeyError for a missing key."""
    made = _copied(config)
    for key, value in values.items():
        *path, last = key.split(".")
        node = made
        for name in path:
            node = node[name]
        if last not in node:
            raise KeyError(key)
        node[last] = copy.deepcopy(value)
    return made


def frozen(job: Job, bases: Sequence[Base]) -> dict[str, Any]:
    """Returns the configuration of a job, as it was composed when the sweep was planned."""
    return with_values(bases[job.base].config, job.values)


def check(jobs: Sequence[Job], bases: Sequence[Base], packages: Sequence[str] | None = None) -> dict[int, Plan]:
    """Plans jobs and returns the plans by job number. Errors: ConfigError that names the wrong job.

    In a large sweep it plans only some jobs, chosen so that each value of each key occurs (up to 50 per key).
    """
    plans = {}
    for job in _samples(jobs):
        try:
            plans[job.number] = plan(frozen(job, bases), packages)
            check_source(plans[job.number])
        except ConfigError as error:
            which = [text for text in swept_overrides(job, swept(jobs)) if text.partition("=")[0] not in str(error)]
            where = f" (job {job.number}: {format_value(' '.join(which))})" if len(jobs) > 1 and which else ""
            raise ConfigError(f"{error}{where}") from None
    return plans


def _samples(jobs: Sequence[Job]) -> Iterator[Job]:
    seen: dict[str, set] = {}
    for job in jobs:
        new = False
        for text in job.overrides:
            values = seen.setdefault(text.partition("=")[0], set())
            if text not in values and len(values) < CHECKED_VALUES:
                values.add(text)
                new = True
        if new or job.number < ALL_CHECKED:
            yield job


def _referred_to(keys: Sequence[str], referred: frozenset[str]) -> bool:
    """Returns whether an interpolation refers to one of these keys, so that its value also appears elsewhere."""
    return "" in referred or any(
        name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.") for key in keys for name in referred
    )


def _at(config: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _copied(node: Any) -> Any:
    """Copies a tree of dicts and lists; much faster than copy.deepcopy, which also looks for shared objects."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(each) for each in node] if isinstance(node, list) else node
