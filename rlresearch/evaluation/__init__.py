"""Evaluation of policies: episodes with fixed seeds, many at a time, and their videos."""
