"""A run that is a trial of a search: it reports scores to the study, and the study's pruner may end it.

A search sets the key `trial` of every run that it starts; this key names the study and the trial. At each evaluation
the run reports its score and asks the study's pruner whether to continue. It asks nothing between evaluations.

A trial may have several parts (seeds, environments), which run one after the other. The step of a trial counts the
environment steps of all its parts so far. Its score at a step is the mean (or interquartile mean) of the finished
parts and the current part. So the pruner sees one curve per trial, and can also stop a trial between two parts.
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

# Keys of Optuna's attributes: a study's settings, a trial's record of each part, and the step at which it was pruned.
SEARCH, PART, PRUNED_AT = "search", "part {}", "pruned in part {}"
FROM_EVALUATIONS = ("return", "best", "auc")  # objectives that are known during a run, so a pruner can use them
FROM_TIMES = {"wall_time": "wall_time_s", "training_time": "training_time_s", "steps_per_second": "steps_per_second"}
PrunerName = Literal["none", "median", "percentile", "successive_halving", "hyperband"]
PRUNERS = get_args(PrunerName)

_log = logging.getLogger("rlresearch.training.optuna_trial")


@dataclass(frozen=True)
class Trial:
    """storage: a journal file, or the URL of a database. study: the study's name there. number: of the trial. part: the
    index of the trial's part.
    """

    storage: str | None = None
    study: str | None = None
    number: Annotated[int, at.Ge(0)] = 0
    part: Annotated[int, at.Ge(0)] = 0


def trial_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the settings of the trial in a configuration; None where the run is not a trial."""
    told = config.get("trial") or {}
    return dict(told) if told.get("storage") is not None else None


def without_trial(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration with the `trial` settings of a run outside any search."""
    return {**config, "trial": {"storage": None, "study": None, "number": 0, "part": 0}}


class TrialMembers(NamedTuple):
    """The members of a run that together are one trial."""

    trial: Trial
    members: tuple[int, ...]


class TrialReporter:
    """Reports one trial to its study. pruned_at: the step at which an earlier attempt was pruned, or None.

    A resumed run keeps the pruner's earlier decisions. Other trials have ended since, so new answers could differ, and
    the resumed run would not equal the interrupted one.
    """

    def __init__(self, trial: TrialMembers) -> None:
        self.members, self._trial = trial.members, trial.trial
        self.pruned_at: int | None = None
        self._study: Any = None  # Optuna's study; None where the trial has ended or the study cannot be reached
        self._id = 0  # of the trial, in the study's storage
        self._settings: dict[str, Any] = {}  # of the search
        self._part: dict[str, Any] = {}  # which of the trial's parts this run is
        self._before: list[dict[str, Any]] = []  # the records of the earlier parts
        self._offset = 0  # the steps of the earlier parts
        self._decided = -1  # up to this step, an earlier attempt has the pruner's decisions
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
            self._decided = max(frozen.intermediate_values, default=-1) - 1  # the last may lack it
            self._study = None if frozen.state.is_finished() else study  # a resumed run's trial may have ended

    def restore_scores(self, returns: Sequence[Sequence[float]]) -> None:
        """Restores the scores of earlier evaluations. returns: for each member, the mean of each evaluation."""
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
    """Turns any error into a warning: a run must not end because its study cannot be reached."""

    def __init__(self, consequence: str) -> None:
        self._consequence = consequence

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> bool:
        if isinstance(error, Exception):
            _log.warning("%s: %s: %s", self._consequence, type(error).__name__, error)
        return isinstance(error, Exception)


def from_evaluations(name: str, scores: Sequence[float]) -> float:
    """Returns an objective of all evaluations so far: the last score, the best, or the mean (`auc`).

    With equal distances between evaluations, the mean is the area under the learning curve divided by its length.
    """
    if name == "return":
        return float(scores[-1])
    return float(max(scores)) if name == "best" else float(np.mean(scores))


def normalised(score: float, part: Mapping[str, Any]) -> float:
    """Scales a score so that `random` of the part becomes 0 and `target` becomes 1; without these, it stays."""
    low, high = part.get("random"), part.get("target")
    return score if low is None or high is None else (score - low) / (high - low)


def aggregated(scores: Sequence[float], how: str) -> float:
    """Returns the `mean` or the interquartile mean (`iqm`) of scores."""
    return float(STATISTICS[how]([np.asarray(scores, np.float64)]))


def open_storage(storage: str, heartbeat_s: int | None = None) -> Any:
    """Opens Optuna's storage: a database where `storage` is a URL, else a journal file.

    heartbeat_s: seconds between heartbeats, for controllers that share a database.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns about experimental classes
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
    """Loads an existing study with its pruner."""
    import optuna

    study = optuna.load_study(study_name=name, storage=open_storage(storage))
    settings = study.user_attrs[SEARCH]
    study.pruner = make_pruner(settings["pruner"], settings["pruner_options"])
    return study


def make_pruner(name: str, options: Mapping[str, Any]) -> Any:
    """Returns Optuna's pruner `name`. Errors: ConfigError for an unknown option or a wrong value."""
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
    """Makes an object of Optuna from the user's options. Errors: ConfigError that names `where`, for a wrong option."""
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
