"""One run from a checked plan to its end: directories, TensorFlow, training, and what is told at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlresearch import checkpoint, hardware, redaction, rewinding
from rlresearch.display import Display
from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation import Evaluation
from rlresearch.footprint import check_room
from rlresearch.loggers import Logger, Offline, Several
from rlresearch.mirrors.beside import Beside
from rlresearch.plan import Plan, member_configs
from rlresearch.provenance import provenance, versions
from rlresearch.resume import (
    POPULATION,
    SAFE,
    SAFE_GROUPS,
    Resumption,
    lasting_digest,
    open_run,
    read_config,
)
from rlresearch.rundir import RunDirectory, read_rows, timestamp
from rlresearch.runners import Population
from rlresearch.signals import Interrupted, Watch
from rlresearch.trial import Judge, Share, Trial

_log = logging.getLogger("rlresearch")
_log.addHandler(logging.NullHandler())  # before a run directory takes them, messages go nowhere


class Request(NamedTuple):
    """What was asked for, beside the plan made of it.

    config: plain and resolved. algo, env: the names chosen. argv, overrides: as typed. tuned: settings
    that applied by themselves, by dotted key, and the name they have. choices: the option of each group.
    own: what each member's run.json says for itself, or the only one's for all. begun: told of the directories once one
    can go on from them. trials: of a search, one a member, where members are different ones; the configuration's is of
    all members together.
    """

    config: dict[str, Any]
    algo: str
    env: str
    argv: Sequence[str]
    overrides: Sequence[str]
    tuned_name: str | None = None
    tuned: Mapping[str, Any] = {}
    choices: Mapping[str, Any] = {}
    own: Sequence[Mapping[str, Any]] = ({},)
    begun: Callable[[Sequence[Path]], None] = lambda _: None
    trials: Sequence[Mapping[str, Any] | None] = ()


class Source(NamedTuple):
    """A checkpoint whose parameters a new run begins with; index: of the member, where it is a population's."""

    loaded: checkpoint.Loaded
    index: int | None


class Session(NamedTuple):
    """One process' part of a run. trained_s, elapsed_s: what the run has behind it; cut: for each member the rows that
    are to be written again; beside: the process that mirrors it, once it has been started.
    """

    plan: Plan
    request: Request
    directories: list[RunDirectory]
    display: Display
    began: float
    resumption: Resumption | None = None
    trained_s: float = 0.0
    elapsed_s: float = 0.0
    cut: Sequence[Mapping[str, list[dict]]] = ()
    beside: list[Beside] = []
    judge: Judge | None = None

    def elapsed(self) -> float:
        """Seconds of the whole run so far."""
        return self.elapsed_s + time.perf_counter() - self.began


def launch(plan: Plan, request: Request, resumption: Resumption | None = None) -> float:
    """Trains; returns the mean return of the final evaluation, over members in a population.

    resumption: where it goes on, in place of a new run. RunError with one line where the run failed; run.json then says
    `failed` and why. Interrupted where it was told to stop, after a checkpoint.
    """
    display, directories = Display(plan.logger.console), []
    session = Session(plan, request, directories, display, time.perf_counter(), resumption, beside=[])
    try:
        with Watch(partial(_left_at_once, session)) as watch:
            begins = resumption is None or resumption.loaded is None
            source = _source(plan.settings.init_from) if begins else None
            if resumption is None:
                _create(session)
            else:
                session = _reopen(session, resumption)
            session = session._replace(judge=_judge(session))
            evaluations, trained, digest = _train(session, watch, source)
            _finish(session, evaluations, trained, digest)
    except BaseException as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        _record_end(status, error, session)
        if isinstance(error, (KeyboardInterrupt, ConfigError)):
            raise
        raise RunError(f"{told(error)} ({_where(directories)})") from error
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
    whole = request.config | {"trial": None}  # so that the stored one is that of any run, which no study waits for
    configs = member_configs(plan.runner, whole)
    trials = request.trials or [plan.settings.trial] * len(configs)
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
    cut = [rewinding.cut(each.path, own) for each, own in zip(session.directories, sizes, strict=True)]
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
                directory.write_config(_yaml(own), name)


def _train(session: Session, watch: Watch, source: Source | None) -> tuple[list[Evaluation], float, str]:
    """The final evaluations, the seconds that building and training took, and the digest of the last state."""
    from rlresearch.saving import Saver, begin_from, state_digest
    from rlresearch.training import train

    plan, settings, loaded = session.plan, session.plan.settings, session.resumption and session.resumption.loaded
    step = loaded.about.step if loaded else 0
    session.display.start(_title(session), settings.total_steps, step)
    if plan.logger.wandb is not None:
        paths = [directory.path for directory in session.directories]
        session.beside.append(Beside(paths, plan.logger.wandb, session.display.message))
    device = hardware.prepare(settings.device, settings.threads, settings.deterministic, settings.compile_cache)
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
        every = plan.logger.every_steps or settings.total_steps
        shown = Several([session.display])
        evaluations = train(
            *(runner, plan.task, settings.total_steps, plan.eval, every, told, shown, saver),
            session.judge,
        )
        return evaluations, trained(), state_digest(runner)
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
    from rlresearch.mirrors.tensorboard import TensorBoard

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
    return [Evaluation(rows[-1]["returns"], rows[-1]["lengths"]) for rows in every if rows]


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
    for index, directory in enumerate(session.directories):
        if (told := directory.recorded().get("trial")) is not None:
            shares.setdefault(Trial(**told), []).append(index)
    together = [Share(trial, tuple(members)) for trial, members in shares.items()]
    return Judge(together, len(session.directories), _last_step(session.plan))


