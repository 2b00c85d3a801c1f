"""Members of a fused program that failed: each ends as its run alone would have, and the others go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlresearch.storage.run_directory import RunDirectory, timestamp
from rlresearch.training.pruning import Judge
from rlresearch.training.resume import Resumption

_log = logging.getLogger("rlresearch")


def are_fused(own: Sequence[Mapping[str, Any]], resumption: Resumption | None) -> bool:
    """Whether the members of a population are jobs of a sweep, each a run of its own. own: what each says of itself."""
    record = resumption.stored.record if resumption is not None else {}
    return len(own) > 1 or bool(record.get("population") and (record.get("sweep") or {}).get("fused"))


class Lost:
    """Hears of members that went astray, as `soundness.Soundness.lost`: they are neither logged nor evaluated any more,
    and their run.json says why. Those that had failed before a program was gone on with stay so.
    """

    def __init__(
        self, environment: str, directories: Sequence[RunDirectory], judge: Judge, elapsed: Callable[[], float]
    ) -> None:
        self._environment, self._directories = environment, directories
        self._judge, self._elapsed = judge, elapsed
        self._lost: set[RunDirectory] = set()
        for place, directory in enumerate(directories):
            record = directory.recorded()
            if record["status"] == "failed":
                self._lost.add(directory)
                judge.ended[place] = record.get("total_steps") or 0

    def __call__(self, place: int, step: int, why: str) -> None:
        """Ends a member at a step; again is nothing new."""
        directory = self._directories[place]
        if directory in self._lost:
            return
        self._lost.add(directory)
        self._judge.ended[place] = step
        reason = {"kind": "RunError", "environment": self._environment, "step": step, "error": why}
        ended = {"status": "failed", "reason": reason, "finished_at": timestamp(), "total_steps": step}
        directory.record(**ended, wall_time_s=round(self._elapsed(), 3))
        _log.error("%s failed, the others of its program go on: %s", directory.path.name, why)

    def __contains__(self, directory: RunDirectory) -> bool:
        return directory in self._lost
