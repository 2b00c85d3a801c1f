"""The `Logger` protocol: a run sends its numbers to its files and to any number of mirrors.

A mirror (the terminal, W&B, TensorBoard) is a copy for convenience. If a mirror fails, the run continues. If the files
cannot be written, the run stops with an error, because its results would be lost.
"""

from __future__ import annotations

from typing import Any, Protocol

Row = dict[str, Any]


class Logger(Protocol):
    """Receives the numbers of a run.

    A metrics row is {"step": int, "time": seconds since the start, "group/name": number, ...}. An evaluation
    row is {"step", "time", "returns": [...], "lengths": [...]}. "time" may be missing in both.
    """

    def metrics(self, row: Row) -> None:
        """Receives one row of training metrics."""

    def evaluation(self, row: Row) -> None:
        """Receives one evaluation row, with the return and length of each episode."""

    def lineage(self, row: Row) -> None:
        """Receives a row about a member of a population that became a copy of another member."""
        return None

    def finish(self, summary: Row) -> None:
        """Receives the end of the run as `summary`; called once, before `close`. Every key may be absent.

        status: finished (default), failed or interrupted. reason: {kind, environment, step, error}, where the run
        failed. total_steps; wall_time_s and training_time_s, in seconds; steps_per_second.
        final_evaluation: {step, mean, std, episodes}. members: a list of {mean, ...}, one for each member of
        a population. run_directory: path. next: commands that the user may type next.
        """

    def close(self) -> None:
        """Closes files and ends threads; a second call does nothing."""
