"""The command line of `python -m rlresearch`: Hydra's options, read by Hydra's own parser, and checked."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from functools import partial
from typing import Literal, NoReturn

from hydra._internal.utils import get_args_parser

from rlresearch.errors import ConfigError, did_you_mean, format_value

_RESUMES = re.compile(r"\+{0,2}resume=(?!\s*null\s*$).*", re.DOTALL | re.IGNORECASE)

Mode = Literal["show", "resume", "sweep", "train"]


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options and overrides of a command, and its `mode`. ConfigError on a wrong option.

    mode: "show" prints what exists; "resume" continues a run, a sweep or a search; "sweep" and "train" start them.
    """
    parser = get_args_parser()
    parser.allow_abbrev = False  # --multi is a typo, and must not start a sweep
    # argparse's own `error` would print the usage and leave; Hydra makes the parser, so it has no class of ours.
    parser.error = partial(_refuse, parser)  # type: ignore[method-assign]
    arguments = parser.parse_args(argv)
    for name in ("config_name", "config_path"):
        if (value := getattr(arguments, name)) is not None:
            where = f"--{name.replace('_', '-')}={format_value(value)}"
            raise ConfigError(f"{where}: there is no other configuration; --config-dir=FOLDER adds to it.")
    if arguments.experimental_rerun is not None:
        where = f"--experimental-rerun={format_value(arguments.experimental_rerun)}"
        raise ConfigError(f"{where}: there is no such option here; rlresearch-review reproduce RUN runs a run again.")
    modes = {"--run": arguments.run, "--multirun": arguments.multirun, "--cfg": arguments.cfg, "--info": arguments.info}
    modes["--shell-completion"] = arguments.shell_completion
    asked = [name for name, given in modes.items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} do not go together: choose one.")
    if arguments.package is not None and not arguments.cfg:
        raise ConfigError(
            f"--package={format_value(arguments.package)}: says what --cfg shows; it goes with that alone."
        )
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise ConfigError("--resolve: says how --cfg and --help show settings; it goes with these alone.")
    arguments.mode = "sweep" if arguments.multirun else "train"
    if any(_RESUMES.fullmatch(each) for each in arguments.overrides):
        arguments.mode = "resume"
    if arguments.help or arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion:
        arguments.mode = "show"
    return arguments


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    options = [option for action in parser._actions for option in action.option_strings if len(option) > 3]
    word = message.rpartition("unrecognized arguments: ")[2].partition("=")[0]
    raise ConfigError(f"{message}{did_you_mean(word, options) or ';'} --help lists what there is.")
