"""The settings of a search with Optuna, and all checks that are possible before the first run."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import annotated_types as at

from rlresearch.config.compose import compose
from rlresearch.config.instantiate import make
from rlresearch.config.overrides import SearchSpec
from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.runners.metrics import EPISODE_METRICS
from rlresearch.sweeps.search.samplers import SamplerName, check_sampler
from rlresearch.sweeps.search.space import Range, space
from rlresearch.training.experiment import Plan, plan
from rlresearch.training.optuna_trial import FROM_EVALUATIONS, FROM_TIMES, PrunerName, make_pruner
from rlresearch.training.resume import named_packages

WHERE = "hydra.sweeper"
_NEEDS = {"qmc": ["scipy"], "gp": ["scipy", "torch"], "cmaes": ["cmaes"]}
_MINIMIZED = ("wall_time", "training_time")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")

Names = str | tuple[str, ...]


@dataclass(frozen=True)
class SearchSettings:
    """The keys of `conf/hydra/sweeper/optuna.yaml`; that file explains each."""

    n_trials: Annotated[int, at.Gt(0)] = 30
    n_jobs: Annotated[int, at.Gt(0)] = 1
    params: Mapping[str, Any] | None = None
    sampler: SamplerName = "tpe"
    sampler_options: Mapping[str, Any] | None = None
    seed: Annotated[int, at.Interval(ge=0, lt=2**31)] = 0
    pruner: PrunerName = "none"
    pruner_options: Mapping[str, Any] | None = None
    objective: Names = "return"
    direction: Names | None = None
    seeds_per_trial: Annotated[int, at.Gt(0)] = 1
    aggregate: Literal["mean", "iqm"] = "mean"
    environments: tuple[str, ...] | None = None
    references: Mapping[str, Any] | None = None
    storage: str | None = None
    study_name: str | None = None
    max_failure_rate: Annotated[float, at.Interval(ge=0, le=1)] = 1.0
    heartbeat_s: Annotated[int, at.Gt(0)] = 60
    directory: str | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives, one or several."""
        return (self.objective,) if isinstance(self.objective, str) else self.objective

    @property
    def directions(self) -> tuple[str, ...]:
        """minimize or maximize, for each objective."""
        if self.direction is None:
            return tuple("minimize" if name in _MINIMIZED else "maximize" for name in self.objectives)
        return (self.direction,) if isinstance(self.direction, str) else self.direction


