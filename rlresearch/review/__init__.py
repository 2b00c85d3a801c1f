"""Reading runs: `python -m rlresearch.review` lists, compares, plots and keeps what lies in run directories.

Nothing here imports TensorFlow, and nothing here trains; `rlresearch.storage.run_directory` says what the files hold.
"""
