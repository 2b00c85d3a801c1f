"""Searches with Optuna: settings, space, samplers, study, driver, report."""
