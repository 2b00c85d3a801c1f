"""`python -m rlresearch`: compose, check, and only then load TensorFlow and run."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import traceback
from functools import partial
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlresearch import __version__
from rlresearch.config import compose, messages
from rlresearch.errors import ConfigError, RunError, nearest, one_line, shown
from rlresearch.runtime.signals import Interrupted
from rlresearch.sweeps import ledger
from rlresearch.sweeps import resume as again
from rlresearch.sweeps.search import driver
from rlresearch.training import resume
from rlresearch.training import run as launch
from rlresearch.training.experiment import Plan, plan


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 for a failed run, 2 for a wrong command, and for a run that was
    told to stop 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM, 138 for SIGUSR1.
    """
    argv = sys.argv[1:] if argv is None else argv
    argv = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))  # argparse refuses it between overrides
    folder = None
    try:
        if "--version" in argv:
            print(f"rlresearch {__version__}")
            return 0
        args = parse_arguments(argv)
        folder = args.config_dir
        check(args)
        return _go_on(args, argv) if _goes_on(args) else _run(argv)
    except ConfigError as error:
        return _failed(error, 2)
    except RunError as error:
        return _failed(error, 1)
    except _Ended as ended:
        return _failed(ended.error, 2 if isinstance(ended.error, ConfigError) else 1)
    except (HydraException, OmegaConfBaseException) as error:
        return _failed(ConfigError(f"{_for_hydra(argv)}: {messages.reworded(error)}"), 2)
    except Interrupted as interrupted:
        return _stopped(interrupted, folder)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _goes_on(args: argparse.Namespace) -> bool:
    """Whether the command is about a run that is there, and not about what there is to choose."""
    only_shows = args.help or args.hydra_help or args.cfg or args.info or args.shell_completion
    return not only_shows and any(each.partition("=")[0].lstrip("+") == "resume" for each in args.overrides)


def _go_on(args: argparse.Namespace, argv: list[str]) -> int:
    """`resume=RUN` or `resume=SWEEP`, with -m one after the other."""
    jobs = compose.sweep_jobs(args.overrides, args.config_dir) if args.multirun else [args.overrides]
    command = ["python", "-m", "rlresearch", *argv]
    for overrides in jobs:
        named = [each.partition("=")[2] for each in overrides if each.startswith("resume=")]
        if named and driver.is_search(named[-1].strip("'\"")):
            rest = [each for each in overrides if not each.startswith("resume=")]
            _run(driver.again(named[-1].strip("'\""), rest, args.config_dir))
            continue
        if named and ledger.is_sweep(named[-1].strip("'\"")):
            again.go_on(compose.changes(overrides, args.config_dir, ()), args.config_dir, argv)
            continue
        changes = {each.key: each for each in compose.changes(overrides, args.config_dir, resume.SAFE_GROUPS)}
        run, packages = changes.pop("resume").value, changes.pop("packages", None)
        named = resume.named_packages(packages.value if packages else [], args.config_dir)
        made, resumption = resume.resumption(str(run), list(changes.values()), named)
        request = launch.Request(
            config=resumption.config,
            algo=str(resumption.stored.record.get("algo")),
            env=str(resumption.stored.record.get("env")),
            argv=command,
            overrides=overrides,
        )
        launch.launch(made, request, resumption)
    return 0


def _find_own_components(args: argparse.Namespace) -> None:
    if args.config_dir is not None and (folder := os.path.abspath(args.config_dir)) not in sys.path:
        sys.path.insert(0, folder)  # components of one's own stand beside their YAML


def _stopped(interrupted: Interrupted, config_dir: str | None) -> int:
    """What is said when a run was told to stop. config_dir: of its command."""
    line = f"interrupted by {interrupted.name}"
    sweep, run = (getattr(interrupted, name, None) for name in ("sweep_directory", "run_directory"))
    if sweep is not None:
        print(f"{line}; to go on: {resume.command(sweep, config_dir)}", file=sys.stderr)
        return interrupted.exit_code
    if run is not None:
        line += f" at step {getattr(interrupted, 'step', 0)}; to go on: {resume.command(run, config_dir)}"
    print(line, file=sys.stderr)
    return interrupted.exit_code


