"""From plain configuration to components, checked before TensorFlow is loaded.

A component is a frozen dataclass, and its own field types are the schema: `_target_` names the class,
pydantic checks the values (unknown keys, types, ranges, NaN), and the class' own `__post_init__` and
`check` say whether parts fit together. `_target_` is resolved here, not by Hydra's `instantiate`: it
can name dataclasses only, and where a configuration came with somebody's run, only allowed packages.
"""

from __future__ import annotations

import dataclasses
import importlib
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from rlresearch.errors import ConfigError, nearest


def build(node: Any, path: str, parts: Mapping[str, Any] | None = None, packages: Sequence[str] | None = None) -> Any:
    """The component that `node` describes, with everything below it.

    path: where the node stands, for messages. parts: components made elsewhere, given to the fields
    of their names. packages: where `_target_` may lead, None for anywhere. ConfigError on anything wrong.
    """
    if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str):
        raise ConfigError(f"{path}={node!r} names no component: it needs a key '_target_', such as 'package.Class'.")
    cls = resolve(node["_target_"], f"{path}._target_", packages)
    values = {}
    for name, value in node.items():
        if name != "_target_":
            nested = isinstance(value, Mapping) and "_target_" in value
            values[name] = build(value, f"{path}.{name}", packages=packages) if nested else value
    return make(cls, values, path, parts or {})


def make(cls: type, values: Mapping[str, Any], path: str, parts: Mapping[str, Any] | None = None) -> Any:
    """An instance of a dataclass from checked values; `parts` fill the fields of their names."""
    taken = {field.name: parts[field.name] for field in dataclasses.fields(cls) if field.name in (parts or {})}
    for name in taken:
        if name in values:
            raise ConfigError(f"{path}.{name} is not set here: it is a part with a group of its own.")
    checked = _checked(cls, values, path, frozenset(taken))
    try:
        return cls(**checked, **taken)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def resolve(target: str, path: str, packages: Sequence[str] | None = None) -> type:
    """The dataclass that a dotted name leads to. ConfigError where it leads elsewhere or nowhere."""
    module_name, _, name = target.rpartition(".")
    if packages is not None and target.partition(".")[0] not in packages:
        raise ConfigError(f"{path}={target!r}: only targets inside {', '.join(packages)} are allowed here.")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{path}={target!r}: cannot import '{module_name}': {error}.") from None
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        known = [n for n, value in vars(module).items() if isinstance(value, type) and dataclasses.is_dataclass(value)]
        raise ConfigError(f"{path}={target!r} is not a dataclass{nearest(name, known)}")
    return cls


def _checked(cls: type, values: Mapping[str, Any], path: str, taken: frozenset[str]) -> dict[str, Any]:
    import pydantic

    plain = {name: value for name, value in values.items() if not dataclasses.is_dataclass(value)}
    components = {name: value for name, value in values.items() if name not in plain}
    own = _schema(cls, taken | frozenset(components))
    unknown = [name for name in components if name not in {field.name for field in dataclasses.fields(cls)}]
    try:
        if unknown:
            plain |= dict.fromkeys(unknown)
        model = own.model_validate({name: _tupled(value) for name, value in plain.items()})
    except pydantic.ValidationError as error:
        raise ConfigError(_explained(cls, error.errors()[0], path, own)) from None
    return {name: getattr(model, name) for name in model.model_fields_set} | components


@cache
def _schema(cls: type, without: frozenset[str]) -> Any:
    """A pydantic model of a dataclass' fields, less those that are components."""
    import pydantic

    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {}
    for field in dataclasses.fields(cls):
        if field.init and field.name not in without:
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            fields[field.name] = (hints[field.name], ... if required else None)
    config = pydantic.ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True, protected_namespaces=()
    )
    return pydantic.create_model(cls.__name__, __config__=config, **fields)


def _explained(cls: type, problem: Mapping[str, Any], path: str, schema: Any) -> str:
    where = ".".join([path, *map(str, problem["loc"])]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        name, known = str(problem["loc"][-1]), list(schema.model_fields)
        return f"{where} is not a setting of {cls.__name__}{nearest(name, known)} allowed: {', '.join(known)}."
    if problem["type"] == "missing":
        return f"{where} is missing: {cls.__name__} needs it."
    allowed = problem["msg"].replace("Input should be", "should be").replace("a valid tuple", "a list, like [64, 64]")
    return f"{where}={_shown(problem['input'])}: {allowed}."


def _shown(value: Any) -> str:
    text = str(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _tupled(value: Any) -> Any:
    """Lists as tuples, so that components can be hashed."""
    return tuple(_tupled(each) for each in value) if isinstance(value, list) else value