class Prepared(NamedTuple):
    """A checked search. fixed: overrides of all its runs. made: the plan of one run.

    packages: packages from which components may come, None for any; a resumed search is read from a file, so it must
    name them. config_dir: the argument of --config-dir.
    """

    settings: SearchSettings
    fixed: list[str]
    space: dict[str, Range]
    plan: Plan
    packages: list[str] | None = None
    config_dir: str | None = None

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The runs of each trial, as {seed, env}. env: a name of `environments`, None where that is not set.

        A run with an env also has `random` and `target`: the returns that become the scores 0 and 1.
        """
        references = self.settings.references or {}
        envs = [{"env": name, **references[name]} for name in self.settings.environments or ()] or [{"env": None}]
        first = self.plan.settings.seed
        return [{"seed": first + index} | each for index in range(self.settings.seeds_per_trial) for each in envs]

    @property
    def pruner_options(self) -> dict[str, Any]:
        """The options of the pruner. Default rungs, in environment steps, go from the first evaluation to the end of
        a trial's last run.
        """
        own, made = dict(self.settings.pruner_options or {}), self.plan
        if self.settings.pruner in ("successive_halving", "hyperband"):
            own.setdefault("min_resource", made.eval.every_steps or made.settings.total_steps)
        if self.settings.pruner == "hyperband":
            own.setdefault("max_resource", made.settings.total_steps * len(self.parts))
        return own


def settings_of(values: Mapping[str, Any]) -> SearchSettings:
    """Returns the checked settings of a sweeper. Errors: ConfigError, one line, about the first wrong setting."""
    return make(SearchSettings, {key: each for key, each in values.items() if key != "_target_"}, WHERE)


def prepare(asked: SearchSpec, extra_folder: str | None = None) -> Prepared:
    """Checks the settings of a search and returns them. Errors: ConfigError, one line."""
    settings = settings_of(asked.settings)
    ranges = space(asked.swept)
    _check_space(settings, ranges)
    first = [f"{key}={each.ends[0]}" for key, each in ranges.items()]
    config = compose([*asked.fixed, *first], extra_folder).config
    packages = None
    if settings.directory is not None:
        packages = ["rlresearch", *named_packages(config["packages"], extra_folder)]
    prepared = Prepared(settings, asked.fixed, ranges, plan(config, packages), packages, extra_folder)
    _check(prepared)
    return prepared


def samples(prepared: Prepared) -> list[list[str]]:
    """Returns overrides of some runs. Each end of a range, each choice and each environment occurs in one of them."""
    ends = {key: [f"{key}={end}" for end in each.ends] for key, each in prepared.space.items()}
    if prepared.settings.environments:
        ends["env"] = [f"env={name}" for name in prepared.settings.environments]
    first = {key: each[0] for key, each in ends.items()}
    rest = [first | {key: value} for key, each in ends.items() for value in each[1:]]
    return [[*prepared.fixed, *each.values()] for each in [first, *rest]]


def _check(prepared: Prepared) -> None:
    """Errors: ConfigError where the settings of the search are wrong or do not fit together."""
    settings, made = prepared.settings, prepared.plan
    for name in ("optuna", *_NEEDS.get(settings.sampler, [])):
        if importlib.util.find_spec(name) is None:
            told = "pip install 'rlresearch[optuna]'" if name != "torch" else "pip install torch (which is large)"
            raise ConfigError(f"{WHERE}.sampler={settings.sampler}: needs the package {name}: {told}.")
    _check_objectives(settings, made)
    _check_environments(settings)
    _check_pruner(prepared)
    if settings.sampler == "cmaes" and len(settings.objectives) > 1:
        raise ConfigError(f"{WHERE}.sampler=cmaes: knows one objective; use tpe or gp.")
    check_sampler(settings.sampler, settings.sampler_options or {}, settings.seed, prepared.space)
    if settings.storage is not None and _PASSWORD.search(settings.storage):
        why = "holds a password, which every run directory would keep; put it into PGPASSWORD or ~/.pgpass"
        raise ConfigError(f"{WHERE}.storage: {why}.")
    if settings.storage is not None and "://" in settings.storage and not settings.study_name:
        raise ConfigError(f"{WHERE}.study_name is missing: controllers that share a database meet in a study's name.")


def _check_space(settings: SearchSettings, space: Mapping[str, Range]) -> None:
    if not space:
        raise ConfigError("nothing to search over: give a key several values, such as algo.gamma=interval(0.9,0.999).")
    if "seed" in space:
        raise ConfigError(f"seed: is not searched over; {WHERE}.seeds_per_trial=N trains each trial with N seeds.")
    if "env" in space and settings.environments:
        raise ConfigError(f"env: has several values, and so has {WHERE}.environments; leave one of them out.")
    for name in ("trial", "resume", "runs_dir"):
        if name in space:
            raise ConfigError(f"{name}: is not searched over.")


def _check_objectives(settings: SearchSettings, made: Plan) -> None:
    known = [*FROM_EVALUATIONS, *FROM_TIMES, *EPISODE_METRICS, *made.trainer.algo.METRICS]
    for name in settings.objectives:
        if name not in known:
            raise ConfigError(f"{WHERE}.objective={format_value(name)}: no run reports it{allowed_hint(name, known)}")
    if len(set(settings.objectives)) < len(settings.objectives) or not settings.objectives:
        raise ConfigError(
            f"{WHERE}.objective={format_value(settings.objective)}: must be different names, at least one."
        )
    for each in settings.directions:
        if each not in ("minimize", "maximize"):
            raise ConfigError(f"{WHERE}.direction={format_value(each)}: must be minimize or maximize.")
    if len(settings.directions) != len(settings.objectives):
        where = f"{WHERE}.direction={format_value(settings.direction)}"
        raise ConfigError(f"{where}: must be one for each objective, of which there are {len(settings.objectives)}.")


def _check_pruner(prepared: Prepared) -> None:
    settings, made = prepared.settings, prepared.plan
    where = f"{WHERE}.pruner={settings.pruner}"
    make_pruner(settings.pruner, prepared.pruner_options)
    if settings.pruner == "none":
        return
    if len(settings.objectives) > 1 or settings.objectives[0] not in FROM_EVALUATIONS:
        why = "prunes by one objective that is known while runs go on"
        raise ConfigError(f"{where}: {why}: {', '.join(FROM_EVALUATIONS)}.")
    if made.eval.every_steps is None or made.eval.every_steps >= made.settings.total_steps:
        raise ConfigError(f"{where}: needs evaluations while runs go on; set eval.every_steps below total_steps.")


def _check_environments(settings: SearchSettings) -> None:
    references = settings.references or {}
    for name in settings.environments or ():
        own = references.get(name)
        if not isinstance(own, Mapping) or set(own) != {"random", "target"}:
            where = f"{WHERE}.references.{name}={format_value(own)}"
            raise ConfigError(f"{where}: must be a mapping, like {{random:-1200,target:-150}}, to normalise by.")
        if not all(isinstance(each, int | float) for each in own.values()) or own["random"] == own["target"]:
            raise ConfigError(f"{WHERE}.references.{name}={format_value(own)}: must be two different numbers.")
