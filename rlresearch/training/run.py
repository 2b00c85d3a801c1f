"""One run from a checked plan to its end: directories, TensorFlow, training, and what is told at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation
from rlresearch.loggers.base import Logger, Offline, Several
from rlresearch.loggers.console import Display
from rlresearch.loggers.wandb.supervisor import Beside
from rlresearch.runners import Population
from rlresearch.runtime import devices, watchdog
from rlresearch.runtime.signals import Watch
from rlresearch.storage import checkpoint, redaction, rollback
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.provenance import provenance, versions
from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.training import outcome
from rlresearch.training.experiment import Plan, member_configs
from rlresearch.training.member_failures import Lost, are_fused
from rlresearch.training.pruning import Judge, Share, Trial, trial_of, without_trial
from rlresearch.training.resources import check_room
from rlresearch.training.resume import POPULATION, SAFE, SAFE_GROUPS, Resumption, lasting_digest, open_run, read_config
from rlresearch.training.session import Request, Session, last_step

_log = logging.getLogger("rlresearch")
_log.addHandler(logging.NullHandler())  # before a run directory takes them, messages go nowhere


class Source(NamedTuple):
    """A checkpoint whose parameters a new run begins with; index: of the member, where it is a population's."""

    loaded: checkpoint.Loaded
    index: int | None


def launch(plan: Plan, request: Request, resumption: Resumption | None = None) -> float:
    """Trains; returns the mean return of the final evaluation, over members in a population.

    resumption: where it goes on, in place of a new run. RunError with one line where the run failed; run.json then says
    `failed` and why. Interrupted where it was told to stop, after a checkpoint.
    """
    display, directories = Display(plan.logger.console), []
    session = Session(plan, request, directories, display, time.perf_counter(), resumption, beside=[])
    try:
        with Watch(partial(outcome.left_at_once, session)) as watch:
            begins = resumption is None or resumption.loaded is None
            source = _source(plan.settings.init_from) if begins else None
            if resumption is None:
                _create(session)
            else:
                session = _reopen(session, resumption)
            session = session._replace(judge=_judge(session))
            if are_fused(request.own, resumption):
                session = session._replace(lost=Lost(plan.task.id, directories, session.judge, session.elapsed))
            with watchdog.watched(plan.task.timeout_s, plan.task.id, [each.path for each in directories]):
                evaluations, trained, digests = _train(session, watch, source)
            outcome.finish(session, evaluations, trained, digests)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        outcome.record(status, error, session)
        if isinstance(error, (KeyboardInterrupt, ConfigError)):
            raise
        raise RunError(f"{outcome.told(error)} ({outcome.where(directories)})") from error
    finally:
        try:
            for process in session.beside:  # last: W&B hears how the run ended
                process.close()
        finally:
            display.close()
            for directory in directories:
                directory.close()
    watch.check()  # a signal of the last moments: this run has finished, but no other follows
    return float(np.mean([each.mean for each in evaluations]))


def _source(init_from: str | None) -> Source | None:
    """What a new run begins with. ConfigError where it is not there."""
    if init_from is None:
        return None
    stored = open_run(init_from, "init_from")
    loaded = checkpoint.chosen(stored.home, "last", f"init_from={init_from}")
    return Source(loaded, stored.index if stored.record.get("population") else None)


def _create(session: Session) -> None:
    """New directories, one a member; they can be gone on with once the last of this is written."""
    plan, request, directories = session.plan, session.request, session.directories
    check_room(plan)
    whole = without_trial(request.config)  # the stored one is that of any run, which no study waits for
    configs = member_configs(plan.runner, whole)
    trials = _trials(request, len(configs))
    for config in configs:
        directories.append(RunDirectory.create(plan.settings.runs_dir, request.algo, request.env, config["seed"]))
    directories[0].hold()
    fields = provenance(request.argv, request.overrides) | {"choices": dict(request.choices)}
    names = [directory.path.name for directory in directories]
    for index, directory in enumerate(directories):
        together = {"index": index, "members": names} if isinstance(plan.runner, Population) else None
        own = {"population": together, "trial": trials[index]} | request.own[min(index, len(request.own) - 1)]
        directory.record(**(fields | own))
    if isinstance(plan.runner, Population):
        directories[0].write_config(_yaml(whole), POPULATION)
    for directory, config in zip(directories, configs, strict=True):
        directory.write_config(_yaml(config))
    request.begun([directory.path for directory in directories])


