"""One run from its experiment to its end: loop, checkpoints, evaluations, resuming."""
