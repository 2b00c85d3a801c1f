"""What hears of a run's rows: files, console, TensorBoard, W&B."""
