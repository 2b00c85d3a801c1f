"""Overrides, the words `KEY=VALUE` of a command: parsed by Hydra, checked, and spread over the jobs of a sweep."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException

from rlresearch.config.hydra_session import REFUSED, open_hydra
from rlresearch.errors import ConfigError, allowed_hint, command_line, format_value, override_text, typed_value

MULTIPLE_CHOICE = ("experiment", "logger")  # groups of which more than one option may be chosen
CAN_BE_NULL = ("experiment", "tuned", "schedule")  # groups of which none needs to be chosen
LONGEST, DEEPEST = 50_000, 24  # characters of a word of the command; brackets within brackets, names within names
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def parse(overrides: Sequence[str], loader: ConfigLoader) -> list[Override]:
    """The overrides as Hydra reads them. ConfigError if one is not KEY=VALUE, or is too long or too deep."""
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for text in overrides:
        _check_size(text)
        try:
            parsed += parser.parse_overrides([text])
        except (HydraException, RecursionError):
            raise ConfigError(
                f"{format_value(text)}: must be KEY=VALUE, with nothing around '=' and lists as KEY=[1,2]{_hint(text)}."
            ) from None
    return parsed


def _hint(text: str) -> str:
    """What may be wrong with a word that Hydra cannot read, and how it is typed instead."""
    key, equals, value = text.partition("=")
    if foreign := [letter for letter in key if not letter.isascii()]:
        return f"; '{foreign[0]}' in the key is {unicodedata.name(foreign[0], 'not ASCII').lower()}"
    plain = _QUOTED.sub("", value)
    if any(plain.count(opened) != plain.count(closed) for opened, closed in ("[]", "{}")):
        why = "a bracket has no other half: the shell may have taken the word apart; quote it"
        return f"; {why}, as in 'KEY={{a:[1,2]}}'"
    if equals and re.fullmatch(r"[A-Za-z_][\w.@/-]*", key) and value.strip() == value != "":
        typed = command_line([override_text(key, value)])
        return f"; text with such signs needs quotes: {typed}" if len(typed) < 160 else "; such text needs quotes"
    return ""


def _check_size(text: str) -> None:
    """ConfigError if a word is so long or deep that parsing it would take minutes or end Python."""
    key, _, value = text.partition("=")
    if len(text) > LONGEST:
        raise ConfigError(f"{format_value(text)}: has {len(text):,} characters, of at most {LONGEST:,}.")
    if key.count(".") + key.count("/") > DEEPEST:
        raise ConfigError(f"{format_value(key)}: there is no such setting; no key has more than {DEEPEST} parts.")
    depth = deepest = 0
    for letter in _QUOTED.sub("", value):
        depth += (letter in "[{(") - (letter in "]})")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ConfigError(f"{format_value(text)}: is nested {deepest} deep, of at most {DEEPEST}.")


def check_overrides(parsed: Sequence[Override], groups: Sequence[str], loader: ConfigLoader) -> None:
    """ConfigError if an override has several values, or a group no such option; Hydra lets some of those through."""
    for each in parsed:
        if each.is_sweep_override():
            raise ConfigError(f"{each.input_line}: several values need -m, which runs each of them; a list: [1,2].")
    for each in parsed:
        if each.key_or_group in groups and not each.is_delete() and (why := _wrong_option(each, loader)):
            raise ConfigError(f"{format_override(each)}: {why}")


def _wrong_option(override: Override, loader: ConfigLoader) -> str | None:
    group, value = override.key_or_group, override.value()
    if value is None and group in CAN_BE_NULL:
        return None
    if isinstance(value, list) and group not in MULTIPLE_CHOICE:
        return f"must be one option; -m {group}=A,B runs both."
    for option in value if isinstance(value, list) else [value]:
        folder, _, name = str(option).rpartition("/")
        if ".." in folder or str(option).startswith("/"):
            return "must be the name of an option, and lead nowhere else."
        known = loader.get_group_options(f"{group}/{folder}".rstrip("/"))
        if name not in known and "${" not in name:
            return f"there is no such option{_misnamed(group, str(option), loader)}{allowed_hint(name, known)}"
    return None


def _misnamed(group: str, option: str, loader: ConfigLoader) -> str:
    """Says of a file that has the option's name, and an ending that Hydra passes over."""
    for source in loader.get_search_path().get_path():
        folder = Path(source.path.rpartition("://")[2], group, option).parent
        for file in sorted(folder.glob("*")) if "://" in source.path else ():
            if option.rpartition("/")[2] in (file.stem, file.name) and file.suffix.lower() in (".yml", ".yaml"):
                return f", and Hydra does not see {file}: it takes names that end in .yaml"
    return ""


def group_names(loader: ConfigLoader) -> list[str]:
    """Every group, Hydra's own by their path: hydra/launcher."""
    hydras = [f"hydra/{name}" for name in loader.list_groups("hydra")]
    return [name for name in loader.list_groups("") if name != "hydra"] + hydras


