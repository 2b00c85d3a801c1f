"""Sweeps: many jobs that are planned together and run by a launcher; a crash loses no result.

`jobs` turns a command line into jobs with frozen configurations. `ledger` records what happens to each job.
`controller` connects both to a launcher. `attempt` runs one job, in this process or another. `launchers` start the
jobs. `search` proposes jobs with Optuna while the sweep runs.
"""
