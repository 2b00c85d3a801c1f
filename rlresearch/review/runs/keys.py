"""Classifies the keys of a run: settings that the user chose, and facts that only follow from a run."""

from __future__ import annotations

from collections.abc import Sequence

from rlresearch.review.runs.query import keys
from rlresearch.review.runs.reader import Run

ABOUT = ("configuration", "code", "machine", "result", "origin", "time", "metrics")
# An entry means its key and all keys below it.
_NOT_CONFIGURATION = {
    "code": ("git", "package_git", "packages", "python", "schema_version", "imported", "nondeterminism"),
    "machine": ("host", "device"),
    "result": ("name", "status", "reason", "problem", "final", "best", "steps", "duration", "final_evaluation"),
    "origin": (
        *("pid", "command", "overrides", "choices", "population", "sweep", "trial", "resumes", "warnings", "metrics"),
        "state_digest",
    ),
    "time": ("started_at", "finished_at", "wall_time_s", "training_time_s", "steps_per_second"),
}
# Settings that decide where and how a run is made, but do not define a different experiment.
_INDIFFERENT: tuple[str, ...] = ("seed", "runs_dir", "threads", "compile_cache", "deterministic", "logger")
_INDIFFERENT += ("runner", "eval", "checkpoint")


def about(key: str) -> str:
    """Returns the class of a key, one of ABOUT."""
    if "/" in key:
        return "metrics"
    return next((name for name, keys in _NOT_CONFIGURATION.items() if _below(key, keys)), "configuration")


def is_choice(key: str) -> bool:
    """Returns whether two runs that differ in this key are different experiments."""
    return about(key) == "configuration" and not _below(key, _INDIFFERENT)


def differing(runs: Sequence[Run]) -> list[str]:
    """Returns the keys of choices that differ among these runs."""
    values = [run.values for run in runs]
    chosen = [key for key in keys(runs) if is_choice(key)]
    return [key for key in chosen if len({each.get(key) for each in values}) > 1]


def note(run: Run) -> str | None:
    """Returns why a run did not finish, or the fault of its directory; None where all is well."""
    values = run.values
    if values.get("problem"):
        return values["problem"]
    if values.get("status") == "killed":
        return "its process is gone, and it had no time to say why"
    error = values.get("reason.error") or values.get("reason")
    return str(error) if error and values.get("status") != "finished" else None


def _below(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
