"""How many processors there are for us."""

from __future__ import annotations

import os

import tensorflow as tf


def available() -> int:
    """How many threads or processes may compute at a time: what `threads` says, or all that this process may have."""
    return tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0))
