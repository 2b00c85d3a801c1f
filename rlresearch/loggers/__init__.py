"""Loggers, which receive the rows of a run: files, console, TensorBoard, W&B."""
