"""Packages that only some commands and launchers need: loaded late, and named if they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from rlresearch.errors import ConfigError


def import_optional(module: str, what: str) -> ModuleType:
    """The module, imported. ConfigError if it fails; `what` is what cannot be done without it.

    What comes this way is part of the base installation: it is imported late because that takes long.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        again = "install rlresearch again: pip install rlresearch"
        raise ConfigError(f"{what}: needs {package} ({error}); {again}.") from error


def require_installed(module: str, what: str, extra: str) -> None:
    """ConfigError that says how to install a package where it is missing; `what` needs it. It is not imported."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what}: needs {module}, which is not installed; pip install 'rlresearch[{extra}]'.")