def _reopen(session: Session, resumption: Resumption) -> Session:
    """The directories of a run that goes on, as they were at its checkpoint."""
    loaded = resumption.loaded
    for path in resumption.stored.directories:
        directory = RunDirectory(path)
        if not session.directories:  # of a population the first stands for all
            directory.hold()
        session.directories.append(directory)
        directory.open_log()
    sizes = loaded.about.logs if loaded else [{} for _ in session.directories]
    fused = are_fused(session.request.own, resumption)
    stays = {each.path for each in session.directories if fused and each.recorded()["status"] == "failed"}
    pairs = zip(session.directories, sizes, strict=True)
    cut = [{} if each.path in stays else rollback.cut(each.path, own) for each, own in pairs]
    for name, why in resumption.damaged.items():
        _log.warning("checkpoint %s is damaged: %s; it is set aside", name, why)
        checkpoint.set_aside(resumption.stored.home, name)
    step = loaded.about.step if loaded else 0
    told = {"at": timestamp(), "step": step, "checkpoint": loaded.path.name if loaded else None}
    told |= {"overrides": redaction.redacted(session.request.overrides)}
    told |= {"changed": resumption.changed, "packages": versions()}
    _log.info("resumed at step %s, changed: %s", step, resumption.changed or "nothing")
    fields = provenance(session.request.argv, session.request.overrides)
    for directory in session.directories:
        if directory.path in stays:
            continue
        begun = {name: fields[name] for name in ("host", "pid", "python", "packages")}
        resumes = [*(directory.recorded().get("resumes") or []), told]
        directory.record(status="running", reason=None, finished_at=None, resumes=resumes, **begun)
    if resumption.changed:
        _write_changes(session, resumption)
    times = loaded.about.times if loaded else {}
    same_rows = "logger.every_steps" not in resumption.changed
    return session._replace(
        trained_s=times.get("training_time_s", 0.0),
        elapsed_s=times.get("wall_time_s", 0.0),
        cut=[own if same_rows else {**own, "metrics": []} for own in cut],
    )


def _write_changes(session: Session, resumption: Resumption) -> None:
    """Into the stored configurations, so that what goes on from here later on knows of them."""
    for directory in session.directories:
        for name in ("config.yaml", POPULATION):
            if (directory.path / name).exists():
                own = read_config(directory.path / name)
                own |= {key: resumption.config[key] for key in (*SAFE, *SAFE_GROUPS)}
                own["env"]["timeout_s"] = resumption.config["env"].get("timeout_s")
                directory.write_config(_yaml(own), name)


