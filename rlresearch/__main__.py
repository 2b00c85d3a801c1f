"""`python -m rlresearch`: compose, check, and only then load TensorFlow and run."""

from __future__ import annotations

import os
import sys

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlresearch import compose, launch
from rlresearch.errors import ConfigError, RunError
from rlresearch.plan import plan

ASKS = ("--help", "-h", "--hydra-help", "--version", "--info", "-i", "--cfg", "-c", "--shell-completion", "-sc")


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns the exit code: 0, 1 for a failed run, 2 for a wrong command, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        folder = _config_folder(argv)
        if folder is not None and folder not in sys.path:
            sys.path.insert(0, os.path.abspath(folder))  # components of one's own stand beside their YAML
        if not any(arg.split("=")[0] in ASKS for arg in argv):
            check(argv, folder)
        return _run(argv)
    except ConfigError as error:
        return _failed(error, 2)
    except RunError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def check(argv: list[str], folder: str | None) -> None:
    """Builds the plan of every job, or of one for each swept value. ConfigError on the first that is wrong."""
    args = get_args_parser().parse_args(argv)
    for overrides in compose.sweep_samples(args.overrides) if args.multirun else [args.overrides]:
        plan(compose.compose(overrides, folder).config)


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
        tuned=compose.tuned_values(tuned, plain, _config_folder(sys.argv[1:])),
    )
    return launch.launch(plan(plain), request)


def _run(argv: list[str]) -> int:
    """Hands over to Hydra, whose own report of errors is switched off: each has one line here."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *argv]
    hydra.main(str(compose.config_folder()), "config", version_base=compose.HYDRA_VERSION)(job)()
    return 0


def _config_folder(argv: list[str]) -> str | None:
    """The value of --config-dir."""
    for position, arg in enumerate(argv):
        name, equals, value = arg.partition("=")
        if name in ("--config-dir", "-cd"):
            return value if equals else (argv[position + 1] if position + 1 < len(argv) else None)
    return None


def _failed(error: Exception, code: int) -> int:
    print(f"rlresearch: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
