"""`resume=RUN`, `resume=SWEEP` or `resume=SEARCH`; with -m several, one after the other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rlresearch.cli.arguments import parse_arguments
from rlresearch.cli.hydra_commands import sweep
from rlresearch.config.changes import Change, parse_changes
from rlresearch.config.overrides import sweep_jobs
from rlresearch.sweeps import ledger
from rlresearch.sweeps import resume as resume_sweep
from rlresearch.sweeps.search import driver
from rlresearch.training import resume
from rlresearch.training.request import RunRequest
from rlresearch.training.run import Run


def resume_all(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Goes on with what the overrides name. ConfigError, before the first goes on, if an override is wrong."""
    config_dir = arguments.config_dir
    jobs = sweep_jobs(arguments.overrides, config_dir) if arguments.multirun else [arguments.overrides]
    checked = [(overrides, parse_changes(overrides, config_dir, resume.SAFE_GROUPS)) for overrides in jobs]
    for overrides, changes in checked:
        path = [str(each.value) for each in changes if each.key == "resume"][-1]
        if driver.is_search(path):
            pairs = zip(overrides, changes, strict=True)
            command = driver.resume_arguments(path, [each for each, own in pairs if own.key != "resume"], config_dir)
            sweep(parse_arguments(command), command)
        elif ledger.is_sweep(path):
            resume_sweep.resume_sweep(changes, config_dir, argv)
        else:
            _resume_run(overrides, changes, config_dir, argv)


def _resume_run(
    overrides: Sequence[str], changes: Sequence[Change], config_dir: str | None, argv: Sequence[str]
) -> None:
    asked = {each.key: each for each in changes}
    path, packages = asked.pop("resume").value, asked.pop("packages", None)
    named = resume.named_packages(packages.value if packages else [], config_dir)
    made, resumption = resume.load_resume_point(str(path), list(asked.values()), named)
    request = RunRequest(
        config=resumption.config,
        algo=str(resumption.stored.record.get("algo")),
        env=str(resumption.stored.record.get("env")),
        argv=["python", "-m", "rlresearch", *argv],
        overrides=overrides,
    )
    Run(made, request, resumption).execute()