def _last_step(plan: Plan) -> int:
    """The transitions of a whole run, which are whole rounds of all environments."""
    return -(-plan.settings.total_steps // plan.task.num_envs) * plan.task.num_envs


def _finish(session: Session, evaluations: list[Evaluation], trained: float, digest: str) -> None:
    plan, directories = session.plan, session.directories
    summaries, all_steps = [], sum(ended or _last_step(plan) for ended in session.judge.ended)
    for directory, evaluation, ended in zip(directories, evaluations, session.judge.ended, strict=True):
        status, steps = ("finished", _last_step(plan)) if ended is None else ("pruned", ended)
        final = _described(evaluation, steps)
        summary = {"status": status, "total_steps": steps, "final_evaluation": final, "state_digest": digest}
        summary |= {"training_time_s": round(trained, 3), "wall_time_s": round(session.elapsed(), 3)}
        summary["steps_per_second"] = round(all_steps / trained, 1)
        directory.record(finished_at=timestamp(), **summary)
        if directory.recorded().get("nondeterminism") is None:
            rewinding.forget(directory.path)
        summaries.append(summary)
    session.judge.record(summaries, [{"path": each.path, "row": _last_row(each)} for each in directories])
    shown = summaries[0] | {"run_directory": str(directories[0].path), "next": _next(plan)}
    if len(directories) > 1:
        shown["members"] = [
            {"mean": s["final_evaluation"]["mean"], "name": d.path.name} for s, d in zip(summaries, directories)
        ]
        shown["run_directory"] = f"{directories[0].path} and {len(directories) - 1} more beside it"
    session.display.finish(shown)


def _described(evaluation: Evaluation, step: int) -> dict[str, Any]:
    returns = np.asarray(evaluation.returns)
    return {
        "step": step,
        "mean": float(returns.mean()),
        "std": float(returns.std()),
        "episodes": len(returns),
        "mean_length": float(np.mean(evaluation.lengths)),
    }


def _last_row(directory: RunDirectory) -> dict[str, Any] | None:
    return max(read_rows(directory.path / "metrics.jsonl"), key=lambda row: row["step"], default=None)


def _next(plan: Plan) -> list[str]:
    if isinstance(plan.runner, Population) or plan.task.physics is None:
        return ["python -m rlresearch --help"]
    return ["python -m rlresearch runner=population runner.seeds=16   # the same with 16 seeds in one program"]


def _record_end(status: str, error: BaseException, session: Session) -> None:
    """Says in run.json and log.txt how a run ended that did not finish."""
    cause = error.__cause__ if isinstance(error, RunError) and error.__cause__ is not None else error
    error.run_directory = session.directories[0].path if session.directories else None  # for who tells how to go on
    reason = {
        "kind": type(cause).__name__,
        "environment": session.plan.task.id,
        "step": getattr(error, "step", 0),
        "error": str(error),
    }
    ended = {"status": status, "reason": reason, "finished_at": timestamp()}
    ended |= {"wall_time_s": round(session.elapsed(), 3), "total_steps": reason["step"]}
    for directory in session.directories:
        try:
            directory.record(**ended)
        except RunError as second:  # a full disk must not hide the first error
            _log.warning("run.json keeps its last state: %s", second)
    if status == "interrupted":
        _log.warning("interrupted by %s at step %s", getattr(error, "name", "Ctrl-C"), reason["step"])
        return
    if session.judge is not None:
        session.judge.record([ended] * len(session.directories), [{"path": d.path} for d in session.directories])
    _log.error(status, exc_info=error)


def _left_at_once(session: Session, interrupted: Interrupted) -> None:
    """The last words of a process that does not wait for its own end."""
    reason = {"kind": "Interrupted", "environment": session.plan.task.id, "step": None, "error": interrupted.name}
    _log.warning("left at once for %s, without another checkpoint", interrupted.name)
    for directory in session.directories:
        directory.record(status="interrupted", reason=reason, finished_at=timestamp())
    session.display.close()


def _where(directories: list[RunDirectory]) -> str:
    return f"what was logged is in {directories[0].path}" if directories else "before the first step"


def told(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text[:300]}"


def _yaml(config: dict[str, Any]) -> str:
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(redaction.settings(config)))
