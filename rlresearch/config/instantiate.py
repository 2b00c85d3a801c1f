"""From plain configuration to components, checked before TensorFlow is loaded.

A component is a frozen dataclass, and its own field types are the schema: `_target_` names the class,
pydantic checks the values (unknown keys, types, ranges, NaN), and the class' own `__post_init__` and
`check` say whether parts fit together. `_target_` is resolved here, not by Hydra's `instantiate`: it
can name dataclasses only, and where a configuration came with somebody's run, only allowed packages.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import math
import os
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeGuard

from rlresearch import LazyType
from rlresearch.errors import ConfigError, allowed_hint, did_you_mean, format_value

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}

# What methods of components were called until version 0.2.
FORMER = {"update_priorities": "learned", "accumulate": "observe", "commit": "moved"}
# Classes by their names until version 0.2. Stored configurations keep the old names: a run's identity includes them.
MOVED = {
    "rlresearch.buffers.Latest": "rlresearch.buffers.OnlineBuffer",
    "rlresearch.networks.QMLP": "rlresearch.networks.QNetwork",
    "rlresearch.normalize.AsIs": "rlresearch.normalize.Identity",
}
# What is a number, true, false or null without quotes, on the command line as in a file.
_NO_TEXT = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?|true|false|null", re.IGNORECASE)


class _Component:
    """Stands in a schema for a field that plain values cannot fill."""


def build(node: Any, path: str, parts: Mapping[str, Any] | None = None, packages: Sequence[str] | None = None) -> Any:
    """The component that `node` describes, with everything below it.

    path: where the node stands, for messages. parts: components made elsewhere, given to the fields
    of their names. packages: where `_target_` may lead, None for anywhere. ConfigError on anything wrong.
    """
    cls = component_class(node, path, packages)
    values = {}
    for name, value in node.items():
        if name != "_target_":
            nested = isinstance(value, Mapping) and "_target_" in value
            values[name] = build(value, f"{path}.{name}", packages=packages) if nested else value
    return make(cls, values, path, parts or {})


def component_class(node: Any, path: str, packages: Sequence[str] | None = None) -> type:
    """The dataclass that a node's `_target_` names."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{path}={format_value(node)}: must be a component, with a _target_ such as package.module.Class."
        )
    return resolve(node["_target_"], f"{path}._target_", packages)


def make(cls: type, values: Mapping[str, Any], path: str, parts: Mapping[str, Any] | None = None) -> Any:
    """An instance of a dataclass from checked values; `parts` fill the fields of their names."""
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    taken = {name: part for name, part in (parts or {}).items() if name in fields}
    for name in taken:
        if name in values:
            raise ConfigError(
                f"{path}.{name}={format_value(values[name])}: is not set here, it has a place of its own."
            )
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name in fields and dataclasses.is_dataclass(value):
            kinds = _members(_hints(cls)[name])
            built |= {name: value} if any(kind is Any or _is_interface(kind) for kind in kinds) else {}
    checked = _checked(cls, values, path, frozenset(taken) | frozenset(built))
    for name, component in (built | taken).items():
        for each in _members(_hints(cls)[name]):
            if getattr(each, "_is_protocol", False):
                require(component, each, f"{path}.{name}".lstrip("."))
    try:
        return cls(**checked, **taken)
    except ConfigError as error:
        about_field = str(error).partition("=")[0] in fields
        raise ConfigError(f"{path}.{error}" if about_field else f"{path}: {error}") from None


