"""Population-based training (Jaderberg et al. 2017): at each evaluation the worst members become copies of the best.

    exploit  truncation selection: each of the worst takes the whole state of one of the best, drawn evenly
    explore  the copy's hyperparameters are perturbed, or drawn anew, within their bounds

Differences from the paper:

1. All members are in one compiled program and reach the evaluations together: a generation is a moment, and a copy
   is a gather over the axis of members.
2. The state that is copied includes replay and environment. A member keeps its random key, so that it and the one it
   was copied from part at the next draw, and what its own episodes and losses add up to.
3. A member is replaced only by one with a higher score.

All that is drawn here is a function of the run's seed and the step: a run that is resumed chooses what it would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from rlresearch import rng
from rlresearch.envs.task import Task
from rlresearch.runners.population import PopulationRunner
from rlresearch.runners.step import TrainingStep, TrainState

Arrays = Mapping[str, np.ndarray]
_DRAWS = 0x504254  # folded into the run's key: no other draw of it begins like this


class PBTRunner(PopulationRunner):
    """A population whose hyperparameters at `settings.bounds` are part of its state.

    settings: a `runners.PBT`. replaced: how many times members were copied over others.
    """

    def __init__(self, trainer: TrainingStep, task: Task, seeds: Sequence[int], settings: Any) -> None:
        self._settings, self.replacements = settings, 0
        self._bounds = {key.removeprefix("algo."): (key, *ends) for key, ends in settings.bounds.items()}
        super().__init__(trainer, task, seeds, settings.paths, changing=list(self._bounds))
        self._exploit = tf.function(self._copied, autograph=False)

    def extra_state(self) -> dict[str, np.ndarray]:
        """The hyperparameters as they are now."""
        return {f"values.{path}": self._values[path].numpy() for path in self._bounds}

    def restore(self, iteration: int, state: TrainState, extra_state: Mapping[str, np.ndarray]) -> None:
        """Goes on from saved states and hyperparameters, leaves [M, ...] of M members."""
        super().restore(iteration, state, extra_state)
        for path in self._bounds:
            self._values[path].assign(extra_state[f"values.{path}"])

    def after_evaluation(self, step: int, scores: Sequence[float]) -> list[dict[str, Any]]:
        """Exploits and explores; returns a row for each member that was replaced: who by whom, and with which values.

        scores: one a member, the higher the better.
        """
        width = 1 + 2 * len(self._bounds)
        draws = rng.uniform(rng.fold_in(rng.fold_in(rng.key(self.members[0]), _DRAWS), step), (len(scores), width))
        draws = draws.numpy()
        sources = choose_sources(scores, draws[:, 0], self._settings.truncation)
        moved = np.flatnonzero(sources != np.arange(len(scores)))
        if not len(moved):
            return []
        before = {path: self._values[path].numpy() for path in self._bounds}
        after = {}
        for index, (path, (_, low, high)) in enumerate(self._bounds.items()):
            own = draws[:, 1 + 2 * index : 3 + 2 * index]
            new = explored(before[path][sources], own, low, high, self._settings.factors, self._settings.resample)
            after[path] = np.where(sources == np.arange(len(scores)), before[path], new).astype(np.float32)
        self._exploit(tf.constant(sources))
        for path, values in after.items():
            self._values[path].assign(values)
        self.replacements += 1
        return [self._row_of(step, int(index), int(sources[index]), scores, before, after) for index in moved]

    def _copied(self, sources: tf.Tensor) -> None:
        old = self.state()
        new = _own_kept(old, tf.nest.map_structure(lambda leaf: tf.gather(leaf, sources), old))
        for loop, share in zip(self._loops, self._shares, strict=True):
            loop.store.write(tf.nest.map_structure(lambda leaf, own=share: leaf[own], new))

    def _row_of(
        self, step: int, index: int, source: int, scores: Sequence[float], before: Arrays, after: Arrays
    ) -> dict[str, Any]:
        keys = {path: key for path, (key, _, _) in self._bounds.items()}
        return {
            "step": step,
            "member": index,
            "seed": self.members[index],
            "score": float(scores[index]),
            "from": source,
            "from_seed": self.members[source],
            "from_score": float(scores[source]),
            "before": {keys[path]: float(each[index]) for path, each in before.items()},
            "copied": {keys[path]: float(each[source]) for path, each in before.items()},
            "after": {keys[path]: float(each[index]) for path, each in after.items()},
        }


def choose_sources(scores: Sequence[float], draws: np.ndarray, truncation: float) -> np.ndarray:
    """Whose state each member goes on with, int64[M]. draws: float32[M] in [0, 1). A score of NaN is the worst."""
    own = np.where(np.isnan(scores), -np.inf, np.asarray(scores, np.float64))
    order, count = np.argsort(own, kind="stable"), max(1, int(truncation * len(own)))
    sources = np.arange(len(own))
    for index in order[:count]:
        source = order[-count:][int(draws[index] * count)]
        if own[source] > own[index]:
            sources[index] = source
    return sources


def explored(
    values: np.ndarray, draws: np.ndarray, low: float, high: float, factors: Sequence[float], resample: float
) -> np.ndarray:
    """Values [M] perturbed: each by one of the factors, or drawn anew evenly by magnitude; always within the bounds.

    draws: [M, 2] in [0, 1), whether it is drawn anew, and what becomes of it.
    """
    anew = low * (high / low) ** draws[:, 1]
    factor = np.asarray(factors)[(draws[:, 1] * len(factors)).astype(int)]
    return np.clip(np.where(draws[:, 0] < resample, anew, values * factor), low, high)


def _own_kept(old: TrainState, new: TrainState) -> TrainState:
    """Copies that keep what is their own: the key, and what is told of them since the last row."""
    kept = {name: getattr(old.episodes, name) for name in ("finished", "ended", "return_sum", "length_sum")}
    return new._replace(key=old.key, totals=old.totals, episodes=new.episodes._replace(**kept))
