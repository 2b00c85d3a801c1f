"""A run that is a trial of a search: what it tells the study, and whether it goes on.

A search gives every run that it starts the key `trial`, which says where the study lies and which trial the run is. At
each evaluation the run tells its score, and asks the study's pruner whether it is worth going on. Nothing is asked
between evaluations.

A trial may have several parts (seeds, environments), which run one after the other. Its step, by which trials are
compared, counts the environment steps of all its parts so far; its score there is the mean (or interquartile mean) of
the parts that are done and of the one that runs. So the pruner sees one curve a trial, and also stops a trial between
two of its seeds.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args

import annotated_types as at
import numpy as np

from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.stats import STATISTICS

# Where a study keeps its settings, and a trial the record of each part, and the step at which it was pruned.
SEARCH, PART, PRUNED_AT = "search", "part {}", "pruned in part {}"
FROM_EVALUATIONS = ("return", "best", "auc")  # objectives that are known while a run goes on
FROM_TIMES = {"wall_time": "wall_time_s", "training_time": "training_time_s", "steps_per_second": "steps_per_second"}
PrunerName = Literal["none", "median", "percentile", "successive_halving", "hyperband"]
PRUNERS = get_args(PrunerName)

_log = logging.getLogger("rlresearch.training.optuna_trial")


@dataclass(frozen=True)
class Trial:
    """storage: a journal file, or the URL of a database; study: its name there; number: of the trial; part: of the
    trial's parts.
    """

    storage: str | None = None
    study: str | None = None
    number: Annotated[int, at.Ge(0)] = 0
    part: Annotated[int, at.Ge(0)] = 0


def trial_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a configuration says of the trial that its run is; None where it is none."""
    told = config.get("trial") or {}
    return dict(told) if told.get("storage") is not None else None


