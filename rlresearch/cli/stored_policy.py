"""The stored policy that a command names: its arguments, and what they lead to."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import NoReturn

from rlresearch.errors import ConfigError
from rlresearch.storage import checkpoint
from rlresearch.storage.checkpoint import Checkpoint
from rlresearch.training import resume
from rlresearch.training.experiment import Plan, plan


@dataclass(frozen=True)
class StoredPolicy:
    """A run's plan and one of its checkpoints. index: the member, where the run is a population."""

    plan: Plan
    loaded: Checkpoint
    index: int | None
    run: str


def policy_parser(command: str, what: str) -> argparse.ArgumentParser:
    """A parser with the arguments that name a stored policy."""
    parser = _Parser(prog=command, description=what)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--checkpoint", default="last", help="last (default), best, or the step of one")
    about = "where components may come from, beside rlresearch"
    flags = ("--packages", "--package")
    parser.add_argument(*flags, nargs="+", action="extend", dest="packages", default=[], metavar="NAME", help=about)
    parser.add_argument("--config-dir", help="a folder with components of your own")
    return parser


def stored_policy(options: argparse.Namespace) -> StoredPolicy:
    """The policy that `policy_parser`'s arguments name, without TensorFlow. ConfigError if there is none."""
    packages = resume.trusted_packages(options.packages, options.config_dir)
    stored = resume.open_run(options.run, "RUN")
    config = resume.read_config(stored.directories[stored.index] / "config.yaml")
    config |= {"runs_dir": str(stored.home.parent), "packages": [], "init_from": None}
    made = plan(config, ["rlresearch", *packages], begins=False)
    loaded = checkpoint.load_named(stored.home, options.checkpoint, f"--checkpoint={options.checkpoint}")
    index = stored.index if stored.record.get("population") else None
    return StoredPolicy(made, loaded, index, str(stored.directories[stored.index]))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; --help lists what there is.")
