"""What can be set, from where it is defined: the options in conf, and the fields of the dataclasses that they name.

Nothing here is a copy. A default is what Hydra composes. What is allowed is said by the field's type, in the words of
a refusal. A meaning is the comment beside the key in conf, else the line `name: meaning` of the class' docstring.
TensorFlow is not loaded.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra.utils
import yaml

from rlresearch.config import instantiate
from rlresearch.config.compose import CONFIG_FOLDER, compose
from rlresearch.errors import format_value
from rlresearch.sweeps import launchers
from rlresearch.sweeps.search.settings import SearchSettings
from rlresearch.training.experiment import Plan
from rlresearch.types import Algorithm

# Groups whose options are no component but a part of a configuration: they are shown as they are written.
RECIPES = ("tuned", "experiment")
NEEDED = {"c51": ["algo.v_min=0", "algo.v_max=1"], "gym": ["env.id=Pendulum-v1"]}  # what conf leaves to the user
_COMMENTED = re.compile(r"^( *)([\w.]+):(?: +([^#]*?))?(?:\s+#\s*(.*))?$")


class Setting(NamedTuple):
    """One key: its default and what is allowed as they are typed, and what it means."""

    key: str
    default: str
    allowed: str
    meaning: str


class Option(NamedTuple):
    """GROUP=NAME. about: the comment at the top of its file; target: the dotted name of its class, or None; chooses:
    the options of other groups that it chooses; sets: settings of other groups that it sets; text: its YAML.
    """

    group: str
    name: str
    about: str
    target: str | None
    settings: list[Setting]
    chooses: dict[str, str]
    sets: dict[str, Any]
    text: str


@cache
def groups() -> dict[str, list[str]]:
    """The options of every group, those of Hydra that are ours by their path: hydra/launcher."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONFIG_FOLDER.rglob("*/*.yaml")):
        found.setdefault(file.parent.relative_to(CONFIG_FOLDER).as_posix(), []).append(file.stem)
    return dict(sorted(found.items()))


@cache
def option(group: str, name: str) -> Option:
    """One option of one group."""
    text = _file(group, name).read_text(encoding="utf-8")
    written = yaml.safe_load(text) or {}
    chooses, sets = {}, {}
    for each in written.pop("defaults", []):
        if isinstance(each, Mapping):
            ((key, value),) = each.items()
            chooses[key.removeprefix("override ").removeprefix("/")] = value
    whole = "@package _global_" in text
    if whole:
        sets = _flat({key: value for key, value in written.items() if key != group})
    own = written.get(group, {}) if whole else written
    target = own.get("_target_") if isinstance(own, Mapping) else None
    settings = [] if group in RECIPES else list(_settings(group, name, own))
    return Option(group, name, _header(text), target, settings, chooses, sets, text)


@cache
def top() -> list[Setting]:
    """The keys of conf/config.yaml that belong to no group."""
    file = CONFIG_FOLDER / "config.yaml"
    comments, defaults = _comments(file), compose(["tuned=none"]).config
    kind = typing.get_type_hints(Plan)["settings"]
    names = [field.name for field in dataclasses.fields(kind)]
    return [_setting(name, name, defaults[name], kind, comments.get(name)) for name in names]


def every_setting() -> Iterator[Setting]:
    """All of them; one that several options have comes with each."""
    yield from top()
    for group, names in groups().items():
        for name in names:
            yield from option(group, name).settings


def _settings(group: str, name: str, written: Mapping[str, Any]) -> Iterator[Setting]:
    comments, prefix = _comments(_file(group, name)), group.replace("/", ".")
    if group.startswith("hydra/"):
        kind, node = _plugin_settings(group, written["_target_"]), written
    elif group == "schedule":
        kind, node = None, compose(["tuned=none", f"schedule@noise.schedule={name}"]).config["noise"]["schedule"]
        prefix = "KEY.schedule"
    else:
        kind, node = _class_of_group(group), written
        if group == "logger" or "/schedule@" in _file(group, name).read_text(encoding="utf-8"):  # others add to it
            node = compose(["tuned=none", f"{group}={name}", *NEEDED.get(name, [])]).config[group]
    comments |= {f"{prefix}.{key}": text for key, text in comments.items()}
    yield from _of_node(node, prefix, kind, comments, _flat(written, prefix))


def _of_node(
    node: Mapping[str, Any], path: str, kind: type | None, comments: Mapping[str, str], written: Mapping[str, Any]
) -> Iterator[Setting]:
    """The settings of a composed node and of those below it."""
    if "_target_" in node and kind is None:
        kind = instantiate.resolve(node["_target_"], path)
    for name, value in node.items():
        key = f"{path}.{name}"
        if name == "_target_":
            continue
        if isinstance(value, Mapping) and "_target_" in value:
            yield from _of_node(value, key, None, comments, written)
        elif isinstance(value, Mapping) and (inner := _inner(kind, name)) is not None:
            yield from _of_node(value, key, inner, comments, written)
        else:
            referring = isinstance(written.get(key), str) and ("${" in written[key] or written[key] == "???")
            yield _setting(key, name, written[key] if referring else value, kind, comments.get(key))


def _setting(key: str, name: str, default: Any, kind: type | None, comment: str | None) -> Setting:
    meaning = comment or _meaning(kind, name)
    allowed = instantiate.allowed(kind, name) if kind is not None else ""
    return Setting(key, "none: must be given" if default == "???" else format_value(default), allowed, meaning)


def _class_of_group(group: str) -> type | None:
    """The dataclass of a group whose options name none: the plan says which."""
    return {"env": typing.get_type_hints(Plan)["task"]}.get(group) or (
        typing.get_type_hints(Plan)[group] if group in ("eval", "logger", "checkpoint") else None
    )


def _plugin_settings(group: str, target: str) -> type | None:
    """The dataclass with the settings of a launcher or sweeper, which Hydra knows as a plugin of the same name."""
    name = target.rpartition(".")[2]
    if group == "hydra/sweeper":
        return SearchSettings if name.startswith("Optuna") else _of_signature(hydra.utils.get_class(target))
    for each in pkgutil.iter_modules(launchers.__path__):
        module = importlib.import_module(f"{launchers.__name__}.{each.name}")
        kind = getattr(module, name, None)
        if inspect.isclass(kind) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__:
            return kind
    raise LookupError(f"{target}: no launcher has this name")


def _of_signature(kind: type) -> type:
    """A dataclass with the settings that a class' `__init__` takes."""
    hints, taken = typing.get_type_hints(kind.__init__), inspect.signature(kind).parameters.values()
    fields = [(each.name, hints[each.name], dataclasses.field(default=each.default)) for each in taken]
    return dataclasses.make_dataclass(kind.__name__, fields)


def _inner(kind: type | None, name: str) -> type | None:
    """The dataclass that a field of another holds, as W&B's settings in the logger's."""
    hint = typing.get_type_hints(kind).get(name) if kind is not None else None
    return next((each for each in [hint, *typing.get_args(hint)] if dataclasses.is_dataclass(each)), None)


def _meaning(kind: type | None, name: str) -> str:
    """What a field means: from comments in conf beside it, from the class' docstring, from the contract's."""
    if kind is None:
        return ""
    found = _commented_fields().get((kind, name))
    for each in (*kind.__mro__, Algorithm):
        found = found or described(each).get(name)
    return found or ""


@cache
def described(kind: type) -> dict[str, str]:
    """The lines `name: meaning` of a class' docstring. Several names may share one: `a, b: meaning`."""
    text = " ".join((kind.__dict__.get("__doc__") or "").split())
    names = [each.name for each in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    names = names or list(getattr(kind, "__annotations__", {}))
    if not names:
        return {}
    word = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    marks = list(re.finditer(rf"(?:(?<=^)|(?<=[.;:] )|(?<=and ))((?:{word})(?:, (?:{word}))*): ", text))
    found = {}
    for mark, later in zip(marks, [*marks[1:], None][: len(marks)], strict=True):
        meaning = text[mark.end() : later.start() if later else None]
        meaning = re.split(r" (?:The others?|The other fields)\b", meaning)[0].strip(" ;.")
        meaning = re.sub(r"\bNone\b", "null", meaning)  # as it is typed
        found |= dict.fromkeys(mark[1].split(", "), meaning)
    return found


@cache
def _commented_fields() -> dict[tuple[type, str], str]:
    """Comments beside the settings of a class, wherever in conf it is named."""
    found: dict[tuple[type, str], str] = {}
    for file in sorted(CONFIG_FOLDER.rglob("*/*.yaml")):
        if file.parent.name in RECIPES or "hydra" in file.parts:
            continue
        comments, targets = _comments(file), _targets(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
        for path, target in targets.items():
            kind = instantiate.resolve(target, path)
            for key, text in comments.items():
                parent, _, name = key.rpartition(".")
                if parent == path:
                    found.setdefault((kind, name), text)
    return found


def _targets(node: Any, path: str = "") -> dict[str, str]:
    """Every `_target_` in a tree by the path of its node."""
    found = {}
    if isinstance(node, Mapping):
        if "_target_" in node:
            found[path] = node["_target_"]
        for key, value in node.items():
            found |= _targets(value, f"{path}.{key}".lstrip("."))
    return found


@cache
def _comments_of(file: Path) -> tuple[tuple[str, str], ...]:
    found, path = [], []
    for line in file.read_text(encoding="utf-8").splitlines():
        match = _COMMENTED.match(line)
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            if match[4]:
                found.append((".".join(path), match[4].strip()))
    return tuple(found)


def _comments(file: Path) -> dict[str, str]:
    """The comment beside each key of a file, by its dotted path there."""
    return dict(_comments_of(file))


def _header(text: str) -> str:
    """The comment at the top of a file, in one line."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)


def _file(group: str, name: str) -> Path:
    return CONFIG_FOLDER / group / f"{name}.yaml"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}.{key}".lstrip(".")
        flat |= _flat(value, path) if isinstance(value, Mapping) else {path: value}
    return flat
