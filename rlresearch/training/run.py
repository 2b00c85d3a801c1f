"""One run from a checked plan to its end: directories, TensorFlow, training, and the final report."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rlresearch.errors import ConfigError, RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation
from rlresearch.loggers.base import Logger
from rlresearch.loggers.composite import CompositeLogger
from rlresearch.loggers.console import Display
from rlresearch.loggers.file_logger import FileLogger
from rlresearch.loggers.wandb.supervisor import WandbProcess, start_wandb
from rlresearch.runners import Host, Population
from rlresearch.runners.runner import Runner
from rlresearch.runtime import devices, watchdog
from rlresearch.runtime.signals import SignalHandler
from rlresearch.storage import checkpoint
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training import learnability, run_directories
from rlresearch.training.callbacks import Callback, Members, SignalCheck
from rlresearch.training.experiment import Plan
from rlresearch.training.member_failures import MemberFailures, are_fused
from rlresearch.training.optuna_trial import Trial, TrialMembers
from rlresearch.training.outcome import RunRecorder, Trained, format_error, last_step, log_hint
from rlresearch.training.pruner import Pruner
from rlresearch.training.request import RunRequest
from rlresearch.training.resume import ResumePoint, lasting_digest, open_run

if TYPE_CHECKING:
    from rlresearch.training.loop import LoopStart

_log = logging.getLogger("rlresearch")
_log.addHandler(logging.NullHandler())  # before a run directory takes them, messages go nowhere


class InitFrom(NamedTuple):
    """A checkpoint with the first parameters of a new run. member: the index of a member, if it is a population's."""

    loaded: checkpoint.Checkpoint
    member: int | None


