"""Several loggers as one: a mirror may break, the files may not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rlresearch.loggers.base import Logger, Row
from rlresearch.loggers.file_logger import FileLogger

_log = logging.getLogger("rlresearch.loggers")


class CompositeLogger(Logger):
    """Hands everything to each of `loggers`, in order.

    A mirror that raises is warned about once and left out from then on, though still closed. A `FileLogger` that
    raises is heard after the others had their turn: its error goes on to the caller.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)
        self._left_out: list[Logger] = []

    def metrics(self, row: Row) -> None:
        """Takes one row of training metrics. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.metrics(row))

    def evaluation(self, row: Row) -> None:
        """Takes the episodes of one evaluation. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.evaluation(row))

    def lineage(self, row: Row) -> None:
        """Takes a row about a copied member, for those who want it. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.lineage(row))

    def finish(self, summary: Row) -> None:
        """Takes how the run ended. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.finish(summary))

    def close(self) -> None:
        """Closes every logger, also those left out. Errors: those of a `FileLogger`, once all are closed."""
        self._loggers, self._left_out = self._loggers + self._left_out, []
        self._each(lambda logger: logger.close())

    def _each(self, tell: Callable[[Logger], None]) -> None:
        truth_lost: Exception | None = None
        for logger in list(self._loggers):
            try:
                tell(logger)
            except Exception as error:  # noqa: BLE001 (a mirror may raise anything; Ctrl-C passes)
                if isinstance(logger, FileLogger):
                    truth_lost = truth_lost or error
                else:
                    self._leave_out(logger, error)
        if truth_lost is not None:
            raise truth_lost

    def _leave_out(self, logger: Logger, error: Exception) -> None:
        self._loggers.remove(logger)
        self._left_out.append(logger)
        who, what = type(logger).__name__, type(error).__name__
        _log.warning("%s stopped: %s: %s. The run goes on without it; its files are whole.", who, what, error)
