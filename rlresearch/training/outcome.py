"""Records and shows how a run ended: finished, pruned, failed or interrupted."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rlresearch.errors import ConfigError, RunError, command_line
from rlresearch.evaluation.evaluator import Evaluation
from rlresearch.loggers.console import Display
from rlresearch.runners import Population
from rlresearch.runtime.signals import Interrupted
from rlresearch.storage import rollback
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.redaction import redacted
from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.training.callbacks import Members
from rlresearch.training.experiment import Plan
from rlresearch.training.member_failures import MemberFailures
from rlresearch.training.pruner import Pruner
from rlresearch.training.request import RunRequest

_log = logging.getLogger("rlresearch")
_SEEDS = 16
_RUNNER = re.compile(r"[+~]*runner[.=@]")  # what a command says of its runner


class Trained(NamedTuple):
    """The result of training. evaluations: the final ones, one per member. digests: of the last state, one per member.
    seconds: the time for building and training, including earlier sessions.
    """

    evaluations: list[Evaluation]
    digests: list[str]
    seconds: float


class RunRecorder:
    """Says how a run ended: in run.json of each member, in log.txt, to a search, and on the terminal.

    directories: filled while the run is opened. elapsed: seconds of the whole run so far. members, pruner, failures:
    set once the run is open; pruner: None where no member is a trial of a search; failures: of the members of a fused
    program, None where one failure ends the run.
    """

    def __init__(
        self,
        plan: Plan,
        request: RunRequest,
        directories: list[RunDirectory],
        display: Display,
        elapsed: Callable[[], float],
    ) -> None:
        self._plan, self._directories, self._display, self._elapsed = plan, directories, display, elapsed
        self._request = request
        self.members: Members = Members(0)
        self.pruner: Pruner | None = None
        self.failures: MemberFailures | None = None

    def finish(self, trained: Trained) -> None:
        """Records how each member ended, except members that failed, which have a record already."""
        ends = [last_step(self._plan) if ended is None else ended for ended in self.members.ended]
        speed = round(sum(ended or last_step(self._plan) for ended in self.members.ended) / trained.seconds, 1)
        summaries = []
        for member, directory in enumerate(self._directories):
            summary: dict[str, Any] = {
                "status": "finished" if self.members.ended[member] is None else "pruned",
                "total_steps": ends[member],
                "final_evaluation": trained.evaluations[member].summary(ends[member]),
                "state_digest": trained.digests[member],
                "training_time_s": round(trained.seconds, 3),
                "wall_time_s": round(self._elapsed(), 3),
                "steps_per_second": speed,
            }
            summaries.append(self._recorded(directory, summary))
        if self.pruner is not None:
            self.pruner.record(summaries, [{"path": each.path, "row": _last_row(each)} for each in self._directories])
        self._show(summaries)

    def fail(self, error: BaseException, step: int) -> None:
        """Records that the run failed or was interrupted at a step."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        cause = error.__cause__ if isinstance(error, RunError) and error.__cause__ is not None else error
        if isinstance(error, Interrupted):
            error.step = step
            error.run_directory = self._directories[0].path.absolute() if self._directories else None
        environment = self._plan.task.id
        reason = {"kind": type(cause).__name__, "environment": environment, "step": step, "error": str(error)}
        ended: dict[str, Any] = {"status": status, "reason": reason, "finished_at": timestamp()}
        ended |= {"wall_time_s": round(self._elapsed(), 3), "total_steps": step}
        for directory in self._directories:
            try:
                if not self._has_failed(directory):
                    directory.record(**ended)
            except RunError as second:  # a full disk must not hide the first error
                _log.warning("run.json keeps its last state: %s", second)
        if status == "failed":
            if self.pruner is not None:
                self.pruner.record([ended] * len(self._directories), [{"path": d.path} for d in self._directories])
            _log.error(status, exc_info=error)
        else:
            _log.warning("interrupted by %s at step %s", getattr(error, "name", "Ctrl-C"), step)

    def leave_at_once(self, interrupted: Interrupted) -> None:
        """Records the interruption when the process ends at once, without another checkpoint."""
        environment = self._plan.task.id
        reason = {"kind": "Interrupted", "environment": environment, "step": None, "error": interrupted.name}
        _log.warning("left at once for %s, without another checkpoint", interrupted.name)
        for directory in self._directories:
            if directory.recorded()["status"] != "failed":  # a member may have failed before
                directory.record(status="interrupted", reason=reason, finished_at=timestamp())
        self._display.close()

    def _recorded(self, directory: RunDirectory, summary: dict[str, Any]) -> dict[str, Any]:
        """Writes a member's summary into its run.json and returns it; a failed member keeps its recorded status."""
        if self._has_failed(directory):
            own = directory.recorded()
            return summary | {name: own.get(name) for name in ("status", "reason", "total_steps")}
        directory.record(finished_at=timestamp(), **summary)
        if directory.recorded().get("nondeterminism") is None:
            rollback.forget(directory.path)
        return summary

    def _has_failed(self, directory: RunDirectory) -> bool:
        return self.failures is not None and directory in self.failures

    def _show(self, summaries: Sequence[dict[str, Any]]) -> None:
        first = self._directories[0].path
        shown = summaries[0] | {"run_directory": str(first), "next": _next(self._plan, self._request)}
        if len(self._directories) > 1:
            pairs = zip(summaries, self._directories, strict=True)
            shown["members"] = [{"mean": s["final_evaluation"]["mean"], "name": d.path.name} for s, d in pairs]
            shown["run_directory"] = f"{first} and {len(self._directories) - 1} more beside it"
        self._display.finish(shown)


def last_step(plan: Plan) -> int:
    """Returns the transitions of a whole run: total_steps, rounded up to full rounds of all environments."""
    return -(-plan.settings.total_steps // plan.task.num_envs) * plan.task.num_envs


def log_hint(directories: Sequence[RunDirectory]) -> str:
    """Returns a hint that names the log of a failed run."""
    return f"what was logged is in {directories[0].path}" if directories else "before the first step"


def format_error(error: BaseException) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text[:300]}"


def _last_row(directory: RunDirectory) -> dict[str, Any] | None:
    return max(read_rows(directory.path / "metrics.jsonl"), key=lambda row: row["step"], default=None)


def _next(made: Plan, request: RunRequest) -> list[str]:
    """What a person may paste now. A comment behind it would be part of the command in zsh."""
    own = [word for word in request.begins if not _RUNNER.match(word)]
    if not own or redacted(own) != own or not _fits_a_population(made):
        return ["python -m rlresearch --help"]
    command = command_line([*own, "runner=population", f"runner.seeds={_SEEDS}"])
    return [f"the same with {_SEEDS} seeds in one program:", command]


def _fits_a_population(made: Plan) -> bool:
    if isinstance(made.runner, Population):
        return False
    try:
        Population(seeds=_SEEDS).check(made.trainer, made.task)
        return True
    except ConfigError:
        return False
