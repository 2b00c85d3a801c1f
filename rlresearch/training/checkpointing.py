"""When a run's state is saved.

What takes part of the loop's time is the copying: small arrays, and of a replay the rows added since the last save. A
thread brings them to the disk while training goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rlresearch.envs.task import Task
from rlresearch.errors import RunError, describe_error
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation
from rlresearch.runners.runner import Runner
from rlresearch.storage import run_directory
from rlresearch.storage.checkpoint import Checkpoint, Writer
from rlresearch.storage.manifest import CheckpointMetadata
from rlresearch.storage.provenance import versions
from rlresearch.storage.tensor_files import Arrays
from rlresearch.training.callbacks import Callback, LoopPosition, Milestone
from rlresearch.training.finite_check import FiniteCheck
from rlresearch.training.settings import CheckpointSettings
from rlresearch.training.state_io import Sample, Snapshot, restore, snapshot
from rlresearch.types import Buffer

_log = logging.getLogger("rlresearch")


class LogFiles(Protocol):
    """The files of a member's rows, as far as a checkpoint must know of them."""

    def sizes(self) -> dict[str, int]:
        """In bytes, by name."""
        ...

    def sync(self) -> None:
        """Brings them to the disk."""


class CheckpointFacts(NamedTuple):
    """What a checkpointer must know of its run.

    buffer: the trainer's, which says how its rows can be saved. logs: the files of rows, one a member. times: seconds
    spent so far, by name. config: the digest of the settings that stay the same as long as a run is resumed.
    """

    buffer: Buffer | None = None
    logs: Sequence[LogFiles] = ()
    times: Callable[[], dict[str, float]] = dict
    config: str = ""


