"""The answer to a command that Hydra refuses: which override is wrong, and what exists instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose as hydra_compose
from hydra.core.override_parser.types import Override, OverrideType

from rlresearch.config import hydra_messages
from rlresearch.config.dotted import flattened
from rlresearch.config.hydra_session import MAIN_CONFIG, REFUSED, to_container
from rlresearch.config.instantiate import settings_of
from rlresearch.config.overrides import format_override, typed_text
from rlresearch.errors import allowed_hint, closest_match, format_allowed


def explain_refusal(error: Exception, parsed: Sequence[Override], groups: Sequence[str]) -> str:
    """One line that names the wrong override and the closest name that exists."""
    tree, choices = _without_settings(parsed, groups)
    for each in parsed:
        key, group = each.key_or_group, each.get_key_element().lstrip("+~")
        if key not in groups:
            why = None if each.is_add() else _explain_missing_setting(each, tree, choices)
        elif each.is_delete():
            why = f"{format_override(each)}: a run cannot do without it; choose one with {key}=OPTION."
        else:
            places = [name for name in choices if name.partition("@")[0] == key]
            misplaced = f"{format_override(each)}: has no place here{allowed_hint(group, places)}"
            why = None if group in choices else misplaced
        if why is not None:
            return why
    return hydra_messages.translate_hydra_error(error, parsed)


def unlisted_settings(parsed: Sequence[Override], groups: Sequence[str]) -> frozenset[str]:
    """The keys of overrides that no file lists, and that are settings all the same: fields of a component's class."""
    keys = [
        each.key_or_group for each in parsed if each.type == OverrideType.CHANGE and each.key_or_group not in groups
    ]
    tree, _ = _without_settings(parsed, groups) if keys else ({}, {})
    found = set()
    for key in keys:
        path, _, name = key.rpartition(".")
        node: Any = tree
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and name not in node and name in settings_of(node):
            found.add(key)
    return frozenset(found)


def _without_settings(parsed: Sequence[Override], groups: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tree of keys and the choices that the chosen options compose, or the defaults if the options do not fit."""
    chosen = [typed_text(each) for each in parsed if each.key_or_group in groups and each.value() is not None]
    try:
        config = hydra_compose(MAIN_CONFIG, overrides=chosen, return_hydra_config=True)
    except REFUSED:
        config = hydra_compose(MAIN_CONFIG, overrides=[], return_hydra_config=True)
    return to_container(config), dict(config.hydra.runtime.choices)


def _explain_missing_setting(override: Override, tree: dict[str, Any], choices: dict[str, Any]) -> str | None:
    """One line for a key that does not exist, with the names beside it. None if the key exists."""
    node, path, names = tree, "", override.key_or_group.split(".")
    while names and names[0] in node:
        name = names.pop(0)
        if names and node[name] is None:
            return f"{format_override(override)}: must be given whole, as {path}{name}={{{'.'.join(names)}:...}}."
        if not names:
            return None
        if not isinstance(node[name], dict):
            return f"{format_override(override)}: {path}{name} has no settings of its own."
        node, path = node[name], f"{path}{name}."
    groups = [] if path else [name for name in choices if name.isidentifier() and name not in tree]
    here = [name for name in dict.fromkeys([*node, *settings_of(node), *groups]) if name not in ("_target_", "hydra")]
    place = [name for name in choices if name.rpartition("@")[2] == path[:-1]] or [path.partition(".")[0]]
    where = f" in {place[0]}={choices[place[0]]}" if place[0] in choices else ""
    known = list(flattened({key: value for key, value in tree.items() if key != "hydra"}))
    near = {name.rpartition(".")[2]: name for name in reversed(known)}
    if path:  # in a group, a name from another only if it is the same
        near = {name: full for name, full in near.items() if name == names[-1]}
    near |= {name: f"{path}{name}" for name in here}
    close = near.get(closest_match(names[0], near) or "")
    if close and (longer := ".".join([close, *names[1:]])) in known:
        close = longer
    return f"{format_override(override)}: there is no such setting{where}{format_allowed(close, here)}"
