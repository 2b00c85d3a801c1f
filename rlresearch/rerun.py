"""`python -m rlresearch.rerun RUN`: trains again from a run directory's stored configuration, without Hydra.

`python -m rlresearch.review reproduce` calls it, and compares. A configuration that came with somebody's run is not
trusted: its `_target_`s may lead into this package, and into those named with --package, and nowhere else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from rlresearch import launch
from rlresearch.errors import ConfigError, RunError, one_line
from rlresearch.plan import plan
from rlresearch.rundir import RunDirectory


def main(argv: list[str] | None = None) -> int:
    """Trains; returns the exit code: 0, 1 for a failed run, 2 for a wrong configuration, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m rlresearch.rerun", description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--runs-dir", help="where the new one is made (default: as configured)")
    parser.add_argument("--package", action="append", default=[], help="may be named by the configuration too")
    parser.add_argument("--config-dir", help="a folder that such a package lies in")
    arguments = parser.parse_args(argv)
    if arguments.config_dir:
        sys.path.insert(0, arguments.config_dir)
    try:
        rerun(arguments.run, arguments.runs_dir, arguments.package)
        return 0
    except (ConfigError, RunError) as error:
        print(f"rlresearch: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def rerun(path: Path, runs_dir: str | None = None, packages: list[str] | None = None) -> float:
    """Trains as the run at `path` was configured; returns the mean return of the final evaluation.

    Errors: ConfigError where the configuration cannot be read or run, RunError where the new run fails.
    """
    record, config = RunDirectory(path).recorded(), _configuration(path / "config.yaml")
    config |= {"runs_dir": runs_dir} if runs_dir else {}
    request = launch.Request(
        config=config,
        algo=str(record.get("algo")),
        env=str(record.get("env")),
        argv=["python", "-m", "rlresearch.rerun", str(path)],
        overrides=record.get("overrides") or [],
    )
    return launch.launch(plan(config, ["rlresearch", *(packages or [])]), request)


def _configuration(file: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{file} holds no configuration.")
    return config


if __name__ == "__main__":
    sys.exit(main())
