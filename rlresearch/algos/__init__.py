"""Algorithms, one file each. None imports another, an environment, a logger or Hydra."""
