"""One run from its experiment to its end: loop, checkpoints, evaluations, resuming."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`rlresearch.training.train`, loaded when it is asked for: most users of this folder do not train."""
    if name == "train":
        from rlresearch.training.loop import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
