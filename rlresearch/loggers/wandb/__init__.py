"""Weights & Biases: a separate process reads the files of a run and sends the rows."""
