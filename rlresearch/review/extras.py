"""Packages that only some commands need: loaded when they are needed, and named where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from rlresearch.errors import ConfigError


def need(module: str, what: str) -> ModuleType:
    """The module, imported. ConfigError that says how to install it; `what` is what cannot be done without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{what}: needs {package} ({error}); pip install 'rlresearch[review]'.") from error
