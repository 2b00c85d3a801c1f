"""Failures of single members of a fused program: a failed member ends like a single run, and the others continue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.training.callbacks import Members
from rlresearch.training.resume import ResumePoint

_log = logging.getLogger("rlresearch")


def are_fused(own: Sequence[Mapping[str, Any]], resumption: ResumePoint | None) -> bool:
    """Returns whether the members of a population are jobs of a sweep. own: fields for each member's run.json."""
    record = resumption.stored.record if resumption is not None else {}
    return len(own) > 1 or bool(record.get("population") and (record.get("sweep") or {}).get("fused"))


class MemberFailures:
    """Ends members that failed: they are no longer logged or evaluated, and their run.json has the reason.

    Members that had failed before the program was resumed stay failed. elapsed: seconds of the whole run so far.
    """

    def __init__(
        self, environment: str, directories: Sequence[RunDirectory], members: Members, elapsed: Callable[[], float]
    ) -> None:
        self._environment, self._directories = environment, directories
        self._members, self._elapsed = members, elapsed
        self._failed: set[RunDirectory] = set()
        for member, directory in enumerate(directories):
            record = directory.recorded()
            if record["status"] == "failed":
                self._failed.add(directory)
                members.end(member, record.get("total_steps") or 0)

    def end(self, member: int, step: int, reason: str) -> None:
        """Ends a member at a step; does nothing for a member that has already failed."""
        directory = self._directories[member]
        if directory in self._failed:
            return
        self._failed.add(directory)
        self._members.end(member, step)
        told = {"kind": "RunError", "environment": self._environment, "step": step, "error": reason}
        ended = {"status": "failed", "reason": told, "finished_at": timestamp(), "total_steps": step}
        directory.record(**ended, wall_time_s=round(self._elapsed(), 3))
        _log.error("%s failed, the others of its program go on: %s", directory.path.name, reason)

    def __contains__(self, directory: RunDirectory) -> bool:
        return directory in self._failed
