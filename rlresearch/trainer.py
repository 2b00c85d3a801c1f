"""The training step by its names until version 0.2; it is in `runners/step.py` now."""

from rlresearch.runners.step import TrainingStep, TrainState

Trainer = TrainingStep
RunState = TrainState

__all__ = ["RunState", "Trainer"]
