"""Where a run's numbers go: to its files, which are the truth, and to any number of mirrors.

A mirror (the terminal, W&B, TensorBoard) is a convenience: it may break and the run goes on.
The files may not: a run whose results cannot be kept stops and says why.
"""

from __future__ import annotations

from typing import Any, Protocol

Row = dict[str, Any]


class Logger(Protocol):
    """What receives a run's numbers.

    A metrics row is {"step": int, "time": seconds since the start, "group/name": number, ...}; an evaluation
    row is {"step", "time", "returns": [...], "lengths": [...]}. Either may lack "time".
    """

    def metrics(self, row: Row) -> None:
        """Takes one row of training metrics."""

    def evaluation(self, row: Row) -> None:
        """Takes the episodes of one evaluation."""

    def lineage(self, row: Row) -> None:
        """Takes a row about a member of a population that became a copy of another."""
        return None

    def finish(self, summary: Row) -> None:
        """Takes how the run ended, once, before `close`; every part may be absent.

        status: finished (default), failed or interrupted; reason: {kind, environment, step, error} where it
        failed; total_steps; wall_time_s and training_time_s, seconds; steps_per_second;
        final_evaluation: {step, mean, std, episodes}; members: a list of {mean, ...}, one for each member of
        a population; run_directory: path; next: lines a person may type next.
        """

    def close(self) -> None:
        """Lets go of files and threads; may be called again."""
