"""What a command asks to be different in a configuration that exists already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra import compose as hydra_compose
from hydra.core.override_parser.types import Override

from rlresearch.config.compose import to_plain
from rlresearch.config.hydra_session import MAIN_CONFIG, open_hydra
from rlresearch.config.overrides import check_overrides, format_override, group_names, parse, typed_text
from rlresearch.errors import ConfigError, format_value, literal_text

COMMANDS = ("resume", "retry", "packages")  # keys that say what is gone on with, and how


class Change(NamedTuple):
    """One thing that a command asks to be different: a key's value, or the option of a group and its settings."""

    key: str
    value: Any
    settings: dict[str, Any] | None = None


def parse_changes(overrides: Sequence[str], config_dir: str | None, groups: Sequence[str]) -> list[Change]:
    """The changes that `overrides` ask for. ConfigError if one is more than a plain value.

    groups: those whose options come with their settings.
    """
    with open_hydra(config_dir) as hydra:
        loader = hydra.config_loader
        parsed, known = parse(overrides, loader), group_names(loader)
        check_overrides(parsed, known, loader)
        return [_change(each, known, groups) for each in parsed]


def _change(override: Override, known: Sequence[str], groups: Sequence[str]) -> Change:
    key, value = override.key_or_group, None if override.is_delete() else override.value()
    if override.is_add() and key in COMMANDS:
        typed = typed_text(override)
        raise ConfigError(f"{format_value(typed)}: adds nothing; {format_value(typed[1:])}, without +, is meant.")
    literal = literal_text(value) if isinstance(value, str) else None if "${" in str(value) else value
    if override.is_delete() or (literal is None and value is not None):
        raise ConfigError(f"{format_override(override)}: must be KEY=VALUE with a plain value where a run goes on.")
    if key in known and key in groups:
        own = hydra_compose(MAIN_CONFIG, overrides=[f"{key}={value}"])
        return Change(key, value, to_plain(own)[key])
    return Change(key, literal, {} if key in known else None)