def for_hydra(overrides: Sequence[str], loader: ConfigLoader) -> list[str]:
    """The same with `~GROUP` for `GROUP=null`, which Hydra does not take; `GROUP=null,A` stays, for its jobs."""
    texts: list[str] = []
    for text, each in zip(overrides, parse(overrides, loader), strict=True):
        null = not each.is_delete() and not each.is_sweep_override() and each.value() is None
        key = each.get_key_element().lstrip("+")
        chosen_none = null and each.key_or_group in CAN_BE_NULL
        if chosen_none:
            texts = [other for other in texts if other.partition("=")[0] != key]
        texts.append(f"~{key}" if chosen_none else text)
    return texts


def forced(overrides: Sequence[str], keys: Collection[str]) -> list[str]:
    """The same with `++KEY=VALUE` for these keys, as Hydra wants it where no file lists them."""
    return [f"++{text}" if text.partition("=")[0] in keys else text for text in overrides]


def typed_text(override: Override) -> str:
    """An override as the user typed it."""
    assert override.input_line is not None  # Hydra's parser keeps it
    return override.input_line


def format_override(override: Override) -> str:
    """`key=value` as it was typed."""
    if override.is_delete():
        return format_value(override.input_line)
    return f"{format_value(override.get_key_element().lstrip('+'))}={format_value(override.value())}"


def set_values(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, tuple[str, Any] | None]:
    """The key and value of each override that only sets a value, by the override as typed.

    None for one that does more: chooses an option, adds, deletes, interpolates or sets a mapping.
    """
    with open_hydra(config_dir) as hydra:
        groups = set(group_names(hydra.config_loader))
        return {text: _set_value(text, hydra.config_loader, groups) for text in overrides}


_WHOLE_NUMBER = re.compile(r"([A-Za-z_][\w.]*)=(0|-?[1-9]\d{0,17})")


def _set_value(text: str, loader: ConfigLoader, groups: set[str]) -> tuple[str, Any] | None:
    if (number := _WHOLE_NUMBER.fullmatch(text)) and number[1] not in groups:
        return number[1], int(number[2])  # ten thousand seeds would take the parser a minute
    (override,) = parse([text], loader)
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.package is not None or key in groups or "${" in text:
        return None
    value = override.value()
    plain = isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)
    return (key, value) if plain or not isinstance(value, dict | list) else None


def representative_job(overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """The overrides of one job of a sweep, whatever the sweeper. Keys swept over an interval are left out."""
    with open_hydra(config_dir) as hydra:
        parsed = parse(overrides, hydra.config_loader)
        return [_values(each)[0] for each in parsed if not each.is_sweep_override() or each.is_discrete_sweep()]


class SearchSpec(NamedTuple):
    """A search as the user asks for it.

    settings: of the sweeper, plain. fixed: overrides of every run, as typed. swept: overrides with several values.
    """

    settings: dict[str, Any]
    fixed: list[str]
    swept: list[Override]


def parse_search(settings: dict[str, Any], overrides: Sequence[str], config_dir: str | None = None) -> SearchSpec:
    """The search that settings and overrides ask for. An override wins over the sweeper's `params`."""
    with open_hydra(config_dir) as hydra:
        return _parse_search(settings, overrides, hydra.config_loader)


def _parse_search(settings: dict[str, Any], overrides: Sequence[str], loader: ConfigLoader) -> SearchSpec:
    parsed = parse(_with_params(settings.get("params"), overrides, loader), loader)
    fixed = [typed_text(each) for each in parsed if not each.is_sweep_override()]
    return SearchSpec(settings, fixed, [each for each in parsed if each.is_sweep_override()])


def with_params(params: Any, overrides: Sequence[str], config_dir: str | None = None) -> list[str]:
    """A sweeper's `params`, as overrides, before the command's; what the command says of a key wins. ConfigError."""
    with open_hydra(config_dir) as hydra:
        return _with_params(params, overrides, hydra.config_loader)


def _with_params(params: Any, overrides: Sequence[str], loader: ConfigLoader) -> list[str]:
    if params is not None and not isinstance(params, dict):
        raise ConfigError(
            f"hydra.sweeper.params={format_value(params)}: must be a mapping, like {{KEY:interval(0,1)}}."
        )
    given = {each.get_key_element().lstrip("+~") for each in parse(overrides, loader)}
    lines = [
        f"{key}={value if isinstance(value, str) else typed_value(value)}" for key, value in (params or {}).items()
    ]
    own = [line for line, each in zip(lines, parse(lines, loader), strict=True) if each.get_key_element() not in given]
    return [*own, *overrides]


def sweep_jobs(overrides: Sequence[str], config_dir: str | None = None) -> list[list[str]]:
    """The overrides of every job of a sweep."""
    with open_hydra(config_dir) as hydra:
        values = {
            each.get_key_element(): _values(each) for each in parse(overrides, hydra.config_loader)
        }  # the last of a key
    return [list(job) for job in itertools.product(*values.values())]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [typed_text(override)]
    if not override.is_discrete_sweep():
        raise ConfigError(f"{override.input_line}: must be a list or a range; the basic sweeper knows no intervals.")
    key = override.get_key_element()
    try:
        values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    except REFUSED as error:
        raise ConfigError(f"{override.input_line}: {error}") from None
    if not values:
        raise ConfigError(f"{override.input_line}: must have at least one value to sweep over.")
    return values
