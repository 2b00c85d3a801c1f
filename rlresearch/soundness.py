"""Whether all that an algorithm knows are still numbers: NaN and infinity never go away again, and spread."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch import trees
from rlresearch.errors import RunError
from rlresearch.trainer import RunState
from rlresearch.types import Tree


class Soundness:
    """Looks at a runner's parameters and moments, and the sums behind its losses."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._sum: Any = None

    def check(self, step: int) -> None:
        """RunError that names the first array which holds NaN or infinity; its `members`: whose it is, by place."""
        if np.isfinite(self._summed()):
            return
        for name, leaf in trees.named_leaves(_looked_at(self._runner.state())):
            if leaf.dtype.is_floating and not np.isfinite(values := leaf.numpy()).all():
                seeds = self._runner.members
                error = RunError(_told(name, values, step, seeds))
                error.members = [i for i in range(len(seeds)) if len(seeds) > 1 and not np.isfinite(values[i]).all()]
                raise error

    def _summed(self) -> float:
        # One number for all: where it is one, none of what was added up was NaN or infinite (or two of a kind with
        # opposite signs met a sum beyond float32, which `check` then finds to be harmless).
        if self._sum is None:  # concrete: TensorFlow warns of functions traced again in every run
            self._sum = tf.function(lambda: _sum(self._runner.state()), autograph=False).get_concrete_function()
        return float(self._sum())


def _told(name: str, values: np.ndarray, step: int, seeds: tuple[int, ...]) -> str:
    kind = "NaN" if np.isnan(values).any() else "infinity"
    whose = ""
    if len(seeds) > 1:
        bad = [seed for seed, own in zip(seeds, values, strict=True) if not np.isfinite(own).all()]
        whose = f" in the member{'s' if len(bad) > 1 else ''} with seed {', '.join(map(str, bad[:5]))}"
    return (
        f"{name} holds {kind}{whose} by step {step}: learning went astray; try a smaller optimizer.lr, or "
        "optimizer.max_grad_norm. No checkpoint holds it"
    )


def _looked_at(state: RunState) -> Tree:
    losses = {name: total for name, total in state.totals.sums.items() if name.startswith("loss/")}
    return {"algo": state.algo, **losses}


def _sum(state: RunState) -> tf.Tensor:
    leaves = [leaf for leaf in tf.nest.flatten(_looked_at(state)) if leaf.dtype.is_floating]
    return tf.add_n([tf.cast(tf.reduce_sum(leaf), tf.float64) for leaf in leaves] or [tf.zeros((), tf.float64)])
