"""Draws the learning curve of a run as a picture, for W&B."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rlresearch.loggers.tail import LoggedRow


def learning_curve(points: Sequence[LoggedRow], path: Path) -> bool:
    """Draws the mean return and its standard deviation over evaluation episodes into a PNG file at `path`.

    Returns False where the points have no evaluation, or where matplotlib is not installed. Errors: OSError.
    """
    evaluated = [point for point in points if "eval/return" in point.values]
    if not evaluated or find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    steps, mean, std = (
        np.array([point.step for point in evaluated]),
        *(np.array([point.values[name] for point in evaluated]) for name in ("eval/return", "eval/return_std")),
    )
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="evaluated return")
    axes.plot(steps, mean, marker="o", markersize=3)
    axes.fill_between(steps, mean - std, mean + std, alpha=0.25, linewidth=0)
    figure.savefig(path, dpi=120)
    return True
