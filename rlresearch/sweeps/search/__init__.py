"""Searches with Optuna: space, samplers, study, trials, report."""
