"""Drives a search: proposes a batch of trials, trains them, reports the results to the study, and prints them.

All runs of a batch go to Hydra's launcher together, so that a launcher can fuse them. A trial with several seeds or
environments has several parts: one run for each. Each round trains the same part of every trial. A trial that is pruned
after one round has no run in the next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.config.compose import compose
from rlresearch.config.overrides import SearchSpec
from rlresearch.errors import ConfigError, RunError, command_line, format_value, one_line, override_text
from rlresearch.runtime.signals import Interrupted
from rlresearch.storage import atomic
from rlresearch.storage.run_directory import make_unique_dir, timestamp
from rlresearch.sweeps.launchers.basic import LAUNCHERS, OUTWARD
from rlresearch.sweeps.search import report
from rlresearch.sweeps.search.settings import WHERE, Prepared, SearchSettings, prepare, samples
from rlresearch.sweeps.search.space import typed
from rlresearch.sweeps.search.study import JOURNAL, Study, StudySpec, open_study
from rlresearch.training import resume
from rlresearch.training.experiment import plan
from rlresearch.training.optuna_trial import aggregated

SEARCH_FILE = "search.json"  # in the search's directory: the overrides of the command, for `resume`
_LARGEST = 1 << 20  # bytes

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[Any]]
Adopt = Callable[[Path, str, Collection[int]], int]


class SearchResult(NamedTuple):
    """The result of a search. counts: number of trials by state. best: frozen trials. folder: of the search's files."""

    counts: dict[str, int]
    best: list[Any]
    folder: Path


def checked(asked: SearchSpec, extra_folder: str | None = None) -> Prepared:
    """Prepares a search and plans a run for both ends of each range, each choice and each environment.

    Errors: ConfigError, one line, where a run cannot start.
    """
    prepared = prepare(asked, extra_folder)
    for overrides in samples(prepared):
        plan(compose(overrides, extra_folder).config, prepared.packages)
    return prepared


def search(prepared: Prepared, launch: Launch, folder: Path, adopt: Adopt | None = None) -> SearchResult:
    """Runs a search in its directory `folder` until it has all its trials.

    launch(job_overrides, initial_job_idx): trains runs, as Hydra's launchers do. adopt(folder, storage, trials):
    resumes interrupted runs of these trials, and returns how many jobs were launched before. If `adopt` is None,
    interrupted trials start again.

    Errors: ConfigError where the directory belongs to another search; RunError where trials failed, after all other
    trials were trained.
    """
    folder = folder.absolute()
    try:
        with study_of(prepared, folder) as study:
            done = Controller(prepared, study, launch, adopt).run(folder)
            failure = study.first_failure()
    except Interrupted as interrupted:
        interrupted.sweep_directory = folder  # the command line prints how to resume it
        raise
    report.show(done.counts, done.best, prepared.settings.objectives, _command(prepared, done.best), folder)
    if failure is not None:
        (number, why), failed = failure, done.counts["fail"]
        raise RunError(f"{failed} of {sum(done.counts.values())} trials failed; trial {number}: {why}")
    more = f"{WHERE}.n_trials={2 * prepared.settings.n_trials}"
    print(f"train further trials\n  {resume.resume_command(folder, prepared.config_dir, more)}")
    return done


def own_directory(root: str, overrides: Sequence[str], config_dir: str | None) -> Path:
    """Makes a new directory under `root` for a search and stores its overrides there. Errors: ConfigError."""
    asked = {"overrides": list(overrides), "config_dir": config_dir, "cwd": str(Path.cwd())}
    try:
        folder = make_unique_dir(Path(root), timestamp()[:19].replace("T", "_").replace(":", ""))
        atomic.write_file(folder / SEARCH_FILE, json.dumps(asked, indent=2).encode())
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir={root}: cannot be written: {error.strerror or error}.") from error
    return folder


def leave(folder: Path) -> None:
    """Removes the directory of a search that never started."""
    if [each.name for each in folder.iterdir()] == [SEARCH_FILE]:
        atomic.discard(folder)


def is_search(path: str) -> bool:
    """Returns whether `path` is the directory of a search."""
    return (Path(path) / SEARCH_FILE).is_file()


