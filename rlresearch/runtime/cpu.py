"""The number of processors that this process may use."""

from __future__ import annotations

import os

import tensorflow as tf


def available() -> int:
    """Returns how many threads or processes may compute at a time: `threads`, or all cores of this process."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))
