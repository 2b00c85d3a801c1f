"""Weights & Biases: a process of its own reads a run's files and sends them."""
