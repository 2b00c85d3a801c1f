"""Where the training step was until version 0.2: it is in `runners/step.py` now."""

from rlresearch.runners.step import RunState, Trainer

__all__ = ["RunState", "Trainer"]