def check(args: argparse.Namespace) -> None:
    """Builds the plan of every job, or of one for each swept value. ConfigError on the first that is wrong."""
    _find_own_components(args)
    if args.hydra_help or args.shell_completion:
        return
    if args.help or args.cfg or args.info:  # nothing will run: it is enough that there is something to show
        if args.overrides:
            compose.compose(args.overrides, args.config_dir)
        return
    if _goes_on(args):
        for overrides in compose.sweep_jobs(args.overrides, args.config_dir) if args.multirun else [args.overrides]:
            compose.changes(overrides, args.config_dir, resume.SAFE_GROUPS)
    elif args.multirun:  # the sweep checks each of its jobs; here what they have in common
        first = compose.first_job(args.overrides, args.config_dir)
        compose.compose(first, args.config_dir)
    else:
        _plan(compose.compose(args.overrides, args.config_dir), args.config_dir)


def _plan(composed: compose.Composed, extra_folder: str | None) -> Plan:
    """A plan of what was composed. ConfigError; of a tuned setting, which nobody typed, it says where that is from."""
    try:
        made = plan(composed.config)
        resume.check_source(made)
        return made
    except ConfigError as error:
        name, key = composed.choices.get("tuned"), str(error).partition("=")[0]
        tuned = compose.tuned_values(name, composed.config, extra_folder)
        if not any(each == key or each.startswith(f"{key}.") for each in tuned):
            raise
        setting, _, why = str(error).partition(": ")
        raise ConfigError(f"{setting}: of tuned={name}, which tuned=none leaves out: {why}") from None


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
        tuned=compose.tuned_values(tuned, plain, parse_arguments(sys.argv[1:]).config_dir),
        choices={name: option for name, option in chosen.runtime.choices.items() if not name.startswith("hydra/")},
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


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Hydra's command line, understood by Hydra's own parser."""
    parser = get_args_parser()
    parser.allow_abbrev = False  # --multi is a typo, and must not start a sweep
    # argparse's own would print the usage and leave; Hydra makes the parser, so it cannot be a class of ours.
    parser.error = partial(_refuse, parser)  # type: ignore[method-assign]
    args = parser.parse_args(argv)
    for name in ("config_name", "config_path"):
        if (value := getattr(args, name)) is not None:
            where = f"--{name.replace('_', '-')}={shown(value)}"
            raise ConfigError(f"{where}: there is no other configuration; --config-dir=FOLDER adds to it.")
    if args.experimental_rerun is not None:
        where = f"--experimental-rerun={shown(args.experimental_rerun)}"
        raise ConfigError(f"{where}: there is no such option here; rlresearch-review reproduce RUN runs a run again.")
    kinds = {"--run": args.run, "--multirun": args.multirun, "--cfg": args.cfg, "--info": args.info}
    asked = [name for name, given in (kinds | {"--shell-completion": args.shell_completion}).items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} do not go together: choose one.")
    if args.package is not None and not args.cfg:
        raise ConfigError(f"--package={shown(args.package)}: says what --cfg shows; it goes with that alone.")
    return args


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    options = [option for action in parser._actions for option in action.option_strings if len(option) > 3]
    word = message.rpartition("unrecognized arguments: ")[2].partition("=")[0]
    raise ConfigError(f"{message}{nearest(word, options) or ';'} --help lists what there is.")


def _run(argv: list[str]) -> int:
    """Hands over to Hydra, whose own report of errors is switched off: each has one line here."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *argv]
    compose.put_own_first()
    try:
        hydra.main(str(compose.config_folder()), "config", version_base=compose.HYDRA_VERSION)(job)()
    except (ConfigError, RunError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:
        if any(frame.f_code is job.__code__ for frame, _ in traceback.walk_tb(error.__traceback__)):
            raise
        why = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error
        raise ConfigError(f"{_for_hydra(argv)}: Hydra cannot begin: {why}.") from error
    return 0


def _for_hydra(argv: list[str]) -> str:
    """The first word of the command that is about Hydra itself."""
    return shown(next((each for each in argv if each.lstrip("+~").startswith("hydra")), "hydra"))


def _failed(error: Exception, code: int) -> int:
    print(f"rlresearch: {one_line(str(error))}", file=sys.stderr)
    return code


def command() -> NoReturn:
    """The process of a command line, from its beginning to its end."""
    code = main()
    gc.freeze()  # nothing is collected any more: taking TensorFlow apart takes a second
    sys.exit(code)
