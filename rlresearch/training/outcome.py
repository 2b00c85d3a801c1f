"""What is written and told when a run ends: finished, pruned, failed, or because it was told to stop."""

from __future__ import annotations

import logging
from typing import Any

from rlresearch.errors import RunError
from rlresearch.evaluation.evaluator import Evaluation
from rlresearch.runners import Population
from rlresearch.runtime.signals import Interrupted
from rlresearch.storage import rollback
from rlresearch.storage.jsonl import read_rows
from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.training.experiment import Plan
from rlresearch.training.session import Session, last_step

_log = logging.getLogger("rlresearch")


def finish(session: Session, evaluations: list[Evaluation], trained: float, digests: list[str]) -> None:
    """Says in run.json, to a search and on the terminal how each member ended; of lost ones was told before."""
    plan, directories = session.plan, session.directories
    summaries, all_steps = [], sum(ended or last_step(plan) for ended in session.judge.ended)
    for directory, evaluation, ended, digest in zip(
        directories, evaluations, session.judge.ended, digests, strict=True
    ):
        status, steps = ("finished", last_step(plan)) if ended is None else ("pruned", ended)
        final = evaluation.summary(steps)
        summary = {"status": status, "total_steps": steps, "final_evaluation": final, "state_digest": digest}
        summary |= {"training_time_s": round(trained, 3), "wall_time_s": round(session.elapsed(), 3)}
        summary["steps_per_second"] = round(all_steps / trained, 1)
        summaries.append(summary)
        if session.lost is not None and directory in session.lost:
            own = directory.recorded()
            summaries[-1] = summary | {name: own.get(name) for name in ("status", "reason", "total_steps")}
            continue
        directory.record(finished_at=timestamp(), **summary)
        if directory.recorded().get("nondeterminism") is None:
            rollback.forget(directory.path)
    session.judge.record(summaries, [{"path": each.path, "row": _last_row(each)} for each in directories])
    shown = summaries[0] | {"run_directory": str(directories[0].path), "next": _next(plan)}
    if len(directories) > 1:
        shown["members"] = [
            {"mean": s["final_evaluation"]["mean"], "name": d.path.name} for s, d in zip(summaries, directories)
        ]
        shown["run_directory"] = f"{directories[0].path} and {len(directories) - 1} more beside it"
    session.display.finish(shown)


def _last_row(directory: RunDirectory) -> dict[str, Any] | None:
    return max(read_rows(directory.path / "metrics.jsonl"), key=lambda row: row["step"], default=None)


def _next(plan: Plan) -> list[str]:
    if isinstance(plan.runner, Population) or plan.task.physics is None:
        return ["python -m rlresearch --help"]
    return ["python -m rlresearch runner=population runner.seeds=16   # the same with 16 seeds in one program"]


def record(status: str, error: BaseException, session: Session) -> None:
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
            if session.lost is None or directory not in session.lost:
                directory.record(**ended)
        except RunError as second:  # a full disk must not hide the first error
            _log.warning("run.json keeps its last state: %s", second)
    if status == "failed":
        if session.judge is not None:
            session.judge.record([ended] * len(session.directories), [{"path": d.path} for d in session.directories])
        _log.error(status, exc_info=error)
    else:
        _log.warning("interrupted by %s at step %s", getattr(error, "name", "Ctrl-C"), reason["step"])


def left_at_once(session: Session, interrupted: Interrupted) -> None:
    """The last words of a process that does not wait for its own end."""
    reason = {"kind": "Interrupted", "environment": session.plan.task.id, "step": None, "error": interrupted.name}
    _log.warning("left at once for %s, without another checkpoint", interrupted.name)
    for directory in session.directories:
        if directory.recorded()["status"] != "failed":  # one of several that was lost before
            directory.record(status="interrupted", reason=reason, finished_at=timestamp())
    session.display.close()


def where(directories: list[RunDirectory]) -> str:
    return f"what was logged is in {directories[0].path}" if directories else "before the first step"


def told(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text[:300]}"
