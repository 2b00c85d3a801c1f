"""`python -m rlresearch.review`, or `rlresearch-review`: the command line for stored runs."""

from __future__ import annotations

import importlib
import sys

from rlresearch import __version__, remove_lazy_module
from rlresearch.errors import ConfigError, allowed_hint, exit_code_of, format_value
from rlresearch.review.cli import COMMANDS, overview, parse


def main(argv: list[str] | None = None) -> int:
    """Runs a command. Returns the exit code: 0, 1 for a failure, 2 for a wrong command, 130 for Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    return exit_code_of(lambda: _run(argv), "rlresearch-review")


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if argv[0] == "--version":
        print(f"rlresearch {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        raise ConfigError(f"{format_value(name)}: there is no such command{allowed_hint(name, COMMANDS)}")
    arguments = parse(name, argv[1:])
    if arguments is None:  # `parse` has shown the help
        return 0
    remove_lazy_module("tensorflow")
    module = importlib.import_module(f"rlresearch.review.{COMMANDS[name].module}")
    return getattr(module, name.replace("import", "import_"))(arguments) or 0


if __name__ == "__main__":
    sys.exit(main())