def resume_arguments(path: str, changes: Sequence[str], config_dir: str | None = None) -> list[str]:
    """Returns the arguments of a command that resumes the search at `path`.

    changes: new overrides. config_dir: the argument of --config-dir of this command. Another person may have written
    the stored search. So overrides that could run code, or reach other machines, are not read from it; the user must
    give them again. Errors: ConfigError where the user has not, or where the search cannot be read.
    """
    where = f"resume={format_value(path)}"
    try:
        asked = json.loads(atomic.read_file(Path(path) / SEARCH_FILE, _LARGEST))
        stored, theirs = [str(each) for each in asked["overrides"]], asked["config_dir"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{where}: its {SEARCH_FILE} cannot be read: {error}") from None
    if theirs is not None and config_dir is None:
        why = "from where code is run, and which is not taken from a file; say it again"
        raise ConfigError(f"{where}: was begun with --config-dir={format_value(theirs)}, {why}.")
    said = {each.partition("=")[0] for each in changes}
    kept = [each for each in stored if each.partition("=")[0] not in {*said, "packages", "hydra.mode"}]
    for each in kept:
        if not _is_harmless(each):
            raise ConfigError(
                f"{where}: was begun with {format_value(each)}, which is not taken from a file; say it again."
            )
    own = [*kept, *changes, override_text(f"{WHERE}.directory", str(Path(path).absolute()))]
    return ["-m", *([] if config_dir is None else [f"--config-dir={config_dir}"]), *own]


def _is_harmless(override: str) -> bool:
    """Returns whether a stored override is safe: it can only change runs, our own launchers, and our own searches."""
    key, _, value = override.partition("=")
    if not re.match(r"[+~]*hydra(\W|$)", key):
        return True  # a setting of the runs; `plan` checks where their components come from
    if key in ("hydra/launcher", "hydra/sweeper"):
        return value in (*LAUNCHERS, "optuna")
    if key == f"{WHERE}.storage":
        return "://" not in value
    group, _, name = key.rpartition(".")
    outward = {each for names in OUTWARD.values() for each in names}
    known = SearchSettings.__dataclass_fields__
    return key == "hydra.sweep.dir" or (
        group == "hydra.launcher" and re.fullmatch("[a-z]+(_[a-z]+)*", name) is not None and name not in outward
    ) or key.removeprefix(f"{WHERE}.").partition(".")[0] in known  # fmt: skip


def study_of(prepared: Prepared, folder: Path) -> AbstractContextManager[Study]:
    """Opens the study of a search in `folder`; see `open_study`."""
    settings = prepared.settings
    terms = StudySpec(
        space=prepared.space,
        fixed=prepared.fixed,
        parts=prepared.parts,
        objectives=settings.objectives,
        directions=settings.directions,
        aggregate=settings.aggregate,
        sampler=settings.sampler,
        sampler_options=dict(settings.sampler_options or {}),
        seed=settings.seed,
        pruner=settings.pruner,
        pruner_options=prepared.pruner_options,
    )
    storage = settings.storage or str(folder / JOURNAL)
    return open_study(terms, storage, settings.study_name or "search", str(folder), settings.heartbeat_s)


class Controller:
    """Runs a search batch by batch."""

    def __init__(self, prepared: Prepared, study: Study, launch: Launch, adopt: Adopt | None = None) -> None:
        self._prepared, self._settings, self._study, self._launch = prepared, prepared.settings, study, launch
        self._adopt, self._launched = adopt, 0

    def run(self, folder: Path) -> SearchResult:
        """Runs batches until the study has all its trials. Errors: RunError where too many of a batch fail."""
        settings = self._settings
        while batch := self._study.batch(settings.n_jobs, settings.n_trials):
            if self._adopt is not None:
                storage = without_at(self._study.storage)
                self._launched = self._adopt(folder, storage, {each.number for each in batch})
                self._adopt = None  # later batches are this controller's own
            self._train(batch)
            states = [self._study.frozen(each.number).state.name for each in batch]
            if states.count("FAIL") > settings.max_failure_rate * len(states):
                reason = self._study.reason(batch[states.index("FAIL")].number)
                raise RunError(f"{states.count('FAIL')} of {len(states)} trials of a batch failed: {reason}")
        report.write(self._study.optuna, settings.objectives, folder)
        return SearchResult(self._study.counts(), self._study.best(), folder)

    def _train(self, batch: Sequence[Any]) -> None:
        """Trains every trial of the batch, one part after the other, and reports the results to the study."""
        going, parts = list(batch), self._prepared.parts
        for part in range(len(parts)):
            due = [each for each in going if self._study.record(each.number, part) is None]
            self._started(due, part)
            results = self._launch([self._overrides(each, part) for each in due], self._launched) if due else []
            self._launched += len(due)
            why = {each.number: _failure(result) for each, result in zip(due, results, strict=True)}
            going = [each for each in going if self._goes_on(each.number, part, why.get(each.number))]
        for each in going:
            records = [self._study.values(each.number, part) for part in range(len(parts))]
            how, names = self._settings.aggregate, self._settings.objectives
            values = [aggregated([own[name] for own in records], how) for name in names]
            if all(value == value for value in values):
                self._study.tell(each.number, values)
            else:
                self._study.tell_failed(each.number, "an objective is NaN")
        for each in batch:
            self._ended(each.number)

    def _goes_on(self, number: int, part: int, failure: str | None) -> bool:
        """Returns whether a trial continues after a part. If it failed or is pruned, the study learns this here."""
        record = self._study.record(number, part)
        if record is None or record["status"] == "failed":
            reason = (record or {}).get("reason") or {}
            self._study.tell_failed(number, failure or reason.get("error") or "its run ended without a score")
            return False
        last = part + 1 == len(self._prepared.parts)
        if record["status"] == "pruned" or (not last and self._study.is_pruned(number)):
            self._study.tell_pruned(number)
            return False
        return True

    def _overrides(self, trial: Any, part: int) -> list[str]:
        own = [f"{key}={typed(value)}" for key, value in trial.params.items()]
        run = self._prepared.parts[part]
        if run["env"] is not None:
            own.append(f"env={run['env']}")
        if self._settings.seeds_per_trial > 1:
            own.append(f"seed={run['seed']}")
        study = self._study
        where = [
            override_text("trial.storage", without_at(study.storage)),
            override_text("trial.study", study.name),
        ]
        return [*self._prepared.fixed, *own, *where, f"trial.number={trial.number}", f"trial.part={part}"]

    def _started(self, due: Sequence[Any], part: int) -> None:
        for each in due:
            of = f", run {part + 1} of {len(self._prepared.parts)}" if len(self._prepared.parts) > 1 else ""
            values = " ".join(f"{key}={report.short(value)}" for key, value in each.params.items())
            print(f"trial {each.number}{of}: {values}", flush=True)

    def _ended(self, number: int) -> None:
        trial, best = self._study.frozen(number), self._study.best()
        told = report.outcome(trial, self._settings.objectives) or self._study.reason(number) or ""
        beside = f"  (best: trial {best[0].number})" if len(best) == 1 else ""
        print(f"trial {number} {report.STATES[trial.state.name]}: {told}{beside}", flush=True)


def _failure(result: Any) -> str | None:
    """Returns why a job failed, from the result that a launcher returned; None where it did not fail."""
    try:
        result.return_value  # noqa: B018 (raises what the job raised)
    except Exception as error:  # noqa: BLE001 (a job may raise any error)
        return one_line(str(error) or type(error).__name__)
    return None


def without_at(storage: str) -> str:
    """Returns the URL of a database with the user as a parameter instead of before an @.

    Stored configurations replace everything before an @ by ***, because it may be a secret.
    """
    found = re.fullmatch(r"([\w+]+://)([^/@:]+)@(.*)", storage)
    if found is None:
        return storage
    begin, user, rest = found.groups()
    return f"{begin}{rest}{'&' if '?' in rest else '?'}user={user}"


def _command(prepared: Prepared, best: Sequence[Any]) -> str | None:
    """Returns the command that trains the best trial again; None where there is no best trial."""
    if not best:
        return None
    own = [f"{key}={typed(value)}" for key, value in best[0].params.items()]
    folder = [] if prepared.config_dir is None else [f"--config-dir={prepared.config_dir}"]
    return command_line(["python", "-m", "rlresearch", *folder, *prepared.fixed, *own])
