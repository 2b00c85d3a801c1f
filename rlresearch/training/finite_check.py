"""Checks that everything an algorithm has learned is finite, because NaN and infinity never disappear again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch import tree
from rlresearch.errors import RunError
from rlresearch.runners.runner import Runner
from rlresearch.runners.step import TrainState
from rlresearch.training.callbacks import Callback
from rlresearch.types import Tree

_SQUARE_FITS = 1e18  # in float32, with some room for sums


class FiniteCheck(Callback):
    """Looks at a runner's parameters and moments, and the sums behind its losses, at every row and checkpoint.

    on_failure: called as `on_failure(member, step, reason)` for a member that holds NaN or infinity. The other members
    then continue, and the failed member gets the state of one of them. Without `on_failure` the run ends.
    """

    def __init__(self, runner: Runner, on_failure: Callable[[int, int, str], None] | None = None) -> None:
        self._runner, self._on_failure = runner, on_failure
        self._sum: Any = None

    def on_rows(self, step: int, rows: Sequence[dict[str, Any]]) -> None:
        """Looks at the state at every row; see `check`."""
        self.check(step)

    def check(self, step: int) -> None:
        """RunError that names the first array which holds NaN or infinity; its `members`: the members that hold it."""
        if np.isfinite(self._summed()):
            return
        seeds, failed = self._runner.members, self._failed()
        advice = _advice(self._runner.state())
        if len(seeds) > 1 and self._on_failure is not None and 0 < len(failed) < len(seeds):
            for member, (name, values) in failed.items():
                self._on_failure(member, step, _message(name, values, step, advice, ()))
            self._replace(failed)
        elif failed:
            name, values = next(iter(failed.values()))
            members = list(failed) if len(seeds) > 1 else []
            message = _message(name, values, step, advice, [seeds[member] for member in members])
            raise RunError(message, members=members)

    def _failed(self) -> dict[int, tuple[str, np.ndarray]]:
        """Returns the members that hold NaN or infinity, each with the name and values of its first such array."""
        found: dict[int, tuple[str, np.ndarray]] = {}
        for name, leaf in tree.named_leaves(_looked_at(self._runner.state())):
            if leaf.dtype.is_floating and not np.isfinite(values := leaf.numpy()).all():
                for member, own in enumerate(values if len(self._runner.members) > 1 else [values]):
                    if not np.isfinite(own).all():
                        found.setdefault(member, (name, own))
        return dict(sorted(found.items()))

    def _replace(self, failed: Collection[int]) -> None:
        """Gives the failed members the state of the first one that has not failed."""
        members = range(len(self._runner.members))
        finite = next(member for member in members if member not in failed)
        order = [finite if member in failed else member for member in members]
        state = tf.nest.map_structure(lambda leaf: tf.gather(leaf, order), self._runner.state())
        self._runner.restore(self._runner.iteration, state, self._runner.extra_state())
        self._runner.replacements += 1

    def _summed(self) -> float:
        # One sum over all arrays: if it is finite, every number is finite. An infinite sum may also come from finite
        # numbers, whose sum is too large for float32; `check` then finds no failed member.
        if self._sum is None:  # a concrete function, because TensorFlow warns when every run traces a function again
            self._sum = tf.function(
                lambda: _sum(self._runner.state_unordered()), autograph=False
            ).get_concrete_function()
        return float(self._sum())


def _message(name: str, values: np.ndarray, step: int, advice: str, seeds: Sequence[int]) -> str:
    kind = "NaN" if np.isnan(values).any() else "infinity"
    whose = ""
    if seeds:
        whose = f" in the member{'s' if len(seeds) > 1 else ''} with seed {', '.join(map(str, seeds[:5]))}"
    return f"{name} holds {kind}{whose} by step {step}: learning went astray; {advice}. No checkpoint holds it"


def _advice(state: TrainState) -> str:
    """What to try: of rewards whose squares float32 does not hold, no learning rate is small enough."""
    episodes = getattr(state, "episodes", None)  # a runner of one's own need not count them
    sums = [] if episodes is None else [episodes.run_return, episodes.return_sum]
    returns = [np.abs(each.numpy()).max() for each in sums]
    if max(returns, default=0.0) < _SQUARE_FITS:
        return "try a smaller optimizer.lr, or optimizer.max_grad_norm"
    return f"the environment's rewards add up to {max(returns):.1e}: scale them, or choose normalize=running"


def _looked_at(state: TrainState) -> Tree:
    losses = {name: total for name, total in state.totals.sums.items() if name.startswith("loss/")}
    return {"algo": state.algo, **losses}


def _sum(state: TrainState) -> tf.Tensor:
    leaves = [leaf for leaf in tf.nest.flatten(_looked_at(state)) if leaf.dtype.is_floating]
    return tf.add_n([tf.cast(tf.reduce_sum(leaf), tf.float64) for leaf in leaves] or [tf.zeros((), tf.float64)])
