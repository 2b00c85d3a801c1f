"""Packages that only some commands and launchers need: named, with how to install them, where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from rlresearch.errors import ConfigError


def import_optional(module: str, what: str) -> ModuleType:
    """The module, imported. ConfigError that says how to install it; `what` is what cannot be done without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{what}: needs {package} ({error}); pip install 'rlresearch[review]'.") from error


def require_installed(module: str, what: str, extra: str) -> None:
    """ConfigError that says how to install a package where it is missing; `what` needs it. It is not imported."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what}: needs {module}, which is not installed; pip install 'rlresearch[{extra}]'.")
