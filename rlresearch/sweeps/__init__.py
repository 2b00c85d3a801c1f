"""Sweeps: many runs that belong together. Nothing here loads TensorFlow."""
