"""The commands that are Hydra's own: -m, and --help, --hydra-help, --cfg, --info, --shell-completion."""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlresearch.cli.request import make_request
from rlresearch.config import hydra_messages
from rlresearch.config.compose import compose, to_plain
from rlresearch.config.hydra_session import MAIN_CONFIG, open_hydra
from rlresearch.config.overrides import for_hydra, forced, representative_job
from rlresearch.errors import ConfigError, RunError
from rlresearch.training.experiment import plan
from rlresearch.training.run import Run

OWN_ERRORS = (ConfigError, RunError, HydraException, OmegaConfBaseException)


@dataclass
class SweepJob:
    """The task function of a sweep. Launchers of this package take `argv` from it; others call it for each job.

    begun: whether a job began in this process.
    """

    argv: Sequence[str]
    config_dir: str | None
    begun: bool = field(default=False, init=False)

    def __call__(self, config: DictConfig) -> float:
        """Trains one job of a sweep; returns the mean return of its final evaluation."""
        self.begun = True
        plain, chosen = to_plain(config), HydraConfig.get()
        choices, overrides = chosen.runtime.choices, chosen.overrides.task
        return Run(plan(plain), make_request(plain, choices, overrides, self.argv, self.config_dir)).execute()


def show(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Prints what exists: options, settings, the composed configuration."""
    added: Collection[str] = ()
    if arguments.overrides and not (arguments.hydra_help or arguments.shell_completion):
        added = compose(arguments.overrides, arguments.config_dir).added  # its errors have one line
    commands: dict[str, Callable[[Hydra], None]] = {
        "help": lambda hydra: hydra.app_help(MAIN_CONFIG, get_args_parser(), arguments),
        "hydra_help": lambda hydra: hydra.hydra_help(MAIN_CONFIG, get_args_parser(), arguments),
        "cfg": lambda hydra: hydra.show_cfg(
            MAIN_CONFIG, arguments.overrides, arguments.cfg, arguments.package, arguments.resolve
        ),
        "shell_completion": lambda hydra: hydra.shell_completion(MAIN_CONFIG, arguments.overrides),
        "info": lambda hydra: hydra.show_info(arguments.info, MAIN_CONFIG, arguments.overrides),
    }
    command = next(command for name, command in commands.items() if getattr(arguments, name))
    with open_hydra(arguments.config_dir, "file") as hydra:
        arguments.overrides = forced(for_hydra(arguments.overrides, hydra.config_loader), added)
        try:
            command(hydra)
        except OWN_ERRORS:
            raise
        except Exception as error:
            raise hydra_messages.explain_hydra_failure(error, argv) from error


def sweep(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Runs every job of a sweep, or a search, by Hydra's sweeper and launcher.

    The sweep checks each of its jobs; what they have in common is checked here, before.
    """
    one = representative_job(arguments.overrides, arguments.config_dir)
    added = compose(one, arguments.config_dir).added
    job = SweepJob(argv, arguments.config_dir)
    with open_hydra(arguments.config_dir, "file") as hydra:
        overrides = for_hydra(arguments.overrides, hydra.config_loader)
        # Values to sweep over are for the jobs alone.
        overrides = [*itertools.chain(*(forced([each], added if each in one else ()) for each in overrides))]
        try:
            hydra.multirun(MAIN_CONFIG, job, [*overrides, *_mode(hydra, overrides)])
        except OWN_ERRORS:
            raise
        except Exception as error:
            if job.begun:
                raise
            raise hydra_messages.explain_hydra_failure(error, argv) from error


def _mode(hydra: Hydra, overrides: list[str]) -> list[str]:
    """The override by which -m becomes Hydra's mode, where the overrides do not say so themselves."""
    mode: Any = hydra.get_mode(MAIN_CONFIG, overrides)
    if mode == RunMode.MULTIRUN:
        return []
    if mode == RunMode.RUN:
        warnings.warn("\n\tRunning Hydra app with --multirun, overriding with `hydra.mode=MULTIRUN`.", stacklevel=2)
    return ["hydra.mode=MULTIRUN"]
