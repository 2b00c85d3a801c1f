"""Optuna's samplers with reproducible seeds: a proposal depends only on the seed, the trial's number and the study.

So a controller that was killed proposes the same trials after a resume. Controllers that share a study never draw the
same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from rlresearch.errors import ConfigError
from rlresearch.sweeps.search.space import Choice, Range, distributions
from rlresearch.training.optuna_trial import create_from_options

SamplerName = Literal["tpe", "random", "grid", "qmc", "gp", "cmaes"]
SAMPLERS = get_args(SamplerName)
_LARGEST_GRID = 1_000_000
_OPTIONS = "hydra.sweeper.sampler_options"


def check_sampler(name: str, options: Mapping[str, Any], seed: int, space: Mapping[str, Range]) -> None:
    """Tests whether the sampler `name` works for this space with these options. Errors: ConfigError."""
    if name == "grid":
        size_of_grid(space)
    _sampler(name, options, seed, space, 0)


def seeded_sampler(name: str, options: Mapping[str, Any], seed: int, space: Mapping[str, Range]) -> Any:
    """Returns a sampler that gets a new seed for each trial, from `seed` and the trial's number."""
    from optuna.samplers import BaseSampler

    class Seeded(BaseSampler):
        def __init__(self) -> None:
            self._own = _sampler(name, options, seed, space, 0)

        def before_trial(self, study: Any, trial: Any) -> None:
            self._own = _sampler(name, options, seed, space, trial.number)
            self._own.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return self._own.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
            return self._own.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            return self._own.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
            if name != "grid":  # the grid sampler would stop Optuna's own loop, which is not used here
                self._own.after_trial(study, trial, state, values)

    return Seeded()


def size_of_grid(space: Mapping[str, Range]) -> int:
    """Returns the number of points of a grid. Errors: ConfigError where a range has no steps, or for a huge grid."""
    size = 1
    for each in _grid(space):
        size *= len(each)
        if size > _LARGEST_GRID:
            raise ConfigError(f"hydra.sweeper.sampler=grid: has more than {_LARGEST_GRID:,} points.")
    return size


def _grid(space: Mapping[str, Range]) -> list[list[Any]]:
    axes: list[list[Any]] = []
    for key, each in space.items():
        if isinstance(each, Choice):
            axes.append(list(each.values))
            continue
        if each.step is None and not each.whole:
            raise ConfigError(f"{key}: a grid needs steps: a list, or range(START,STOP,STEP), in place of an interval.")
        step = each.step or 1
        count = round((each.high - each.low) / step)
        if count > _LARGEST_GRID:
            raise ConfigError(f"{key}: has more than {_LARGEST_GRID:,} values, too many for a grid.")
        values = [each.low + index * step for index in range(count + 1)]
        axes.append([int(value) for value in values] if each.whole else [round(value, 12) for value in values])
    return axes


def _sampler(name: str, options: Mapping[str, Any], seed: int, space: Mapping[str, Range], number: int) -> Any:
    from optuna import samplers

    own = (seed * 1_000_003 + number * 7_919 + 1) % 2**31
    rest = samplers.RandomSampler(seed=own + 1)  # for choices, which a sampler of numbers cannot draw
    if name == "grid":
        axes = dict(zip(space, _grid(space), strict=True))
        return create_from_options(samplers.GridSampler, options, _OPTIONS, search_space=axes, seed=seed)
    if name == "qmc":  # one sequence for the whole study, so its seed stays; the study stores the position
        fixed = {"seed": seed, "independent_sampler": rest, "warn_independent_sampling": False}
        return create_from_options(_known_space(distributions(space)), {"scramble": True, **options}, _OPTIONS, **fixed)
    if name == "cmaes":
        fixed = {"seed": own, "independent_sampler": rest, "warn_independent_sampling": False}
        return create_from_options(samplers.CmaEsSampler, options, _OPTIONS, **fixed)
    if name == "gp":
        return create_from_options(samplers.GPSampler, options, _OPTIONS, seed=own, independent_sampler=rest)
    classes = {"tpe": samplers.TPESampler, "random": samplers.RandomSampler}
    return create_from_options(classes[name], options, _OPTIONS, seed=own)


def _known_space(space: dict[str, Any]) -> type:
    """Returns a QMCSampler that knows the space. Optuna's class infers it from the first trial, which is random."""
    from optuna.samplers import QMCSampler

    return type("QMCSampler", (QMCSampler,), {"infer_relative_search_space": lambda self, study, trial: dict(space)})
