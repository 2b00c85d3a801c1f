"""Environments: what to learn in (`task`), compiled (`device`) or from Gymnasium (`host`).

Actions inside algorithms are in [-1, 1]; only this package knows an environment's bounds.
"""