def resolve(target: str, path: str, packages: Sequence[str] | None = None) -> type:
    """The dataclass that a dotted name leads to. ConfigError where it leads elsewhere or nowhere."""
    module_name, _, name = str(target).rpartition(".")
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise ConfigError(f"{path}={format_value(target)}: must be a dotted name, such as package.module.Class.")
    if packages is not None and target.partition(".")[0] not in packages:
        where = f"{path}={format_value(target)}: must be inside {' or '.join(packages)}"
        raise ConfigError(f"{where}, in what is not your own{packages_hint(target)}")
    module_name, _, name = MOVED.get(target, target).rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: BLE001 (whatever a module of the user's does when it is imported)
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        hint = _other_modules(missing) if missing else ""
        raise ConfigError(f"{path}={format_value(target)}: {type(error).__name__}: {error}{hint}") from None
    cls = getattr(module, name, None)
    if not _is_component_class(cls):
        known = [word for word, value in vars(module).items() if _is_component_class(value)]
        raise ConfigError(
            f"{path}={format_value(target)}: must name a dataclass in {module_name}{allowed_hint(name, known)}"
        )
    return cls


def settings_of(node: Mapping[str, Any]) -> list[str]:
    """The settings of a node's component, whether the node lists them or not; none where it names no component."""
    try:
        cls = component_class(node, "")
        hints = _hints(cls)
    except (ConfigError, NameError, TypeError):
        return []
    own = [field.name for field in dataclasses.fields(cls) if field.init]
    return [name for name in own if not any(map(_is_no_value, _members(hints[name])))]


def _is_no_value(hint: Any) -> bool:
    """Whether nothing that stands in a file fills it: a component, or a class of the program's own."""
    plain = _plain(hint)
    return _is_interface(hint) or (isinstance(plain, type) and plain.__module__ != "builtins")


def allowed(cls: type, name: str) -> str:
    """What a field of a component takes, in the words of a refusal: `a number from 0 to 1`."""
    return _allowed(_hints(cls)[name])


def allow_imports_from(folder: str | os.PathLike[str]) -> None:
    """Lets `_target_` name modules of a folder, in which a user's components lie beside their YAML."""
    if (path := os.path.abspath(folder)) not in sys.path:
        sys.path.insert(0, path)


def packages_hint(module: str) -> str:
    """The end of a refusal of code from a package that the command does not name."""
    package = module.partition(".")[0]
    return f"; if it is, packages=[{package}]." if package.isidentifier() else "."


def _is_component_class(value: Any) -> TypeGuard[type]:
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def _other_modules(missing: str) -> str:
    parent, _, name = missing.rpartition(".")
    folders = getattr(sys.modules.get(parent), "__path__", None)
    if folders is None:
        return did_you_mean(name, ["rlresearch"])
    return allowed_hint(name, [each.name for each in pkgutil.iter_modules(folders)])


def _checked(cls: type, values: Mapping[str, Any], path: str, components: frozenset[str]) -> dict[str, Any]:
    """`values` with the plain ones checked against the types of their fields; those in `components` pass."""
    import pydantic

    plain = {name: _tupled(value) for name, value in values.items() if name not in components}
    own = _schema(cls, components)
    try:
        model = own.model_validate(plain)
    except pydantic.ValidationError as error:
        problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        raise ConfigError(_explained(cls, problems[0], path, values, list(own.model_fields))) from None
    return {name: getattr(model, name) if name in plain else value for name, value in values.items()}


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hint.loaded() if isinstance(hint, LazyType) else hint for name, hint in hints.items()}


@cache
def _schema(cls: type, without: frozenset[str]) -> Any:
    """A pydantic model of a dataclass' fields, less those that are components."""
    import pydantic

    fields: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.init and field.name not in without:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            hint = _hints(cls)[field.name]
            optional = type(None) in typing.get_args(hint)
            if any(map(_is_interface, _members(hint))):
                hint = _Component | None if optional else _Component
            fields[field.name] = (hint, ... if required else None)
    config = pydantic.ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )
    return pydantic.create_model(cls.__name__, __config__=config, **fields)


