"""`python -m rlresearch`: from the words of a command to an exit code. A wrong command never loads TensorFlow."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rlresearch import __version__
from rlresearch.cli import hydra_commands
from rlresearch.cli.arguments import Mode, parse_arguments
from rlresearch.cli.resume import resume_all
from rlresearch.cli.train import train
from rlresearch.config import hydra_messages
from rlresearch.config.instantiate import allow_imports_from
from rlresearch.errors import exit_code_of
from rlresearch.runtime.signals import Interrupted
from rlresearch.training import resume

COMMANDS: dict[Mode, Callable[[argparse.Namespace, Sequence[str]], None]] = {
    "show": hydra_commands.show,
    "resume": resume_all,
    "sweep": hydra_commands.sweep,
    "train": train,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code.

    0: done. 1: the run failed. 2: the command is wrong. A run that a signal stopped: 128 + the signal's number, which
    is 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))  # argparse refuses it between overrides
    return exit_code_of(lambda: _run(argv))


def _run(argv: Sequence[str]) -> int:
    if "--version" in argv:
        print(f"rlresearch {__version__}")
        return 0
    arguments = parse_arguments(argv)
    if arguments.config_dir is not None:
        allow_imports_from(arguments.config_dir)
    try:
        COMMANDS[arguments.mode](arguments, argv)
        return 0
    except (HydraException, OmegaConfBaseException) as error:
        raise hydra_messages.explain_hydra_failure(error, argv) from error
    except Interrupted as interrupted:
        print(_explain_interruption(interrupted, arguments.config_dir), file=sys.stderr)
        return interrupted.exit_code


def _explain_interruption(interrupted: Interrupted, config_dir: str | None) -> str:
    """The signal, the step, and the command that resumes."""
    line = f"interrupted by {interrupted.name}"
    sweep, run = interrupted.sweep_directory, interrupted.run_directory
    if sweep is not None:
        return f"{line}; to go on: {resume.resume_command(sweep, config_dir)}"
    if run is not None:
        return f"{line} at step {interrupted.step}; to go on: {resume.resume_command(run, config_dir)}"
    return line


def command() -> NoReturn:
    """The process of a command line, from its beginning to its end."""
    code = main()
    gc.freeze()  # no garbage collection any more: taking TensorFlow apart takes a second
    sys.exit(code)
