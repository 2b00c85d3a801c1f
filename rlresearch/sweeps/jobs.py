"""From the overrides of many jobs to their configurations: frozen, checked, and fast enough for ten thousand.

Hydra takes 0.1 s and more for one. Jobs that make the same choices and set the same keys differ only in the values at
these keys: one of them is composed, and the others are that one with other values. The last of each such family is
composed too, and compared; where anything differs, Hydra composes them all.
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

CHECKED_VALUES = 50  # of one sweep key, before the first job; each job is checked again
ALL_CHECKED = 1_000  # jobs; of more, each value of each key is checked in a few


class _Family(NamedTuple):
    """Jobs that make the same choices and set the same keys. exact: whether setting values is all there is to it."""

    number: int
    composed: Composed
    exact: bool


class Composer:
    """Makes jobs from overrides. bases: what they have in common, those of earlier batches first."""

    def __init__(self, extra_folder: str | None = None, bases: Sequence[Base] = ()) -> None:
        self.bases = list(bases)
        self._folder = extra_folder
        self._families: dict[tuple, _Family] = {}
        self._settings: dict[str, tuple[str, Any] | None] = {}

    def jobs(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """A job for each list of overrides, numbered from `first`. ConfigError, one line, on a wrong one."""
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
        """What decides the family, and the values that are set in it."""
        settings = [(text, self._settings[text]) for text in overrides]
        choices = tuple(text for text, each in settings if each is None)
        values = dict(each for _, each in settings if each is not None)
        return (choices, tuple(sorted(values))), values

    def _compare(self, batch: Sequence[Sequence[str]]) -> None:
        """Composes the first of each new family, and the last to see whether it comes out the same."""
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
    """A copy of a configuration with other values at dotted keys, which must be there."""
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
    """A job's configuration, as it was composed when the sweep was planned."""
    return with_values(bases[job.base].config, job.values)


def check(jobs: Sequence[Job], bases: Sequence[Base], packages: Sequence[str] | None = None) -> dict[int, Plan]:
    """The plans of jobs, of all or of so many that each value of each key is in some. ConfigError on a wrong one."""
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
    """Whether a value at one of these keys may show in another place too."""
    return "" in referred or any(
        name == key or name.startswith(f"{key}.") or key.startswith(f"{name}.") for key in keys for name in referred
    )


def _at(config: Mapping[str, Any], key: str) -> Any:
    for name in key.split("."):
        config = config[name]
    return config


def _copied(node: Any) -> Any:
    """Much faster than copy.deepcopy, which looks for what is shared."""
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(each) for each in node] if isinstance(node, list) else node
