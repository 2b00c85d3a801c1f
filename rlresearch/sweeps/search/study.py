"""A study: proposes batches of trials, and stores them and their results with Optuna. A killed controller loses none.

A study in a journal file has one controller at a time, which locks it. If a new controller finds running trials, their
controller is dead; it runs them again with the same values. A study in a database may have several controllers. Each
sends heartbeats for its trials. Trials without heartbeats go back into a queue with the same values, and the next
controller that asks gets them.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.errors import ConfigError, format_value
from rlresearch.storage.atomic import lock
from rlresearch.storage.jsonl import JsonLines
from rlresearch.sweeps.search.samplers import seeded_sampler, size_of_grid
from rlresearch.sweeps.search.space import Range, described, distributions
from rlresearch.training.optuna_trial import PART, SEARCH, make_pruner, open_storage

JOURNAL = "study.journal"
_UNBORN_BEATS = 10  # heartbeat intervals; a proposal takes seconds, so an older unfinished one has a dead controller
_CONTROLLER, _SURPLUS, _REASON = "controller", "surplus", "reason"


class StudySpec(NamedTuple):
    """The specification of a study, which must not change later. space: the range of each key. fixed: overrides of
    every run. parts: the runs of a trial, see `Prepared.parts`.
    """

    space: Mapping[str, Range]
    fixed: Sequence[str]
    parts: Sequence[Mapping[str, Any]]
    objectives: Sequence[str]
    directions: Sequence[str]
    aggregate: str
    sampler: str
    sampler_options: Mapping[str, Any]
    seed: int
    pruner: str
    pruner_options: Mapping[str, Any]

    def stored(self) -> dict[str, Any]:
        """Returns the specification as JSON types."""
        own = {name: list(each) if isinstance(each, tuple) else each for name, each in self._asdict().items()}
        return own | {"space": described(dict(self.space))}


@contextmanager
def open_study(terms: StudySpec, storage: str, name: str, controller: str, heartbeat_s: int) -> Iterator[Study]:
    """Opens a study: locks it where it is a journal file, sends heartbeats where it is in a database.

    storage: a file, or a URL. name: the name of the study. controller: a name for this controller. heartbeat_s:
    seconds between heartbeats. Errors: ConfigError where the study cannot be opened, has another controller, or has
    another specification.
    """
    if "://" in storage:
        study = Study(terms, storage, name, controller, heartbeat_s)
        with study.heartbeat:
            yield study
        return
    folder = Path(storage).parent
    file = lock(folder)
    if file is None:
        why = "another process is at this search; several need a database, hydra.sweeper.storage=URL"
        raise ConfigError(f"resume={folder}: {why}.")
    try:
        JsonLines(storage).close()  # removes an incomplete last line of a killed process
        yield Study(terms, storage, name, controller, heartbeat_s)
    finally:
        os.close(file)


class Study:
    """Proposes trials and receives their results; made by `open_study`."""

    def __init__(self, terms: StudySpec, storage: str, name: str, controller: str, heartbeat_s: int) -> None:
        import optuna

        self._terms, self.storage, self.name, self._controller = terms, storage, name, controller
        self._shared = "://" in storage
        self._distributions = distributions(dict(terms.space))
        try:
            self._storage = open_storage(storage, heartbeat_s if self._shared else None)
            study = optuna.create_study(
                storage=self._storage,
                study_name=name,
                load_if_exists=True,
                directions=[optuna.study.StudyDirection[each.upper()] for each in terms.directions],
                sampler=seeded_sampler(terms.sampler, terms.sampler_options, terms.seed, terms.space),
                pruner=make_pruner(terms.pruner, terms.pruner_options),
            )
        except Exception as error:
            raise ConfigError(f"hydra.sweeper.storage={format_value(storage)}: {_short(error)}") from error
        self.optuna = study
        self.heartbeat = Heartbeat(self._storage)
        self._agree()

    def batch(self, size: int, budget: int) -> list[Any]:
        """Returns the next trials, frozen, at most `size`: trials of a dead controller first, then new ones.

        Returns [] when the study has `budget` trials.
        """
        if self._terms.sampler == "grid":
            budget = min(budget, size_of_grid(self._terms.space))
        left = self._left_behind()
        batch = list(left)
        # All trials of a batch are proposed before the study receives any of its results. If a controller was killed
        # in between, this call completes its batch, so that the proposals are those of an uninterrupted search.
        aligned = not self._shared
        while len(batch) < size and (self.counted() < budget or self._queued()):
            if aligned and batch and len(self._trials()) % size == 0:
                break
            trial = self._ask(budget)
            if trial is None:
                break
            batch.append(trial)
        return batch

    def frozen(self, number: int) -> Any:
        """Returns the trial with this number in its current state."""
        return self._storage.get_trial(self._id(number))

    def record(self, number: int, part: int) -> dict[str, Any] | None:
        """Returns the stored end of the run of a part, or None."""
        return self.frozen(number).user_attrs.get(PART.format(part))

    def values(self, number: int, part: int) -> dict[str, float]:
        """Returns the objectives by name of a part whose run has ended."""
        return self.frozen(number).user_attrs[PART.format(part)]["values"]

    def is_pruned(self, number: int) -> bool:
        """Returns whether the pruner stops the trial before its next part."""
        frozen = self.frozen(number)
        if self._terms.pruner == "none" or not frozen.intermediate_values:
            return False
        return bool(self.optuna.pruner.prune(self.optuna, frozen))

    def tell(self, number: int, values: Sequence[float]) -> None:
        """Stores the values of a complete trial."""
        self._tell(number, values=list(values))

    def tell_pruned(self, number: int) -> None:
        """Stores that a trial was pruned; its last score becomes its value."""
        from optuna.trial import TrialState

        self._tell(number, state=TrialState.PRUNED)

    def tell_failed(self, number: int, reason: str) -> None:
        """Stores that a trial failed, and why; samplers ignore it."""
        from optuna.trial import TrialState

        self._storage.set_trial_user_attr(self._id(number), _REASON, reason[:500])
        self._tell(number, state=TrialState.FAIL)

    def counts(self) -> dict[str, int]:
        """Returns the number of trials by state, without states that no trial has."""
        counts: dict[str, int] = {}
        for each in self._trials():
            name = each.state.name.lower()
            if self._counts(each):
                counts[name] = counts.get(name, 0) + 1
        return counts

    def best(self) -> list[Any]:
        """Returns the best trial; for several objectives, the Pareto front; [] where no trial is complete."""
        from optuna.trial import TrialState

        complete = self.optuna.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return list(self.optuna.best_trials) if complete else []

    def first_failure(self) -> tuple[int, str] | None:
        """Returns the number of the first failed trial and its reason, or None."""
        failed = [each for each in self._trials() if each.state.name == "FAIL" and self._counts(each)]
        return (failed[0].number, failed[0].user_attrs[_REASON]) if failed else None

    def reason(self, number: int) -> str | None:
        """Returns why a trial failed, or None."""
        return self.frozen(number).user_attrs.get(_REASON)

    def _tell(self, number: int, **told: Any) -> None:
        if not self.frozen(number).state.is_finished():  # finished: other controllers thought this one dead
            self.optuna.tell(number, **told)
        if self._shared:
            self.heartbeat.leave(self._id(number))

    def _agree(self) -> None:
        """Stores the specification in a new study, or compares it. Errors: ConfigError where the two differ."""
        ours, theirs = self._terms.stored(), self.optuna.user_attrs.get(SEARCH)
        if theirs is None:
            self.optuna.set_user_attr(SEARCH, ours)
            return
        for name, value in json.loads(json.dumps(ours)).items():
            if theirs.get(name) != value:
                was = f"was begun with {_apart(name, theirs.get(name), value)}"
                way = "give it another name" if self._shared else "begin another, without resume"
                raise ConfigError(f"the search {was}; for that, {way}.")

    def _ask(self, budget: int) -> Any | None:
        """Proposes a new trial; returns None where other controllers have already filled the budget."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna warns about heartbeats outside its own loop
            trial = self.optuna.ask(self._distributions)
        if self._shared:
            self.heartbeat.enter(trial._trial_id)
            if self._surplus(trial.number, budget):
                self._storage.set_trial_user_attr(trial._trial_id, _SURPLUS, True)
                self.tell_failed(trial.number, "one more than was asked for: other controllers were faster")
                return None
        self._storage.set_trial_user_attr(trial._trial_id, _CONTROLLER, self._controller)
        return self.frozen(trial.number)

    def _surplus(self, number: int, budget: int) -> bool:
        """Returns whether controllers that asked at the same time had filled the budget before this trial."""
        before = [each for each in self._trials() if each.number < number and self._counts(each)]
        return len(before) >= budget and "retry_history" not in self.frozen(number).system_attrs

    def _left_behind(self) -> list[Any]:
        """Returns running trials whose controller is dead.

        In a database it returns only this controller's own trials, from before a restart; others are queued again.
        """
        from optuna.trial import TrialState

        if self._shared:
            self._give_up_stale()
        running = [each for each in self._trials() if each.state == TrialState.RUNNING]
        if not self._shared:
            return [each for each in running if set(each.params) == set(self._distributions)] + self._unborn(running)
        mine = [each for each in running if each.user_attrs.get(_CONTROLLER) == self._controller]
        for each in mine:
            self.heartbeat.enter(each._trial_id)
        return [each for each in mine if set(each.params) == set(self._distributions)]

    def _give_up_stale(self) -> None:
        """Queues trials again whose heartbeats have stopped.

        If a controller dies while it proposes a trial, the trial never had a heartbeat. After some time such a trial
        fails, so that another one takes its place.
        """
        import optuna
        from optuna.trial import TrialState

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optuna.storages.fail_stale_trials(self.optuna)
        old = datetime.now() - timedelta(seconds=_UNBORN_BEATS * self._storage.get_heartbeat_interval())
        for each in self._trials():
            if each.state == TrialState.RUNNING and _CONTROLLER not in each.user_attrs and each.datetime_start < old:
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._storage.set_trial_state_values(each._trial_id, state=TrialState.FAIL)

    def _unborn(self, running: Sequence[Any]) -> list[Any]:
        """Completes and returns trials whose controller was killed while it proposed their values."""
        import optuna

        finished = []
        for each in running:
            if set(each.params) != set(self._distributions):
                trial = optuna.Trial(self.optuna, each._trial_id)
                for name, distribution in self._distributions.items():
                    trial._suggest(name, distribution)
                finished.append(self.frozen(each.number))
        return finished

    def _queued(self) -> bool:
        return any(each.state.name == "WAITING" for each in self._trials())

    def counted(self) -> int:
        return sum(map(self._counts, self._trials()))

    def _counts(self, trial: Any) -> bool:
        """Returns whether a trial counts for the budget. Trials beyond the budget, and trials that were queued again
        after their controller died, do not count.
        """
        if trial.user_attrs.get(_SURPLUS):
            return False
        if trial.state.name != "FAIL":
            return True
        return _REASON in trial.user_attrs

    def _trials(self) -> list[Any]:
        return self._storage.get_all_trials(self.optuna._study_id, deepcopy=False)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)