class Checkpointer(Callback):
    """Saves a runner's checkpoints in `folder`: planned ones, that of the best evaluation, and the last state.

    finite_check: looks at the state before it is saved. fresh_episodes: whether episodes were left unfinished when the
    run was resumed, and others begun.
    """

    def __init__(
        self,
        runner: Runner,
        task: Task,
        settings: CheckpointSettings,
        folder: Path,
        facts: CheckpointFacts = CheckpointFacts(),
        finite_check: FiniteCheck | None = None,
    ) -> None:
        self._runner, self._settings, self._facts = runner, settings, facts
        self._num_envs, self._environment = task.num_envs, task.id
        self._writer = Writer(folder, settings.keep_last, settings.keep_best, settings.keep_every)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        runner.fresh_episodes = settings.episodes == "fresh" or not task.reseed
        self._finite_check = finite_check or FiniteCheck(runner)
        self._writing: Future[Path] | None = None
        self._saved: tuple[int, LoopPosition] | None = None
        # Of the state before the last evaluation, which that after it takes the place of.
        self._provisional: Path | None = None
        self._replacements, self.fresh_episodes = 0, False
        self._samples: Mapping[str, Sample] = {}
        # Whether a planned checkpoint waits for a place from which the run can be resumed.
        self._overdue = False
        self._since, self._warned = time.monotonic(), False
        self._best, self._serial = self._writer.best_score(), self._writer.last_serial()

    def resume(self, loaded: Checkpoint) -> LoopPosition:
        """Puts a checkpoint of this run into the runner; returns where the loop goes on."""
        position = LoopPosition(**loaded.about.position)  # type: ignore[arg-type]  # JSON: each field has its type
        self._saved = loaded.about.iteration, position
        self._writer.go_on_from(loaded)
        restore(self._runner, self._facts.buffer, loaded)
        self.fresh_episodes = self._runner.fresh_episodes and self._runner.begin_episodes()
        if self.fresh_episodes:
            _log.warning("the episodes that ran at step %s are left unfinished: others have begun", loaded.about.step)
        return position

    def save_first(self) -> None:
        """Saves the state before the first step: what it was made from need not be there later."""
        self._save(LoopPosition())

    def longest_call(self) -> int | None:
        """Iterations go one by one while a checkpoint waits for an episode to end."""
        return 1 if self._overdue else None

    def after_call(self, position: LoopPosition) -> bool:
        """Saves where the minutes are over."""
        every = self._settings.every_minutes
        if self._overdue or (every is not None and time.monotonic() - self._since >= every * 60.0):
            return self._save_or_wait(position)
        return False

    def at_milestone(self, position: LoopPosition, milestone: Milestone, evaluations: Sequence[Evaluation]) -> None:
        """Saves where a planned step is reached, and where the policy has never been better."""
        means = [each.mean for each in evaluations if each is not UNSEEN]
        score = float(np.mean(means)) if means else None
        if score is not None and not np.isfinite(score):
            score = None
        better = score is not None and self._settings.keep_best and (self._best is None or score > self._best)
        if better:
            self._best = score
        planned = milestone.save and self._save_or_wait(position, score)
        if better and not planned:
            self._save(position, score)

    def before_last_evaluation(self, position: LoopPosition) -> None:
        """Saves all that was trained, and waits for it to be on the disk: no evaluation can cost it any more."""
        self._save(position)
        self._provisional = self.wait()

    def on_failure(self, position: LoopPosition) -> None:
        """As `on_end`, and a warning where that fails as well; a state that holds NaN or infinity is not saved."""
        try:
            self._finite_check.check(self._runner.iteration * self._num_envs)
        except RunError:
            return
        try:
            self.on_end(position)
        except Exception as error:  # noqa: BLE001 (the first error is the one to tell)
            _log.warning("the last state could not be saved: %s", describe_error(error))

    def on_end(self, position: LoopPosition) -> None:
        """Saves the state that is to be the last, and waits for it to be on the disk."""
        if self._settings.keep_last:
            if not self._runner.resumable_here:
                why = "the last state is not exact: resume goes on from the one before it, or with %s"
                _log.warning(why, "checkpoint.episodes=fresh")
            self.wait()
            self._save(position)
            self.wait()

    def close(self) -> None:
        """Waits for what is being written; may be called again."""
        self._thread.shutdown(wait=True)
        self._writer.close()

    def _save_or_wait(self, position: LoopPosition, score: float | None = None) -> bool:
        """Saves a planned checkpoint, or has it wait where nobody could go on from it."""
        wait = not self._runner.resumable_here and self._runner.resumable_soon
        self._overdue = wait and bool(self._settings.keep_last)
        if self._overdue and not self._warned:
            self._warned = True
            why = "environment '%s' does not replay: checkpoints wait for its episodes to end"
            _log.warning(why, self._environment)
        if self._overdue or not self._settings.keep_last:
            return False
        self._serial += 1
        self._save(position, score, self._serial)
        return True

    def _save(self, position: LoopPosition, score: float | None = None, serial: int | None = None) -> None:
        place = self._runner.iteration, position
        if place == self._saved or not self._settings.keep_last:
            return
        step = self._runner.iteration * self._num_envs
        self.wait()
        self._finite_check.check(step)
        taken = self._snapshot()
        about = CheckpointMetadata(
            step=step,
            iteration=self._runner.iteration,
            members=list(self._runner.members),
            position=position._asdict(),
            logs=[log.sizes() for log in self._facts.logs],
            times=self._facts.times(),
            score=score,
            serial=serial,
            exact=self._runner.resumable_here,
            config=self._facts.config,
        )
        rows = self._writer.unwritten(taken.rings)
        # without the tensors: as long as somebody holds them, XLA copies the replay in place of changing it
        taken = taken._replace(rings={name: ring._replace(rows=None) for name, ring in taken.rings.items()})
        provisional, self._provisional = self._provisional, None
        self._writing = self._thread.submit(self._write, taken, rows, about, provisional)
        self._saved, self._since = place, time.monotonic()

    def _snapshot(self) -> Snapshot:
        """What is to be saved; where rows have changed that lie on the disk already, all rows are written again."""
        taken = snapshot(self._runner, self._facts.buffer, self._samples)
        if self._runner.replacements != self._replacements:
            self._writer.forget_rows()
        elif taken.changed:
            self._writer.forget_rows()
            why = "%s changes rows after they were added: each checkpoint saves all of them; leave out its append_only"
            _log.warning(why, type(self._facts.buffer).__name__)
        self._replacements, self._samples = self._runner.replacements, taken.samples
        return taken

    def _write(
        self,
        taken: Snapshot,
        rows: Mapping[str, tuple[int, Arrays]],
        about: CheckpointMetadata,
        provisional: Path | None,
    ) -> Path:
        """Brings a snapshot to the disk, in the place of the provisional one at its step; returns where it is.

        Its digest is computed here, where training does not wait for it.
        """
        about = about.model_copy(update={"content": taken.content})
        try:
            for log in self._facts.logs:
                log.sync()
            now = run_directory.timestamp()
            path = self._writer.save(taken.arrays, taken.rings, rows, about, versions(), now)
            path = self._writer.replace(provisional, path) if provisional is not None else path
        except OSError as error:
            raise RunError(f"the checkpoint at step {about.step} cannot be written: {error}") from error
        self._writer.rotate()
        return path

    def wait(self) -> Path | None:
        """Returns, once it is on the disk, where what was being written is. RunError where it failed and the run must
        not go on; None where nothing was written.
        """
        writing, self._writing = self._writing, None
        try:
            return writing.result() if writing is not None else None
        except RunError as error:
            self._saved = None
            if self._settings.if_it_fails == "stop":
                raise
            _log.warning("%s. The run goes on; the last checkpoint is whole", error)
            return None