class Run:
    """One run, or the rest of one: prepare, open, train, finish.

    resumption: the point at which a run resumes, None for a new run. Errors: RunError with one line where the run
    failed, with the reason in run.json; Interrupted after a signal to stop, once a checkpoint is saved.
    """

    def __init__(self, plan: Plan, request: RunRequest, resumption: ResumePoint | None = None) -> None:
        self.plan, self.request, self.resumption = plan, request, resumption
        self._checkpoint = resumption.loaded if resumption is not None else None  # where the run is resumed
        self.directories: list[RunDirectory] = []
        self.display = Display(plan.logger.console)
        self._outcome = RunRecorder(plan, request, self.directories, self.display, self.elapsed)
        self._began, self._past = time.perf_counter(), run_directories.Past()
        self._init_from: InitFrom | None = None
        self._wandb: WandbProcess | None = None
        self._step = 0

    def elapsed(self) -> float:
        """Seconds of the whole run so far, earlier sessions included."""
        return self._past.elapsed_s + time.perf_counter() - self._began

    def execute(self) -> float:
        """All of it; returns the mean return of the final evaluation, over members in a population."""
        try:
            with SignalHandler(self._outcome.leave_at_once) as signals:
                self.prepare()
                self.open()
                paths = [each.path for each in self.directories]
                with watchdog.watched(self.plan.task.timeout_s, self.plan.task.id, paths):
                    trained = self.train(signals.check)
                self._outcome.finish(trained)
        except BaseException as error:
            self._outcome.fail(error, self._step)
            if isinstance(error, (KeyboardInterrupt, ConfigError)):
                raise
            raise RunError(f"{format_error(error)} ({log_hint(self.directories)})") from error
        finally:
            self._close()
        signals.check()  # after a late signal this run has finished, but no other run may start
        return float(np.mean([each.mean for each in trained.evaluations]))

    def prepare(self) -> None:
        """Loads the checkpoint of `init_from` for a new run. Errors: ConfigError where there is none."""
        path = self.plan.settings.init_from
        if path is not None and self._checkpoint is None:
            stored = open_run(path, "init_from")
            loaded = checkpoint.load_named(stored.home, "last", f"init_from={path}")
            self._init_from = InitFrom(loaded, stored.index if stored.record.get("population") else None)

    def open(self) -> None:
        """Makes the run's directories, or opens them, finds members that are trials or failed, and shows the title."""
        if self.resumption is None:
            run_directories.create(self.plan, self.request, self.directories)
        else:
            self._past = run_directories.reopen(self.resumption, self.request, self.directories)
        members = self._outcome.members = Members(len(self.directories))
        trials = run_directories.trials_of(self.request, len(self.directories), self.resumption is not None)
        if any(trial is not None for trial in trials):
            self._outcome.pruner = self._pruner(trials, members)
        if are_fused(self.request.record_fields, self.resumption):
            failures = MemberFailures(self.plan.task.id, self.directories, members, self.elapsed)
            self._outcome.failures = failures
        request, settings, loaded = self.request, self.plan.settings, self._checkpoint
        runner = type(self.plan.runner).__name__.lower()
        title = [
            f"{request.algo} on {request.env}" + (", resumed" if self.resumption else ""),
            f"runner {runner}, device {settings.device}, seed {settings.seed}, {settings.total_steps:,} steps",
        ]
        if request.tuned:
            values = ", ".join(f"{key}={'null' if value is None else value}" for key, value in request.tuned.items())
            title.append(f"tuned settings {request.tuned_name}: {values} (tuned=none switches them off)")
        self.display.start(title, settings.total_steps, loaded.about.step if loaded else 0)

    def train(self, check: Callable[[], None]) -> Trained:
        """Loads TensorFlow, builds the runner and trains. check: raises Interrupted where the run was told to stop."""
        settings = self.plan.settings
        if self.plan.logger.wandb is not None:
            paths = [directory.path for directory in self.directories]
            self._wandb = start_wandb(paths, self.plan.logger.wandb, self.display.message)
        device = devices.prepare(settings.device, settings.threads, settings.deterministic, settings.compile_cache)
        for directory in self.directories:
            directory.record(device=device)
        began = time.perf_counter()
        with contextlib.ExitStack() as closing:
            runner = self.plan.runner.start(self.plan.trainer, self.plan.task, settings.seed)
            closing.callback(runner.close)
            try:
                return self._train(runner, check, began, closing)
            except (Exception, KeyboardInterrupt):
                self._step = runner.iteration * self.plan.task.num_envs
                raise

    def _train(self, runner: Runner, check: Callable[[], None], began: float, closing: contextlib.ExitStack) -> Trained:
        from rlresearch.training.loop import LoopSettings, TrainingLoop
        from rlresearch.training.state_io import begin_from, member_digests, state_digest

        plan, members = self.plan, self._outcome.members
        trained_s = lambda: self._past.trained_s + time.perf_counter() - began  # noqa: E731
        if self._init_from is not None:
            begin_from(runner, *self._init_from)
        callbacks, start = self._callbacks(runner, check, trained_s, closing)
        self._tell_of_the_rest(runner.iteration)
        row_every = plan.logger.every_steps or plan.settings.total_steps
        save_every = plan.checkpoint.every_steps if plan.checkpoint.keep_last else None
        settings = LoopSettings(plan.settings.total_steps, row_every, plan.eval, save_every)
        evaluations = TrainingLoop(runner, plan.task, settings, callbacks, members, start).run()
        seconds = trained_s()
        if not isinstance(plan.runner, Population):
            return Trained(evaluations, [state_digest(runner)], seconds)
        ended = [None if step is None else step // plan.task.num_envs for step in members.ended]
        return Trained(evaluations, member_digests(runner, ended), seconds)

    def _callbacks(
        self, runner: Runner, check: Callable[[], None], trained_s: Callable[[], float], closing: contextlib.ExitStack
    ) -> tuple[list[Callback], LoopStart]:
        """Returns the callbacks of this run, in order, and the start of the loop. closing: closes files at the end."""
        from rlresearch.evaluation.video import Recorder
        from rlresearch.training.checkpointing import Checkpointer, CheckpointFacts
        from rlresearch.training.finite_check import FiniteCheck
        from rlresearch.training.loop import LoopStart
        from rlresearch.training.reporting import LoggerCallback, ReplayCallback, SelectionCallback, VideoCallback

        plan, outcome, paths = self.plan, self._outcome, [each.path for each in self.directories]
        finite_check = FiniteCheck(runner, None if outcome.failures is None else outcome.failures.end)
        files, loggers = self._loggers(closing)
        times = lambda: {"wall_time_s": self.elapsed(), "training_time_s": trained_s()}  # noqa: E731
        config = lasting_digest(run_directories.stored_config(plan, self.directories))
        facts = CheckpointFacts(plan.trainer.buffer, files, times, config)
        checkpointer = Checkpointer(runner, plan.task, plan.checkpoint, paths[0], facts, finite_check)
        closing.callback(checkpointer.close)
        start = LoopStart()
        if self._checkpoint is not None:
            start = LoopStart(checkpointer.resume(self._checkpoint), self._evaluations_before())
            if checkpointer.fresh_episodes:
                run_directories.note_fresh_episodes(self.directories[0])
        elif self._init_from is not None:
            checkpointer.save_first()
        callbacks = [
            SignalCheck(check),
            ReplayCallback(runner, plan.task.id, self.directories, self._warn)
            if isinstance(plan.runner, Host)
            else None,
            finite_check,
            learnability.StandstillCheck(runner, plan.trainer, plan.settings.total_steps, self._warn),
            VideoCallback(Recorder(plan.task, paths, check), plan.eval),
            LoggerCallback(outcome.members, loggers, CompositeLogger([self.display])),
            outcome.pruner,
            SelectionCallback(runner, loggers[0]),
            checkpointer,
        ]
        return [each for each in callbacks if each is not None], start

    def _tell_of_the_rest(self, iteration: int) -> None:
        """Says what is wrong with the iterations that are left, and what a change of their number has changed."""
        total = self.plan.settings.total_steps
        if self.resumption is not None and "total_steps" in self.resumption.changed and self.plan.following:
            step, names = iteration * self.plan.task.num_envs, ", ".join(self.plan.following)
            _log.warning("these schedules go on from step %s as in a run of %s steps: %s", step, total, names)
        for each in learnability.obstacles(self.plan.trainer, total, iteration):
            self._warn(each.sentence)

    def _warn(self, sentence: str) -> None:
        """Tells of what keeps the run from learning or from being repeated: on the console, in log.txt, in run.json."""
        _log.warning("%s", sentence)
        for directory in self.directories:
            directory.warn(sentence)

    def _loggers(self, closing: contextlib.ExitStack) -> tuple[list[FileLogger], list[Logger]]:
        """Returns for each member the logger of its files, and a logger for these files and the mirrors."""
        cuts = self._past.cut or [{}] * len(self.directories)
        files = [FileLogger(each, self.elapsed(), cut) for each, cut in zip(self.directories, cuts, strict=True)]
        loggers = [self._mirrored(own, each) for own, each in zip(files, self.directories, strict=True)]
        for each in [*files, *loggers]:
            closing.callback(each.close)
        return files, loggers

    def _mirrored(self, files: FileLogger, directory: RunDirectory) -> Logger:
        if not self.plan.logger.tensorboard:
            return files
        from rlresearch.loggers.tensorboard import TensorBoard

        try:
            return CompositeLogger([files, TensorBoard(directory.path)])
        except Exception as error:  # noqa: BLE001 (a mirror may break, the run goes on)
            _log.warning("TensorBoard's files cannot be written: %s: %s", type(error).__name__, error)
            return files

    def _evaluations_before(self) -> list[Evaluation]:
        """Returns each member's last evaluation before the checkpoint; [] where there was none."""
        if self._checkpoint is None or self._checkpoint.about.position["evaluation"] < 0:
            return []
        every = [list(read_rows(directory.path / "evaluations.jsonl")) for directory in self.directories]
        return [Evaluation(rows[-1]["returns"], rows[-1]["lengths"]) if rows else UNSEEN for rows in every]

    def _pruner(self, trials: Sequence[Mapping[str, Any] | None], members: Members) -> Pruner:
        """Returns the callback that ends members when the studies of their trials prune them."""
        by_trial: dict[Trial, list[int]] = {}
        for member, own in enumerate(trials):
            if own is not None:
                by_trial.setdefault(Trial(**own), []).append(member)
        together = [TrialMembers(trial, tuple(own)) for trial, own in by_trial.items()]
        pruner = Pruner(together, members, last_step(self.plan))
        if self._checkpoint is not None:
            every = [read_rows(directory.path / "evaluations.jsonl") for directory in self.directories]
            returns = [[float(np.mean(row["returns"])) for row in rows] for rows in every]
            pruner.resume(self._checkpoint.about.step, returns)
        return pruner

    def _close(self) -> None:
        """Closes W&B's process, the display and the run directories. Call it after run.json says how the run ended."""
        try:
            if self._wandb is not None:
                self._wandb.close()
        finally:
            self.display.close()
            for directory in self.directories:
                directory.close()