def require(component: Any, protocol: type, path: str) -> None:
    """ConfigError where a component lacks what a Protocol asks for."""
    names = [*vars(protocol), *getattr(protocol, "__annotations__", {})]
    missing = [name for name in names if not name.startswith("_") and not hasattr(component, name)]
    if missing:
        former = [
            f"{FORMER[name]} is {name} since version 0.2"
            for name in missing
            if hasattr(component, FORMER.get(name, ""))
        ]
        raise ConfigError(
            f"{path}: {type(component).__name__} cannot stand here, "
            f"it lacks {', '.join(missing)} of {protocol.__module__}.{protocol.__name__}"
            f"{'; ' if former else ''}{', '.join(former)}."
        )


def _explained(cls: type, problem: Mapping[str, Any], path: str, values: Mapping[str, Any], known: list[str]) -> str:
    name = str(problem["loc"][0])
    setting = f"{path}.{name}".lstrip(".")
    if problem["type"] == "missing" or values[name] == "???":
        return f"{setting} is missing: {cls.__name__} needs {_allowed(_hints(cls)[name])}."
    value = values[name]
    if problem["type"] == "extra_forbidden":
        return f"{setting}={format_value(value)}: {cls.__name__} has no such setting{allowed_hint(name, known)}"
    kind = _hints(cls)[name]
    words = _allowed(kind)
    choices = [str(choice) for each in _members(kind) for choice in _choices(each)]
    if isinstance(value, str) and not choices:
        if _NO_TEXT.fullmatch(value):
            way_out = "without quotes it is; of the environment: ${oc.decode:${oc.env:NAME}}"
            return f"{setting}={value!r}: is text, and must be {words}; {way_out}."
        if ":" in value and any(typing.get_origin(_plain(each)) is collections.abc.Mapping for each in _members(kind)):
            words += "; the shell has taken the braces away, quotes keep them: 'KEY={A:1,B:2}'"
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    if isinstance(value, float) and not math.isfinite(value):
        words = words.replace("a number", "a finite number")
    elif isinstance(value, float) and value.is_integer() and int in map(_plain, _members(kind)):
        hint = f"; did you mean '{int(value)}'?"
    return f"{setting}={format_value(value)}: must be {words}{hint or '.'}"


def _allowed(hint: Any) -> str:
    """A field's type in English: `a number above 0`, `one of auto, cpu, gpu`, `a list, like [64,64], of ...`."""
    members = list(_members(hint))
    if len(members) > 1:
        return ", or ".join(map(_allowed, members))
    if _choices(hint):
        return f"one of {', '.join(map(str, _choices(hint)))}"
    if typing.get_origin(_plain(hint)) is tuple:
        return f"a list, like [64,64]; each: {_allowed(typing.get_args(_plain(hint))[0])}"
    if typing.get_origin(_plain(hint)) is collections.abc.Mapping:
        return "a mapping, like {key:value}"
    words = "a component, chosen by its group" if _is_interface(hint) else _WORDS.get(_plain(hint), "a fitting value")
    return words + _range(getattr(hint, "__metadata__", ()))


def _range(constraints: Sequence[Any]) -> str:
    bounds: dict[str, Any] = {}
    for constraint in constraints:
        for name in ("ge", "gt", "le", "lt"):
            bound = getattr(constraint, name, None)
            bounds |= {} if bound is None else {name: bound}
    if set(bounds) == {"ge", "le"}:
        return f" from {bounds['ge']} to {bounds['le']}"
    words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
    return "".join(f" {'and ' if index else ''}{words[name]} {bounds[name]}" for index, name in enumerate(bounds))


def _members(hint: Any) -> Iterator[Any]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    yield from typing.get_args(hint) if union else (hint,)


def _plain(hint: Any) -> Any:
    """A type without its constraints."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _choices(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()


def _is_interface(hint: Any) -> bool:
    """Whether a component fills it: a Protocol, a dataclass, something to be called."""
    called = typing.get_origin(hint) is collections.abc.Callable
    return called or getattr(hint, "_is_protocol", False) or _is_component_class(hint)


def _tupled(value: Any) -> Any:
    """Lists as tuples, so that components can be hashed."""
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value
