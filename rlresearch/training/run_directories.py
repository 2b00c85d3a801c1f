"""Makes the directories of a new run, or opens those of a resumed run and cuts them back to its checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlresearch.runners import Population
from rlresearch.storage import checkpoint, redaction, rollback
from rlresearch.storage.provenance import provenance, versions
from rlresearch.storage.run_directory import RunDirectory, atomic_write, timestamp
from rlresearch.training.experiment import Plan, member_configs
from rlresearch.training.member_failures import are_fused
from rlresearch.training.optuna_trial import trial_of, without_trial
from rlresearch.training.request import RunRequest
from rlresearch.training.resources import check_room
from rlresearch.training.resume import POPULATION, SAFE, SAFE_GROUPS, ResumePoint, read_config

_log = logging.getLogger("rlresearch")


class Past(NamedTuple):
    """The past of a run. trained_s, elapsed_s: seconds. cut: for each member, the rows by file after the checkpoint;
    the run writes them again.
    """

    trained_s: float = 0.0
    elapsed_s: float = 0.0
    cut: Sequence[Mapping[str, list[dict[str, Any]]]] = ()


def create(plan: Plan, request: RunRequest, directories: list[RunDirectory]) -> None:
    """Fills `directories` with new ones, one per member; at its end, the run can be resumed."""
    check_room(plan)
    config = without_trial(request.config)  # a stored configuration names no study, so that a copy reports to none
    configs = member_configs(plan.runner, config)
    trials = trials_of(request, len(configs))
    for own in configs:
        directories.append(RunDirectory.create(plan.settings.runs_dir, request.algo, request.env, own["seed"]))
    directories[0].lock()
    fields = provenance(request.argv, request.overrides) | {"choices": dict(request.choices)}
    fields |= {"metrics": dict(plan.trainer.algo.METRICS)}  # which review cannot ask an algorithm of somebody's own
    names = [directory.path.name for directory in directories]
    for index, directory in enumerate(directories):
        population = {"index": index, "members": names} if isinstance(plan.runner, Population) else None
        own_fields = dict(request.record_fields[min(index, len(request.record_fields) - 1)])
        directory.record(**(fields | {"population": population, "trial": trials[index]} | own_fields))
    if isinstance(plan.runner, Population):
        write_config(directories[0], config, POPULATION)
    for directory, own in zip(directories, configs, strict=True):
        write_config(directory, own)
    request.begun([directory.path for directory in directories])


def reopen(resumption: ResumePoint, request: RunRequest, directories: list[RunDirectory]) -> Past:
    """Fills `directories` with those of the run, as they were at its checkpoint."""
    loaded = resumption.loaded
    for path in resumption.stored.directories:
        directory = RunDirectory(path)
        if not directories:  # the lock of the first member covers a whole population
            directory.lock()
        directories.append(directory)
        directory.open_log()
    fused = are_fused(request.record_fields, resumption)
    failed = {each.path for each in directories if fused and each.recorded()["status"] == "failed"}
    sizes = loaded.about.logs if loaded else [{} for _ in directories]
    pairs = zip(directories, sizes, strict=True)
    cut = [{} if each.path in failed else rollback.cut(each.path, own) for each, own in pairs]
    for name, reason in resumption.damaged.items():
        _log.warning("checkpoint %s is damaged: %s; it is set aside", name, reason)
        checkpoint.set_aside(resumption.stored.home, name)
    if resumption.offer:
        _log.warning(resumption.offer)
    _record_resume(resumption, request, [each for each in directories if each.path not in failed])
    if resumption.changed:
        _write_changes(resumption, directories)
    times = loaded.about.times if loaded else {}
    same_rows = "logger.every_steps" not in resumption.changed
    return Past(
        times.get("training_time_s", 0.0),
        times.get("wall_time_s", 0.0),
        [own if same_rows else {**own, "metrics": []} for own in cut],
    )


def note_fresh_episodes(directory: RunDirectory) -> None:
    """Says in the newest entry of `resumes` that the run went on with other episodes than those that ran."""
    *before, newest = directory.recorded()["resumes"]
    directory.record(resumes=[*before, newest | {"fresh_episodes": True}])


def trials_of(request: RunRequest, members: int, resumed: bool = False) -> Sequence[Mapping[str, Any] | None]:
    """Returns the trial of each member. A resumed run uses only the trials of its request, never stored ones: another
    person may have written them, and they could name any study.
    """
    if len(request.trials) == members:
        return request.trials
    whole = request.trials[0] if request.trials else None if resumed else trial_of(request.config)
    return [whole] * members


def stored_config(plan: Plan, directories: Sequence[RunDirectory]) -> dict[str, Any]:
    """Returns the configuration of the run, read from its file as a later process will read it."""
    name = POPULATION if isinstance(plan.runner, Population) else "config.yaml"
    return read_config(directories[0].path / name)


def _record_resume(resumption: ResumePoint, request: RunRequest, directories: Sequence[RunDirectory]) -> None:
    loaded = resumption.loaded
    step = loaded.about.step if loaded else 0
    entry = {"at": timestamp(), "step": step, "checkpoint": loaded.path.name if loaded else None}
    entry |= {"overrides": redaction.redacted(request.overrides)}
    entry |= {"changed": resumption.changed, "packages": versions()}
    _log.info("resumed at step %s, changed: %s", step, resumption.changed or "nothing")
    fields = provenance(request.argv, request.overrides)
    here = {name: fields[name] for name in ("host", "pid", "python", "packages")}
    for directory in directories:
        resumes = [*(directory.recorded().get("resumes") or []), entry]
        directory.record(status="running", reason=None, finished_at=None, resumes=resumes, **here)


def _write_changes(resumption: ResumePoint, directories: Sequence[RunDirectory]) -> None:
    """Writes changed settings into the stored configurations, so that the next resume knows of them."""
    for directory in directories:
        for name in ("config.yaml", POPULATION):
            if (directory.path / name).exists():
                own = read_config(directory.path / name)
                own |= {key: resumption.config[key] for key in (*SAFE, *SAFE_GROUPS)}
                own["env"]["timeout_s"] = resumption.config["env"].get("timeout_s")
                write_config(directory, own, name)


def write_config(directory: RunDirectory, config: dict[str, Any], name: str = "config.yaml") -> None:
    """Writes a configuration, less secrets, into a run's directory. Errors: RunError naming the file."""
    from omegaconf import OmegaConf

    atomic_write(directory.path / name, OmegaConf.to_yaml(OmegaConf.create(redaction.settings(config))))
