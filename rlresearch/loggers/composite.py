"""Several loggers as one. An error of a mirror is a warning; an error of the files ends the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from rlresearch.loggers.base import Logger, Row
from rlresearch.loggers.file_logger import FileLogger

_log = logging.getLogger("rlresearch.loggers")


class CompositeLogger(Logger):
    """Passes every call to each of `loggers`, in order.

    A mirror that raises gets no further rows; there is one warning, and `close` still closes it. An error of a
    `FileLogger` is raised after all other loggers were called.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self._loggers = list(loggers)
        self._left_out: list[Logger] = []

    def metrics(self, row: Row) -> None:
        """Passes on one row of training metrics. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.metrics(row))

    def evaluation(self, row: Row) -> None:
        """Passes on one evaluation row. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.evaluation(row))

    def lineage(self, row: Row) -> None:
        """Passes on a row about a copied member of a population. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.lineage(row))

    def finish(self, summary: Row) -> None:
        """Passes on how the run ended. Errors: those of a `FileLogger`."""
        self._each(lambda logger: logger.finish(summary))

    def close(self) -> None:
        """Closes every logger, also those that failed. Errors: those of a `FileLogger`, after all are closed."""
        self._loggers, self._left_out = self._loggers + self._left_out, []
        self._each(lambda logger: logger.close())

    def _each(self, tell: Callable[[Logger], None]) -> None:
        truth_lost: Exception | None = None
        for logger in list(self._loggers):
            try:
                tell(logger)
            except Exception as error:  # noqa: BLE001 (a mirror may raise any error; Ctrl-C is not caught)
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
