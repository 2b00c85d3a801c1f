"""`python -m rlresearch.rerun RUN`: trains again from a run's stored configuration, without Hydra.

`python -m rlresearch.review reproduce` calls this command and compares. The stored configuration may be another
person's, so its `_target_`s may lead only into this package and the packages named with --package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlresearch.errors import ConfigError, exit_code_of, format_value
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training.experiment import plan
from rlresearch.training.request import RunRequest
from rlresearch.training.resume import read_config, trusted_packages
from rlresearch.training.run import Run


def main(argv: list[str] | None = None) -> int:
    """Trains; returns the exit code: 0, 1 for a failed run, 2 for a wrong configuration, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m rlresearch.rerun", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--runs-dir", help="where the new one is made (default: as configured)")
    flags = ("--packages", "--package")  # the second is version 0.1's
    about = "where components may come from, beside rlresearch"
    parser.add_argument(*flags, nargs="+", action="extend", dest="packages", default=[], metavar="NAME", help=about)
    parser.add_argument("--config-dir", metavar="FOLDER", help="a folder with components of your own")
    parser.add_argument("--init-from", metavar="RUN", help="the run whose parameters it began with, if it did")
    arguments = parser.parse_args(argv)
    return exit_code_of(lambda: _rerun(arguments))


def _rerun(arguments: argparse.Namespace) -> None:
    packages = trusted_packages(arguments.packages, arguments.config_dir)
    rerun(arguments.run, arguments.runs_dir, packages, arguments.init_from)


def rerun(
    path: Path, runs_dir: str | None = None, packages: list[str] | None = None, init_from: str | None = None
) -> float:
    """Trains as the run at `path` was configured; returns the mean return of the final evaluation.

    init_from: the run that it began with; what a stored configuration names is not opened without being named here.

    Errors: ConfigError where the configuration cannot be read or run, RunError where the new run fails.
    """
    record, config = RunDirectory(path).recorded(), read_config(path / "config.yaml")
    config |= {"runs_dir": runs_dir} if runs_dir else {}
    if (began_with := config.get("init_from")) is not None and init_from is None:
        raise ConfigError(
            f"{path}: began with what {format_value(began_with)} had learned; name that with --init-from=RUN."
        )
    config |= {"init_from": init_from}
    request = RunRequest(
        config=config,
        algo=str(record.get("algo")),
        env=str(record.get("env")),
        argv=["python", "-m", "rlresearch.rerun", str(path)],
        overrides=record.get("overrides") or [],
    )
    return Run(plan(config, ["rlresearch", *(packages or [])]), request).execute()
