"""Reads runs: `python -m rlresearch.review` lists, compares, plots and maintains run directories.

This package does not import TensorFlow and does not train. `rlresearch.storage.run_directory` describes the files.
"""
