"""The commands of `rlresearch-review`."""