def _train(session: Session, watch: Watch, source: Source | None) -> tuple[list[Evaluation], float, list[str]]:
    """The final evaluations, the seconds that building and training took, each member's digest of the last state."""
    from rlresearch.evaluation.video import Recorder
    from rlresearch.training.checkpointing import Saver
    from rlresearch.training.loop import train
    from rlresearch.training.state_io import begin_from, member_digests, state_digest

    plan, settings, loaded = session.plan, session.plan.settings, session.resumption and session.resumption.loaded
    step = loaded.about.step if loaded else 0
    session.display.start(_title(session), settings.total_steps, step)
    if plan.logger.wandb is not None:
        paths = [directory.path for directory in session.directories]
        session.beside.append(Beside(paths, plan.logger.wandb, session.display.message))
    device = devices.prepare(settings.device, settings.threads, settings.deterministic, settings.compile_cache)
    for directory in session.directories:
        directory.record(device=device)
    began = time.perf_counter()
    trained = lambda: session.trained_s + time.perf_counter() - began  # noqa: E731
    times = lambda: {"wall_time_s": session.elapsed(), "training_time_s": trained()}  # noqa: E731
    runner = plan.runner.start(plan.trainer, plan.task, settings.seed)
    logs, told, saver = [], [], None
    try:
        if source is not None:
            begin_from(runner, *source)
        cuts = session.cut or [{}] * len(session.directories)
        logs = [Offline(each, session.elapsed(), cut) for each, cut in zip(session.directories, cuts, strict=True)]
        told = [_mirrored(plan, log, each) for log, each in zip(logs, session.directories, strict=True)]
        home = session.directories[0].path
        config = lasting_digest(_stored_config(session))
        saver = Saver(runner, plan, home, logs, watch.check, times, config, loaded, _last_evaluations(session, loaded))
        saver.soundness.lost = session.lost
        every = plan.logger.every_steps or settings.total_steps
        shown = Several([session.display])
        recorder = Recorder(plan.task, [each.path for each in session.directories], watch.check)
        evaluations = train(
            *(runner, plan.task, settings.total_steps, plan.eval, every, told, shown, saver),
            *(session.judge, recorder),
        )
        if session.lost is not None:
            ended = [None if step is None else step // plan.task.num_envs for step in session.judge.ended]
            return evaluations, trained(), member_digests(runner, ended)
        return evaluations, trained(), [state_digest(runner)] * len(session.directories)
    except (Exception, KeyboardInterrupt) as error:
        error.step = runner.iteration * plan.task.num_envs  # run.json names the step
        raise
    finally:
        for each in [saver, *told, *logs, runner]:
            if each is not None:
                each.close()


def _mirrored(plan: Plan, log: Offline, directory: RunDirectory) -> Logger:
    """What hears of a member's rows: its files, and after them the mirrors in this process."""
    if not plan.logger.tensorboard:
        return log
    from rlresearch.loggers.tensorboard import TensorBoard

    try:
        return Several([log, TensorBoard(directory.path)])
    except Exception as error:  # noqa: BLE001 (a mirror may break, the run goes on)
        _log.warning("TensorBoard's files cannot be written: %s: %s", type(error).__name__, error)
        return log


def _stored_config(session: Session) -> dict[str, Any]:
    """As a later process will read it."""
    name = POPULATION if isinstance(session.plan.runner, Population) else "config.yaml"
    return read_config(session.directories[0].path / name)


def _last_evaluations(session: Session, loaded: checkpoint.Loaded | None) -> list[Evaluation]:
    """Each member's, where all of them were made before the run goes on."""
    if loaded is None or loaded.about.position["evaluation"] < 0:
        return []
    every = [list(read_rows(directory.path / "evaluations.jsonl")) for directory in session.directories]
    return [Evaluation(rows[-1]["returns"], rows[-1]["lengths"]) if rows else UNSEEN for rows in every]


def _title(session: Session) -> list[str]:
    plan, request = session.plan, session.request
    settings, runner = plan.settings, type(plan.runner).__name__.lower()
    lines = [
        f"{request.algo} on {request.env}" + (", resumed" if session.resumption else ""),
        f"runner {runner}, device {settings.device}, seed {settings.seed}, {settings.total_steps:,} steps",
    ]
    if request.tuned:
        values = ", ".join(f"{key}={value}" for key, value in request.tuned.items())
        lines.append(f"tuned settings {request.tuned_name}: {values} (tuned=none switches them off)")
    return lines


def _judge(session: Session) -> Judge:
    """Which members are trials of a search, and whether those go on."""
    shares: dict[Trial, list[int]] = {}
    told = _trials(session.request, len(session.directories), session.resumption is not None)
    for index, own in enumerate(told):
        if own is not None:
            shares.setdefault(Trial(**own), []).append(index)
    together = [Share(trial, tuple(members)) for trial, members in shares.items()]
    judge = Judge(together, len(session.directories), last_step(session.plan))
    if session.resumption is not None and session.resumption.loaded is not None:
        every = [read_rows(directory.path / "evaluations.jsonl") for directory in session.directories]
        returns = [[float(np.mean(row["returns"])) for row in rows] for rows in every]
        judge.go_on(session.resumption.loaded.about.step, returns)
    return judge


def _trials(request: Request, members: int, goes_on: bool = False) -> Sequence[Mapping[str, Any] | None]:
    """The trial that each member is. Where a run goes on, only as its search says: what is stored with a run may be
    anybody's, and name a study that lies anywhere.
    """
    if len(request.trials) == members:
        return request.trials
    whole = request.trials[0] if request.trials else None if goes_on else trial_of(request.config)
    return [whole] * members


def _yaml(config: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(redaction.settings(config)))
