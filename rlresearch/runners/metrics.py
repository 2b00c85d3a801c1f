"""The sums behind a metrics row: of finished episodes, and of the algorithm's own metrics. N: environments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import tensorflow as tf

from rlresearch.types import StepResult

EPISODE_METRICS = {
    "train/return": "undiscounted, mean of the exploring policy's episodes since the last row, in units of return",
    "train/length": "mean length of those episodes, in steps",
    "train/episodes": "how many episodes have finished since the run began, in episodes",
}

# The leaves of TrainState that restart with each metrics row, by dotted path. They depend on when rows are written.
RESET_EACH_ROW = ("totals", "episodes.ended", "episodes.return_sum", "episodes.length_sum")


class Episodes(NamedTuple):
    """Statistics of episodes. run_return, run_length: float32[N], of the unfinished episodes so far.

    ended, return_sum, length_sum: float32 scalars, count and sums of the episodes that ended since the last metrics
    row. finished: float32 scalar, episodes that ended since the run began, exact up to 2**24.
    """

    run_return: tf.Tensor
    run_length: tf.Tensor
    finished: tf.Tensor
    ended: tf.Tensor
    return_sum: tf.Tensor
    length_sum: tf.Tensor


class Totals(NamedTuple):
    """Sums of the algorithm's metrics since the last row, and the number of gradient steps in them: scalars."""

    sums: dict[str, tf.Tensor]
    count: tf.Tensor


def no_episodes(num_envs: int) -> Episodes:
    """The statistics before the first step of N = `num_envs` environments."""
    running, zero = tf.zeros(num_envs), tf.constant(0.0)
    return Episodes(running, running, zero, zero, zero, zero)


def no_totals(names: Iterable[str]) -> Totals:
    """Sums of no gradient steps, for the metrics of these names."""
    return Totals({name: tf.constant(0.0) for name in names}, tf.constant(0.0))


def count_episodes(episodes: Episodes, result: StepResult) -> Episodes:
    """The statistics with one more step of all N environments, its fields [N, ...]."""
    done = tf.cast(tf.logical_or(result.terminated, result.truncated), tf.float32)
    run_return = episodes.run_return + result.reward
    run_length = episodes.run_length + 1.0
    ended = tf.reduce_sum(done)
    return Episodes(
        run_return=run_return * (1.0 - done),
        run_length=run_length * (1.0 - done),
        finished=episodes.finished + ended,
        ended=episodes.ended + ended,
        return_sum=episodes.return_sum + tf.reduce_sum(done * run_return),
        length_sum=episodes.length_sum + tf.reduce_sum(done * run_length),
    )


def add_metrics(totals: Totals, metrics: Mapping[str, tf.Tensor]) -> Totals:
    """The sums with the metrics of one more gradient step, float32 scalars by name."""
    sums = {name: total + metrics[name] for name, total in totals.sums.items()}
    return Totals(sums, totals.count + 1.0)


def reset(episodes: Episodes, totals: Totals) -> tuple[Episodes, Totals]:
    """Both with the sums of a new row, 0; unfinished episodes stay."""
    zero = tf.zeros_like(episodes.ended)
    episodes = episodes._replace(ended=zero, return_sum=zero, length_sum=zero)
    return episodes, tf.nest.map_structure(tf.zeros_like, totals)


def means(episodes: Episodes, totals: Totals) -> dict[str, tf.Tensor]:
    """The row: float32 scalars by name, NaN where no episode ended or no gradient step was taken."""
    return {
        "train/return": episodes.return_sum / episodes.ended,
        "train/length": episodes.length_sum / episodes.ended,
        "train/episodes": episodes.finished,
        **{name: total / totals.count for name, total in totals.sums.items()},
    }