def without_trial(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the same run, had nobody searched."""
    return {**config, "trial": {"storage": None, "study": None, "number": 0, "part": 0}}


class TrialMembers(NamedTuple):
    """The members of a run that are one trial together."""

    trial: Trial
    members: tuple[int, ...]


class TrialReporter:
    """One trial's line to its study. pruned_at: the step at which an earlier attempt was.

    What an earlier attempt was told at a step stays so: trials that have ended since would change the pruner's mind,
    and the run would not be the one that was interrupted.
    """

    def __init__(self, trial: TrialMembers) -> None:
        self.members, self._trial = trial.members, trial.trial
        self.pruned_at: int | None = None
        self._study: Any = None  # Optuna's; None where the trial is over, or the study out of reach
        self._id = 0  # of the trial, in the study's storage
        self._settings: dict[str, Any] = {}  # of the search
        self._part: dict[str, Any] = {}  # which of the trial's parts this run is
        self._before: list[dict[str, Any]] = []  # the records of the parts before it
        self._offset = 0  # their steps
        self._decided = -1  # the step up to which an earlier attempt was decided on
        self._scores: list[float] = []
        with self._patience("nothing of this run is told to it"):
            study = load_study(str(self._trial.storage), str(self._trial.study))
            number = self._trial.number
            self._id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
            frozen = study._storage.get_trial(self._id)
            self._settings = study.user_attrs[SEARCH]
            self._part = self._settings["parts"][self._trial.part]
            self._before = [frozen.user_attrs[PART.format(part)] for part in range(self._trial.part)]
            self._offset = sum(each["step"] for each in self._before)
            self.pruned_at = frozen.user_attrs.get(PRUNED_AT.format(self._trial.part))
            self._decided = max(frozen.intermediate_values, default=-1) - 1  # at the last it may not have been told
            self._study = None if frozen.state.is_finished() else study  # a run that goes on when all is over

    def restore_scores(self, returns: Sequence[Sequence[float]]) -> None:
        """Takes in evaluations that were told before: for each member the mean of each."""
        self._scores = [self._score(own) for own in zip(*returns, strict=True)]

    def should_continue(self, step: int, means: Sequence[float]) -> bool:
        """Tells the score at `step` and asks the pruner. means: the mean return of each of the trial's members."""
        self._scores.append(self._score(means))
        if self._study is None or self._settings["pruner"] == "none":
            return True
        if self._offset + step <= self._decided or step == self.pruned_at:
            return step != self.pruned_at
        with self._patience("it is not asked any more whether this run goes on"):
            name = self._settings["objectives"][0]
            before = [each["values"][name] for each in self._before]
            score = aggregated([*before, from_evaluations(name, self._scores)], self._settings["aggregate"])
            storage = self._study._storage
            storage.set_trial_intermediate_value(self._id, self._offset + step, float(score))
            if not self._study.pruner.prune(self._study, storage.get_trial(self._id)):
                return True
            storage.set_trial_user_attr(self._id, PRUNED_AT.format(self._trial.part), step)
            return False
        self._study = None
        return True

    def record(self, summaries: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> None:
        """Tells the study how this part of the trial ended, and the objectives of one that finished or was pruned.

        summaries, runs: of the trial's members, as in `Pruner.record`.
        """
        if self._study is None:
            return
        status, step = summaries[0]["status"], int(summaries[0]["total_steps"])
        told = {"status": status, "step": step, "run": str(runs[0]["path"]), "reason": summaries[0].get("reason")}
        if status in ("finished", "pruned"):
            told["values"] = {name: self._value(name, summaries, runs) for name in self._settings["objectives"]}
        with self._patience("its score is lost"):
            self._study._storage.set_trial_user_attr(self._id, PART.format(self._trial.part), told)

    def _score(self, returns: Sequence[float]) -> float:
        return normalised(aggregated(returns, self._settings.get("aggregate", "mean")), self._part)

    def _value(self, name: str, summaries: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> float:
        if name in FROM_EVALUATIONS:
            return from_evaluations(name, self._scores)
        if name in FROM_TIMES:
            return float(summaries[0][FROM_TIMES[name]])
        return float(np.mean([(run["row"] or {}).get(name, np.nan) for run in runs]))

    def _patience(self, consequence: str) -> contextlib.AbstractContextManager[None]:
        return _WarnOnError(f"study {self._trial.study} cannot be reached, {consequence}")


class _WarnOnError(contextlib.AbstractContextManager[None]):
    """A study out of reach must not end a run: any error becomes a warning."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, Exception):
            _log.warning("%s: %s: %s", self._consequence, type(error).__name__, error)
        return isinstance(error, Exception)


def from_evaluations(name: str, scores: Sequence[float]) -> float:
    """An objective of the scores of all evaluations so far: the last, the best, or the mean (`auc`: of evaluations
    that are equally far apart it is the area under the learning curve, divided by its length).
    """
    if name == "return":
        return float(scores[-1])
    return float(max(scores)) if name == "best" else float(np.mean(scores))


def normalised(score: float, part: Mapping[str, Any]) -> float:
    """0 for a random policy, 1 for the target, where the part has these; else the score as it is."""
    low, high = part.get("random"), part.get("target")
    return score if low is None or high is None else (score - low) / (high - low)


def aggregated(scores: Sequence[float], how: str) -> float:
    """The `mean`, or the interquartile mean, `iqm`."""
    return float(STATISTICS[how]([np.asarray(scores, np.float64)]))


def open_storage(storage: str, heartbeat_s: int | None = None) -> Any:
    """Optuna's storage: a journal file, or where `storage` is a URL a database. heartbeat_s: seconds between signs of
    life of a controller that shares it with others.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Optuna calls experimental
        if "://" not in storage:
            backend = JournalFileBackend(os.fspath(storage))
            return optuna.storages.JournalStorage(backend)
        retry = optuna.storages.RetryHeartbeatStaleTrialCallback()
        return optuna.storages.RDBStorage(
            storage,
            heartbeat_interval=heartbeat_s,
            grace_period=None if heartbeat_s is None else 2 * heartbeat_s,
            heartbeat_stale_trial_callback=None if heartbeat_s is None else retry,
        )


def load_study(storage: str, name: str) -> Any:
    """A study that exists, with its pruner."""
    import optuna

    study = optuna.load_study(study_name=name, storage=open_storage(storage))
    settings = study.user_attrs[SEARCH]
    study.pruner = make_pruner(settings["pruner"], settings["pruner_options"])
    return study


def make_pruner(name: str, options: Mapping[str, Any]) -> Any:
    """Optuna's pruner of that name. ConfigError where it does not know an option, or refuses its value."""
    from optuna import pruners

    classes = {
        "none": pruners.NopPruner,
        "median": pruners.MedianPruner,
        "percentile": pruners.PercentilePruner,
        "successive_halving": pruners.SuccessiveHalvingPruner,
        "hyperband": pruners.HyperbandPruner,
    }
    return create_from_options(classes[name], options, "hydra.sweeper.pruner_options")


def create_from_options(cls: type, options: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """An object of Optuna's from options that a user wrote. ConfigError, about `where`, where they do not fit."""
    known = [name for name in inspect.signature(cls).parameters if name not in fixed]
    for name, value in options.items():
        if name not in known:
            why = f"{cls.__name__} has no such option{allowed_hint(name, known)}"
            raise ConfigError(f"{where}.{name}={format_value(value)}: {why}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cls(**options, **fixed)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}={format_value(dict(options))}: {cls.__name__}: {error}") from None
