"""`python -m rlresearch`: compose, check, and only then load TensorFlow and run."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlresearch import __version__, compose, launch
from rlresearch.errors import ConfigError, RunError, nearest, one_line, shown
from rlresearch.plan import plan


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 for a failed run, 2 for a wrong command, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    argv = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))  # argparse refuses it between overrides
    try:
        if "--version" in argv:
            print(f"rlresearch {__version__}")
            return 0
        check(_arguments(argv))
        return _run(argv)
    except ConfigError as error:
        return _failed(error, 2)
    except RunError as error:
        return _failed(error, 1)
    except _Ended as ended:
        return _failed(ended.error, 2 if isinstance(ended.error, ConfigError) else 1)
    except (HydraException, OmegaConfBaseException) as error:
        return _failed(error, 2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def check(args: argparse.Namespace) -> None:
    """Builds the plan of every job, or of one for each swept value. ConfigError on the first that is wrong."""
    if args.config_dir is not None and (folder := os.path.abspath(args.config_dir)) not in sys.path:
        sys.path.insert(0, folder)  # components of one's own stand beside their YAML
    if args.hydra_help or args.shell_completion:
        return
    if args.help or args.cfg or args.info:  # nothing will run: it is enough that there is something to show
        if args.overrides:
            compose.compose(args.overrides, args.config_dir)
        return
    samples = compose.sweep_samples(args.overrides, args.config_dir) if args.multirun else [args.overrides]
    for overrides in samples:
        plan(compose.compose(overrides, args.config_dir).config)


def job(config: DictConfig) -> float:
    """One composed job: what Hydra calls, once or for each job of a sweep."""
    chosen = HydraConfig.get()
    plain = compose.to_plain(config)
    env, tuned = chosen.runtime.choices["env"], chosen.runtime.choices.get("tuned")
    request = launch.Request(
        config=plain,
        algo=chosen.runtime.choices["algo"],
        env=plain["env"]["id"] if env == "gym" else env,
        argv=["python", "-m", "rlresearch", *sys.argv[1:]],
        overrides=list(chosen.overrides.task),
        tuned_name=tuned,
        tuned=compose.tuned_values(tuned, plain, _arguments(sys.argv[1:]).config_dir),
    )
    try:
        return launch.launch(plan(plain), request)
    except (ConfigError, RunError) as error:
        if chosen.mode == RunMode.MULTIRUN:
            raise
        raise _Ended(error) from error


class _Ended(BaseException):
    """Carries the error of a single run past Hydra, which adds a line of its own to an Exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's command line, understood by Hydra's own parser."""
    parser = get_args_parser()
    parser.error = partial(_refuse, parser)  # argparse's own would print the usage and leave
    args = parser.parse_args(argv)
    for name in ("config_name", "config_path"):
        if (value := getattr(args, name)) is not None:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option}={shown(value)}: there is one configuration; --config-dir=FOLDER adds to it.")
    kinds = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    asked = [name for name, given in (kinds | {"--shell-completion": args.shell_completion}).items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} do not go together: choose one.")
    return args


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    options = [option for action in parser._actions for option in action.option_strings if len(option) > 3]
    word = message.rpartition("unrecognized arguments: ")[2].partition("=")[0]
    raise ConfigError(f"{message}{nearest(word, options) or ';'} --help lists what there is.")


def _run(argv: list[str]) -> int:
    """Hands over to Hydra, whose own report of errors is switched off: each has one line here."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *argv]
    hydra.main(str(compose.config_folder()), "config", version_base=compose.HYDRA_VERSION)(job)()
    return 0


def _failed(error: Exception, code: int) -> int:
    print(f"rlresearch: {one_line(str(error))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
