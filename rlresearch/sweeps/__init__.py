"""Sweeps: many jobs planned together, run by any launcher, and nothing of them lost.

`jobs` turns a command line into jobs with frozen configurations, `ledger` keeps what became of each, `controller` ties
both to a launcher, and `attempt` is what a launcher does with a job, in this process or another. A search proposes its
jobs as it goes: `search` is what it is asked for, `trials` drives it, `study` keeps it, `findings` shows what it found.
"""