class Heartbeat:
    """A thread that sends heartbeats for trials to the database."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._trials: set[int] = set()
        self._over, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def enter(self, trial: int) -> None:
        """Starts heartbeats for a trial."""
        with self._lock:
            self._trials.add(trial)
        self._storage.record_heartbeat(trial)

    def leave(self, trial: int) -> None:
        """Ends the heartbeats for a trial."""
        with self._lock:
            self._trials.discard(trial)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._storage.get_heartbeat_interval()):
            with self._lock:
                trials = set(self._trials)
            for trial in trials:
                try:
                    self._storage.record_heartbeat(trial)
                except Exception:  # noqa: BLE001 (the next beat may reach the database again)
                    pass


def _apart(name: str, theirs: Any, ours: Any) -> str:
    """Returns a text with the stored and the new value of a setting; for lists and mappings, only the difference."""
    if name == "fixed":
        was, now = [each for each in theirs if each not in ours], [each for each in ours if each not in theirs]
        was_words, now_words = (format_value(" ".join(words)) if words else "nothing" for words in (was, now))
        return f"{was_words} where {now_words} stands"
    if isinstance(theirs, dict) and isinstance(ours, dict):
        key = next(key for key in [*theirs, *ours] if theirs.get(key) != ours.get(key))
        name, theirs, ours = f"{name} {key}", theirs.get(key), ours.get(key)
    return f"{name} {format_value(theirs)}, not {format_value(ours)}"


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
