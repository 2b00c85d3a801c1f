"""TensorBoard: writes the rows of a run to event files in RUN/tensorboard, with TensorFlow's own writer.

`python -m rlresearch.loggers.tensorboard RUN...` writes the same files for runs that have ended.

The event files have every number of metrics.jsonl under its name, with the time at which it was written. Evaluations
are eval/return, eval/return_std, eval/length and eval/episodes. The configuration, without secrets, is a text.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
import yaml

from rlresearch.errors import RunError, one_line
from rlresearch.loggers.base import Logger
from rlresearch.loggers.tail import LoggedRow, RowFollower, started
from rlresearch.loggers.wandb.settings import configuration, mark
from rlresearch.storage import redaction
from rlresearch.storage.atomic import discard

FOLDER = "tensorboard"

Row = dict[str, Any]


class TensorBoard(Logger):
    """A `Logger` that copies the rows of the directory `path` into event files, from the first row on.

    It reads the rows from the run's files; a call only says that there are new rows. So it must come after the
    `FileLogger` that writes them. At the start it copies all rows into a new event file, which then replaces the old
    ones. Errors: OSError and TensorFlow's.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._following = path, RowFollower(path)
        self._began = started(path)
        self._folder = path / FOLDER
        # TensorBoard reads every file with "tfevents" in its name; the unfinished file must not have it.
        self._fresh = self._folder / f".{os.getpid()}.new"
        self._folder.mkdir(exist_ok=True)
        self._writer: Any = tf.io.TFRecordWriter(str(self._fresh))
        self._last = -1
        begin = tf.compat.v1.Event(wall_time=self._began or time.time(), file_version="brain.Event:2")
        self._writer.write(begin.SerializeToString())
        self._write_config()
        self._copy(self._following.rest())
        self._writer.flush()
        for old in self._folder.iterdir():
            if old != self._fresh:
                discard(old)
        os.rename(self._fresh, self._folder / f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}")

    def metrics(self, row: Row) -> None:
        """Copies the new rows from the files."""
        self._copy(self._following.so_far())

    def evaluation(self, row: Row) -> None:
        """Copies the new rows from the files."""
        self._copy(self._following.rest())  # the row of this evaluation is the last one in the files
        self._writer.flush()

    def finish(self, summary: Row) -> None:
        """Does nothing: an event file cannot say how a run ended."""

    def close(self) -> None:
        """Copies the remaining rows and closes the file; a second call does nothing."""
        writer = self._writer
        if writer is not None:
            self._copy(self._following.rest())
            self._writer = None
            writer.close()
            mark(self._path, FOLDER, {"position": self._last})

    def _copy(self, points: Iterable[LoggedRow]) -> None:
        for point in points:
            wall_time = time.time() if self._began is None or point.time is None else self._began + point.time
            event = tf.compat.v1.Event(wall_time=wall_time, step=point.step)
            for name, value in point.values.items():
                if isinstance(value, int | float):
                    event.summary.value.add(tag=name, simple_value=value)
            self._writer.write(event.SerializeToString())
            self._last = point.position

    def _write_config(self) -> None:
        lines = yaml.safe_dump(redaction.settings(configuration(self._path)), sort_keys=False).splitlines()
        shown = "".join(f"\t{line}\n" for line in lines)  # Markdown shows indented lines without changes
        event = tf.compat.v1.Event(wall_time=self._began or time.time(), step=0)
        value = event.summary.value.add(tag="configuration")
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.CopyFrom(tf.make_tensor_proto([shown]))
        self._writer.write(event.SerializeToString())


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the event files of the given run directories again. Returns the exit code: 1 where one of them failed."""
    failed = 0
    for name in sys.argv[1:] if argv is None else argv:
        path = Path(name)
        try:
            TensorBoard(path).close()
        except (OSError, RunError, tf.errors.OpError) as error:
            shutil.rmtree(path / FOLDER, ignore_errors=True)
            print(f"rlresearch: {one_line(f'{path}: {error}')}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
