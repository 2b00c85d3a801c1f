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
from typing import Any, Protocol

import numpy as np

from rlresearch.errors import RunError
from rlresearch.evaluation.evaluator import UNSEEN, Evaluation
from rlresearch.storage import run_directory
from rlresearch.storage.checkpoint import About, Loaded, Writer
from rlresearch.storage.provenance import versions
from rlresearch.training.callbacks import Position, Stop
from rlresearch.training.experiment import Plan
from rlresearch.training.finite_check import Soundness
from rlresearch.training.state_io import restore, snapshot

_log = logging.getLogger("rlresearch")


class Log(Protocol):
    """The files of a member's rows, as far as a checkpoint must know of them."""

    def sizes(self) -> dict[str, int]:
        """In bytes, by name."""

    def sync(self) -> None:
        """Brings them to the disk."""


class Saver:
    """Saves a runner's checkpoints in `run`; a `training.Keeper`.

    logs: one a member. check: raises Interrupted where the run was told to stop. times: seconds spent so far, by name.
    config: the digest of what must stay as it is. loaded: where the run goes on, in place of its beginning; finals:
    the evaluations made there.
    """

    def __init__(
        self,
        runner: Any,
        plan: Plan,
        run: Path,
        logs: Sequence[Log],
        check: Callable[[], None] = lambda: None,
        times: Callable[[], dict[str, float]] = dict,
        config: str = "",
        loaded: Loaded | None = None,
        finals: Sequence[Evaluation] = (),
    ) -> None:
        self._settings = settings = plan.checkpoint
        self._runner, self._num_envs, self._logs = runner, plan.task.num_envs, logs
        self._environment = plan.task.id
        self._times, self.check, self._config = times, check, config
        self._writer = Writer(run, settings.keep_last, settings.keep_best, settings.keep_every)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self.soundness = Soundness(runner)
        self._writing: Future | None = None
        self._saved: tuple[int, Position] | None = None
        self._replaced = 0
        self._overdue, self._since, self._warned = False, time.monotonic(), False
        self.begin, self.finals = Position(), list(finals)
        self.every_steps = settings.every_steps if settings.keep_last else None
        self._best, self._serial = self._writer.best_score(), self._writer.last_serial()
        if loaded is not None:
            self.begin = Position(**loaded.about.position)
            self._saved = loaded.about.iteration, self.begin
            self._writer.go_on_from(loaded)
            restore(runner, loaded)
        elif plan.settings.init_from is not None:  # what it began with need not be there when it goes on
            self._save(self.begin)

    def iterations(self) -> int | None:
        """One by one, while a checkpoint waits for an episode to end."""
        return 1 if self._overdue else None

    def between_calls(self, position: Position) -> bool:
        """Saves where the minutes are over."""
        every = self._settings.every_minutes
        if self._overdue or (every is not None and time.monotonic() - self._since >= every * 60.0):
            return self._plan(position)
        return False

    def at_stop(self, position: Position, stop: Stop, evaluations: Sequence[Evaluation]) -> None:
        """Saves where a planned step is reached, and where the policy has never been better."""
        means = [each.mean for each in evaluations if each is not UNSEEN]
        score = float(np.mean(means)) if means else None
        if score is not None and not np.isfinite(score):
            score = None
        better = score is not None and self._settings.keep_best and (self._best is None or score > self._best)
        if better:
            self._best = score
        planned = stop.save and self._plan(position, score)
        if better and not planned:
            self._save(position, score)

    def at_end(self, position: Position) -> None:
        """Saves the state that is to be the last, and waits for it to be on the disk."""
        if self._settings.keep_last:
            if not self._runner.exact:
                _log.warning("the last state is not exact: resume goes on from the checkpoint before it")
            self._finish_writing()
            self._save(position)
            self._finish_writing()

    def close(self) -> None:
        """Waits for what is being written; may be called again."""
        self._thread.shutdown(wait=True)
        self._writer.close()

    def _plan(self, position: Position, score: float | None = None) -> bool:
        """Saves a planned checkpoint, or has it wait where nobody could go on from it."""
        self._overdue = bool(self._settings.keep_last) and not self._runner.exact
        if self._overdue and not self._warned:
            self._warned = True
            why = "environment '%s' does not replay: checkpoints wait for its episodes to end"
            _log.warning(why, self._environment)
        if self._overdue or not self._settings.keep_last:
            return False
        self._serial += 1
        self._save(position, score, self._serial)
        return True

    def _save(self, position: Position, score: float | None = None, serial: int | None = None) -> None:
        place = self._runner.iteration, position
        if place == self._saved or not self._settings.keep_last:
            return
        step = self._runner.iteration * self._num_envs
        self._finish_writing()
        self.soundness.check(step)
        about = About(
            step=step,
            iteration=self._runner.iteration,
            members=list(self._runner.members),
            position=position._asdict(),
            logs=[log.sizes() for log in self._logs],
            times=self._times(),
            score=score,
            serial=serial,
            exact=self._runner.exact,
            config=self._config,
        )
        if (replaced := getattr(self._runner, "replaced", 0)) != self._replaced:
            self._writer.forget_rows()
            self._replaced = replaced
        arrays, rings = snapshot(self._runner)
        rows = self._writer.unwritten(rings)
        # without the tensors: as long as somebody holds them, XLA copies the replay in place of changing it
        rings = {name: ring._replace(rows=None) for name, ring in rings.items()}
        self._writing = self._thread.submit(self._write, arrays, rings, rows, about)
        self._saved, self._since = place, time.monotonic()

    def _write(self, arrays: Mapping, rings: Mapping, rows: Mapping, about: About) -> None:
        try:
            for log in self._logs:
                log.sync()
            self._writer.save(arrays, rings, rows, about, versions(), run_directory.timestamp())
        except OSError as error:
            raise RunError(f"the checkpoint at step {about.step} cannot be written: {error}") from error
        self._writer.rotate()

    def _finish_writing(self) -> None:
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            writing.result()
        except RunError as error:
            self._saved = None
            if self._settings.if_it_fails == "stop":
                raise
            _log.warning("%s. The run goes on; the last checkpoint is whole", error)
