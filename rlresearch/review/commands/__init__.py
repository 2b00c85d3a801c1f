"""The commands of `rlresearch-review`, a module each."""
