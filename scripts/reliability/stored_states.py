"""What a checkout loads from a stored run, and how that acts.

All that the tests of stored runs know of the package's inside stands here. It also runs in version 0.1, whose modules
had other names: the stored runs are made by it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

try:
    from rlresearch.storage import checkpoint
    from rlresearch.training import resume, state_io
    from rlresearch.training.experiment import plan
except ImportError:  # version 0.1
    from rlresearch.plan import plan

    from rlresearch import checkpoint, resume
    from rlresearch import saving as state_io


def digest_of(run: Path) -> str:
    """The `state_digest` of a runner that the newest checkpoint was put into. run: a population's first member."""
    stored = resume.open_run(str(run), "run")
    made = plan(stored.config | {"runs_dir": str(run.parent)}, ["rlresearch"])
    runner = made.runner.start(made.trainer, made.task, made.settings.seed)
    try:
        with_buffer = "buffer" in inspect.signature(state_io.restore).parameters
        loaded, damaged = checkpoint.newest(stored.home)
        if damaged or loaded is None:
            raise ValueError(f"{run} has damaged checkpoints, or none: {damaged}")
        state_io.restore(runner, *((made.trainer.buffer, loaded) if with_buffer else (loaded,)))
        return state_io.state_digest(runner)
    finally:
        runner.close()


def actions_of(run: Path, observations: Sequence) -> np.ndarray:
    """What the policy of the newest checkpoint answers. observations: [N, ...], as the environment gives them."""
    stored = resume.open_run(str(run), "run")
    config = resume.read_config(run / "config.yaml")
    made = plan(config | {"runs_dir": str(run.parent)}, ["rlresearch"])
    loaded, _ = checkpoint.newest(stored.home)
    state = state_io.learned(made.trainer, loaded, stored.index if stored.record.get("population") else None)
    return made.trainer.policy(state, tf.constant(observations, tf.float32)).numpy()


def space_of(run: Path) -> tuple[str, tuple[int, ...]]:
    """(environment, shape of its observations)."""
    made = plan(resume.read_config(run / "config.yaml") | {"runs_dir": str(run.parent)}, ["rlresearch"])
    return made.task.id, made.task.spec.observation_space.shape
