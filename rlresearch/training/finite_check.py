"""Whether all that an algorithm knows are still numbers: NaN and infinity never go away again, and spread."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch import tree
from rlresearch.errors import RunError
from rlresearch.runners.step import TrainState
from rlresearch.types import Tree


class Soundness:
    """Looks at a runner's parameters and moments, and the sums behind its losses.

    lost: hears, where it is set, of a member that went astray: `lost(place, step, why)`. The others then go on, and the
    member's place in the program computes on with the state of one of them.
    """

    lost: Callable[[int, int, str], None] | None = None

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._sum: Any = None

    def check(self, step: int) -> None:
        """RunError that names the first array which holds NaN or infinity; its `members`: whose it is, by place."""
        if np.isfinite(self._summed()):
            return
        members, astray = self._runner.members, self._astray()
        if len(members) > 1 and self.lost is not None and 0 < len(astray) < len(members):
            for place, (name, values) in astray.items():
                self.lost(place, step, _told(name, values, step, ()))
            self._replace(astray)
        elif astray:
            name, values = next(iter(astray.values()))
            places = list(astray) if len(members) > 1 else []
            error = RunError(_told(name, values, step, [members[place] for place in places]))
            error.members = places
            raise error

    def _astray(self) -> dict[int, tuple[str, np.ndarray]]:
        """The members that hold something which is no number, by place, and the first array of theirs that does."""
        found: dict[int, tuple[str, np.ndarray]] = {}
        for name, leaf in tree.named_leaves(_looked_at(self._runner.state())):
            if leaf.dtype.is_floating and not np.isfinite(values := leaf.numpy()).all():
                for place, own in enumerate(values if len(self._runner.members) > 1 else [values]):
                    if not np.isfinite(own).all():
                        found.setdefault(place, (name, own))
        return dict(sorted(found.items()))

    def _replace(self, astray: Collection[int]) -> None:
        """Gives members the state of the first one that is sound."""
        places = range(len(self._runner.members))
        sound = next(place for place in places if place not in astray)
        order = [sound if place in astray else place for place in places]
        state = tf.nest.map_structure(lambda leaf: tf.gather(leaf, order), self._runner.state())
        self._runner.restore(self._runner.iteration, state, self._runner.beside())

    def _summed(self) -> float:
        # One number for all: where it is one, none of what was added up was NaN or infinite (or two of a kind with
        # opposite signs met a sum beyond float32, which `check` then finds to be harmless).
        if self._sum is None:  # concrete: TensorFlow warns of functions traced again in every run
            self._sum = tf.function(lambda: _sum(self._runner.held()), autograph=False).get_concrete_function()
        return float(self._sum())


def _told(name: str, values: np.ndarray, step: int, seeds: Sequence[int]) -> str:
    kind = "NaN" if np.isnan(values).any() else "infinity"
    whose = ""
    if seeds:
        whose = f" in the member{'s' if len(seeds) > 1 else ''} with seed {', '.join(map(str, seeds[:5]))}"
    return (
        f"{name} holds {kind}{whose} by step {step}: learning went astray; try a smaller optimizer.lr, or "
        "optimizer.max_grad_norm. No checkpoint holds it"
    )


def _looked_at(state: TrainState) -> Tree:
    losses = {name: total for name, total in state.totals.sums.items() if name.startswith("loss/")}
    return {"algo": state.algo, **losses}


def _sum(state: TrainState) -> tf.Tensor:
    leaves = [leaf for leaf in tf.nest.flatten(_looked_at(state)) if leaf.dtype.is_floating]
    return tf.add_n([tf.cast(tf.reduce_sum(leaf), tf.float64) for leaf in leaves] or [tf.zeros((), tf.float64)])
