"""A run's stored policy, as commands are told of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rlresearch.errors import ConfigError, RunError, one_line
from rlresearch.storage import checkpoint
from rlresearch.storage.checkpoint import Loaded
from rlresearch.training import resume
from rlresearch.training.experiment import Plan, plan


@dataclass(frozen=True)
class StoredPolicy:
    """A run's plan, one of its checkpoints, and which member's of it is meant, where it is a population's."""

    plan: Plan
    loaded: Loaded
    index: int | None
    run: str


def policy_parser(command: str, what: str) -> argparse.ArgumentParser:
    """The arguments by which every command takes a stored policy."""
    parser = _Parser(prog=command, description=what)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or the step of one")
    parser.add_argument(
        "--packages", nargs="*", default=[], metavar="NAME", help="where components may come from, beside rlresearch"
    )
    parser.add_argument("--config-dir", help="a folder with components of your own")
    return parser


def answered(parser: argparse.ArgumentParser, argv: Sequence[str] | None, command: Any) -> int:
    """Runs `command(options)`; what goes wrong is told in one line."""
    try:
        command(parser.parse_args(argv))
    except (ConfigError, RunError) as error:
        print(f"rlresearch: {one_line(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def stored_policy(options: argparse.Namespace) -> StoredPolicy:
    """What `policy_parser`'s arguments name; TensorFlow is not loaded. ConfigError where it is not there."""
    if options.config_dir is not None:
        sys.path.insert(0, options.config_dir)
    packages = resume.named_packages(options.packages, options.config_dir)
    stored = resume.open_run(options.run, "RUN")
    config = resume.read_config(stored.directories[stored.index] / "config.yaml")
    config |= {"runs_dir": str(stored.home.parent), "packages": [], "init_from": None}
    made = plan(config, ["rlresearch", *packages])
    loaded = checkpoint.chosen(stored.home, options.checkpoint, f"--checkpoint={options.checkpoint}")
    index = stored.index if stored.record.get("population") else None
    return StoredPolicy(made, loaded, index, str(stored.directories[stored.index]))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists what there is.")
