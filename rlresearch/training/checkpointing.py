"""Decides when the state of a run is saved, and saves it.

Training waits only while arrays are copied: the small arrays, and the replay rows added since the last save. A thread
then writes the copies to the disk during training.
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
    """The files of a member's rows, with the methods that a checkpoint needs."""

    def sizes(self) -> dict[str, int]:
        """Returns the size of each file in bytes, by name."""
        ...

    def sync(self) -> None:
        """Flushes the files to the disk."""


class CheckpointFacts(NamedTuple):
    """Facts about a run that its checkpointer needs.

    buffer: the trainer's buffer, which says how its rows can be saved. logs: the files of rows, one per member.
    times: seconds spent so far, by name. config: a digest of the settings that a resume must not change.
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
        """Loads a checkpoint of this run into the runner; returns the position from which the loop continues."""
        position = LoopPosition(**loaded.about.position)  # type: ignore[arg-type]  # JSON: each field has its type
        self._saved = loaded.about.iteration, position
        self._writer.resume_from(loaded)
        restore(self._runner, self._facts.buffer, loaded)
        self.fresh_episodes = self._runner.fresh_episodes and self._runner.begin_episodes()
        if self.fresh_episodes:
            _log.warning("the episodes that ran at step %s are left unfinished: others have begun", loaded.about.step)
        return position

    def save_first(self) -> None:
        """Saves the state before the first step, because the run in `init_from` may be gone at a later resume."""
        self._save(LoopPosition())

    def longest_call(self) -> int | None:
        """Iterations go one by one while a checkpoint waits for an episode to end."""
        return 1 if self._overdue else None

    def after_call(self, position: LoopPosition) -> bool:
        """Saves when `every_minutes` have passed since the last save."""
        every = self._settings.every_minutes
        if self._overdue or (every is not None and time.monotonic() - self._since >= every * 60.0):
            return self._save_or_wait(position)
        return False

    def at_milestone(self, position: LoopPosition, milestone: Milestone, evaluations: Sequence[Evaluation]) -> None:
        """Saves at a planned step, and when the score is better than at all earlier evaluations."""
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
        """Saves the last state, and waits until it is on the disk."""
        if self._settings.keep_last:
            if not self._runner.resumable_here:
                why = "the last state is not exact: resume goes on from the one before it, or with %s"
                _log.warning(why, "checkpoint.episodes=fresh")
            self.wait()
            self._save(position)
            self.wait()

    def close(self) -> None:
        """Waits until the current checkpoint is written; may be called again."""
        self._thread.shutdown(wait=True)
        self._writer.close()

    def _save_or_wait(self, position: LoopPosition, score: float | None = None) -> bool:
        """Saves a planned checkpoint. If the run could not resume from here, the checkpoint waits."""
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
        # Drops the tensors: while another reference to them exists, XLA copies the replay instead of changing it.
        taken = taken._replace(rings={name: ring._replace(rows=None) for name, ring in taken.rings.items()})
        provisional, self._provisional = self._provisional, None
        self._writing = self._thread.submit(self._write, taken, rows, about, provisional)
        self._saved, self._since = place, time.monotonic()

    def _snapshot(self) -> Snapshot:
        """Returns the state to save. If rows that are already on the disk have changed, all rows are written again."""
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
        """Writes a snapshot in the place of the provisional checkpoint at its step; returns its folder.

        Its digest is computed in this thread, so training does not wait for it.
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
        """Waits until the current checkpoint is on the disk; returns its folder, None where none was written.

        Errors: RunError on failure, if the run must stop then.
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
