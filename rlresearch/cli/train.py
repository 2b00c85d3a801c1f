"""One run: compose once, plan once, train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from hydra.types import RunMode

from rlresearch.cli.hydra_commands import sweep
from rlresearch.cli.request import make_request
from rlresearch.config.compose import Composed, compose, tuned_values
from rlresearch.config.hydra_job import run_as_hydra_job
from rlresearch.errors import ConfigError
from rlresearch.training.experiment import plan
from rlresearch.training.run import Run


def train(arguments: argparse.Namespace, argv: Sequence[str]) -> None:
    """Trains one run. ConfigError, before anything is written, if the command is wrong."""
    composed = compose(arguments.overrides, arguments.config_dir)
    try:
        made = plan(composed.config)
    except ConfigError as error:
        raise _name_cause(error, composed, arguments.config_dir) from None
    if composed.hydra_config.hydra.mode == RunMode.MULTIRUN:
        return sweep(arguments, argv)
    request = make_request(composed.config, composed.choices, composed.overrides, argv, arguments.config_dir)
    run_as_hydra_job(lambda: Run(made, request).execute(), composed, argv)


def _name_cause(error: ConfigError, composed: Composed, config_dir: str | None) -> ConfigError:
    """The error, with the word that took away what it misses, or the tuned option that its setting comes from."""
    name, key = composed.choices.get("tuned"), str(error).partition("=")[0].partition(" ")[0].rstrip(":")
    for typed in (each for each in composed.overrides if each.startswith("~")):
        gone = typed[1:].partition("=")[0]
        if key.startswith(f"{gone}.") or gone == f"{key}._target_":
            return ConfigError(f"{typed}: takes away what a run needs: {error}")
    typed_keys = [each.lstrip("+~").partition("=")[0] for each in composed.overrides]
    if any(each == key or each.startswith(f"{key}.") for each in typed_keys):
        return error  # the command itself has said something of it
    tuned = tuned_values(name, composed.config, config_dir)
    if not any(each == key or each.startswith(f"{key}.") for each in tuned):
        return error
    setting, _, why = str(error).partition(": ")
    return ConfigError(f"{setting}: of tuned={name}, which tuned=none leaves out: {why}")
