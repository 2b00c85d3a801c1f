"""Packages that only some launchers need."""

from __future__ import annotations

import importlib.util

from rlresearch.errors import ConfigError


def need(module: str, what: str, extra: str) -> None:
    """ConfigError that says how to install a package where it is missing; `what` needs it. It is not imported."""
    if importlib.util.find_spec(module) is None:
        raise ConfigError(f"{what}: needs {module}, which is not installed; pip install 'rlresearch[{extra}]'.")
