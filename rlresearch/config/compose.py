"""Hydra, in one place: from a command line to plain configuration, and from its errors to one line."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import compose as hydra_compose
from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import YAMLError

from rlresearch.config import config_source, messages
from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError, alternatives, closest, ending, shown

HYDRA_VERSION = "1.3"
SEVERAL = ("experiment", "logger")  # groups of which more than one option may be chosen
CHECKED_VALUES = 50  # of one sweep key, before the first job; each job is checked again
# What Hydra raises for a wrong command.
REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError)


class Composed(NamedTuple):
    """config: plain, resolved; choices: the option chosen of each group; referred: the keys that others in it refer to,
    with an empty one among them where a reference is more than a key.
    """

    config: dict[str, Any]
    choices: dict[str, Any]
    referred: frozenset[str] = frozenset()


def config_folder() -> Path:
    """The shipped `conf`: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose(overrides: Sequence[str], extra_folder: str | None = None) -> Composed:
    """The configuration that `overrides` ask for. ConfigError, one line, where they cannot be met."""
    with _hydra(extra_folder) as loader:
        parsed = _parse(overrides, loader)
        _refuse_sweeps(parsed)
        try:
            config = _composed(overrides)
        except REFUSED as error:
            raise ConfigError(_explained(error, parsed, loader)) from None
        except RecursionError:
            typed = [_setting(each) for each in parsed if each.key_or_group in _groups(loader)]
            raise ConfigError(f"{', '.join(typed)}: a defaults list leads back to its own file.") from None
        choices = dict(config.hydra.runtime.choices)
        _check_options(parsed, _groups(loader), loader)
        try:
            return Composed(to_plain(config), choices, _referred(config))
        except InterpolationResolutionError as error:
            raise ConfigError(messages.unresolved(error, config)) from None


def _composed(overrides: Sequence[str]) -> DictConfig:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        config = hydra_compose("config", overrides=list(overrides), return_hydra_config=True)
    for each in told:
        if (place := re.search(r"path=(\S+) is not available", str(each.message))) is not None:
            raise ConfigError(f"hydra.searchpath={place[1]}: is not there; allowed: file://FOLDER, pkg://PACKAGE.")
    known = [field.name for field in dataclasses.fields(HydraConf)] + ["env"]  # which its own defaults add
    for name in config.hydra:
        if name not in known:
            typed = f"hydra.{name}={shown(config.hydra[name])}"
            raise ConfigError(f"{typed}: Hydra has no such setting{alternatives(name, known)}")
    return config


def set_values(overrides: Sequence[str], extra_folder: str | None = None) -> dict[str, tuple[str, Any] | None]:
    """The key and the value of each override that does nothing but set one, by the override as it was typed.

    None for those that do more: choose a group's option, add, delete, refer to something, or set a mapping.
    """
    with _hydra(extra_folder) as loader:
        groups = set(_groups(loader))
        return {text: _set_value(text, loader, groups) for text in overrides}


_WHOLE_NUMBER = re.compile(r"([A-Za-z_][\w.]*)=(0|-?[1-9]\d{0,17})")


def _set_value(text: str, loader: ConfigLoader, groups: set[str]) -> tuple[str, Any] | None:
    if (number := _WHOLE_NUMBER.fullmatch(text)) and number[1] not in groups:
        return number[1], int(number[2])  # ten thousand seeds would take the parser a minute
    (override,) = _parse([text], loader)
    key = override.key_or_group
    if override.type != OverrideType.CHANGE or override.package is not None or key in groups or "${" in text:
        return None
    value = override.value()
    plain = isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)
    return (key, value) if plain or not isinstance(value, dict | list) else None


class Change(NamedTuple):
    """One thing that a command asks to be different: a key's value, or the option of a group and its settings."""

    key: str
    value: Any
    settings: dict[str, Any] | None = None


def changes(overrides: Sequence[str], extra_folder: str | None, groups: Sequence[str]) -> list[Change]:
    """What `overrides` ask of a configuration that is there already. ConfigError where that cannot be said.

    groups: those of which the settings are wanted.
    """
    with _hydra(extra_folder) as loader:
        parsed, known = _parse(overrides, loader), _groups(loader)
        _refuse_sweeps(parsed)
        _check_options(parsed, known, loader)
        return [_change(each, known, groups) for each in parsed]


def _refuse_sweeps(parsed: Sequence[Override]) -> None:
    for each in parsed:
        if each.is_sweep_override():
            raise ConfigError(f"{each.input_line}: several values need -m, which runs each of them; a list: [1,2].")


def _change(override: Override, known: Sequence[str], groups: Sequence[str]) -> Change:
    key, value = override.key_or_group, None if override.is_delete() else override.value()
    if override.is_delete() or "${" in str(value):
        raise ConfigError(f"{_setting(override)}: must be KEY=VALUE with a plain value where a run goes on.")
    if key in known and key in groups:
        own = hydra_compose("config", overrides=[f"{key}={value}"])
        return Change(key, value, to_plain(own)[key])
    return Change(key, value, {} if key in known else None)


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Dicts, lists and numbers without Hydra's own; interpolations resolved, a missing value stays '???'."""
    return messages.container(_without_hydra(config), resolve=True)


def _without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [cast(str, key) for key in config if key != "hydra"])


def tuned_values(name: str | None, config: dict[str, Any], extra_folder: str | None) -> dict[str, Any]:
    """What the tuned settings `name` contributed to `config`: theirs, less what the command line overrode."""
    folders = [config_folder(), *([Path(extra_folder)] if extra_folder else [])]
    files = [file for folder in folders if (file := folder / "tuned" / f"{name}.yaml").is_file()]
    if not files:
        return {}
    theirs, final = OmegaConf.load(files[0]), flattened(config)
    resolved = flattened(messages.container(OmegaConf.merge(config, theirs), resolve=True))
    own = flattened(messages.container(theirs) or {})
    return {key: resolved[key] for key in own if key in final and final[key] == resolved[key]}


def first_job(overrides: Sequence[str], extra_folder: str | None = None) -> list[str]:
    """The command line of one job of a sweep, whatever sweeps it: what is swept over an interval is left out."""
    with _hydra(extra_folder) as loader:
        parsed = _parse(overrides, loader)
        return [_values(each)[0] for each in parsed if not each.is_sweep_override() or each.is_discrete_sweep()]


class Sought(NamedTuple):
    """What a search is asked for. settings: of the sweeper, plain; fixed: what holds for every run, as typed; swept:
    Hydra's overrides with several values.
    """

    settings: dict[str, Any]
    fixed: list[str]
    swept: list[Override]


def sought(settings: dict[str, Any], overrides: Sequence[str], extra_folder: str | None = None) -> Sought:
    """What a sweeper with these settings is asked for. What the command says stands above its `params`."""
    with _hydra(extra_folder) as loader:
        return _sought(settings, overrides, loader)


def _sought(settings: dict[str, Any], overrides: Sequence[str], loader: ConfigLoader) -> Sought:
    own = _parse(overrides, loader)
    given = {each.get_key_element() for each in own}
    params = settings.get("params") or {}
    if not isinstance(params, dict):
        raise ConfigError(f"hydra.sweeper.params={shown(params)}: must be a mapping, like {{KEY:interval(0,1)}}.")
    lines = [f"{key}={value if isinstance(value, str) else shown(value)}" for key, value in params.items()]
    parsed = [each for each in _parse(lines, loader) if each.get_key_element() not in given] + own
    fixed = [messages.typed_line(each) for each in parsed if not each.is_sweep_override()]
    return Sought(settings, fixed, [each for each in parsed if each.is_sweep_override()])


def sweep_jobs(overrides: Sequence[str], extra_folder: str | None = None) -> list[list[str]]:
    """The command line of every job of a sweep."""
    with _hydra(extra_folder) as loader:
        values = {each.get_key_element(): _values(each) for each in _parse(overrides, loader)}  # the last of a key
    return [list(job) for job in itertools.product(*values.values())]


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [messages.typed_line(override)]
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


@contextlib.contextmanager
def _hydra(extra_folder: str | None) -> Iterator[ConfigLoader]:
    """Hydra over the shipped folder and, before it, the user's: as its own --config-dir does."""
    if extra_folder is not None and not Path(extra_folder).is_dir():
        raise ConfigError(f"--config-dir={shown(extra_folder)}: must be a folder that exists.")
    GlobalHydra.instance().clear()
    version.setbase(HYDRA_VERSION)
    put_own_first()
    path = create_config_search_path(str(config_folder()))
    if extra_folder is not None:
        folder = config_source.address(Path(extra_folder).absolute())
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2("rlresearch", path).config_loader
    finally:
        GlobalHydra.instance().clear()


def put_own_first() -> None:
    """Takes away Hydra's and its plugins' launchers and sweepers of the names of those in `conf`.

    Hydra would take theirs for the schema of ours.
    """
    Plugins.instance()  # they register themselves when it is made
    for group, options in ConfigStore.instance().repo.get("hydra", {}).items():
        if isinstance(options, dict):
            for name in [name for name in options if (config_folder() / "hydra" / group / name).is_file()]:
                del options[name]


def _parse(overrides: Sequence[str], loader: ConfigLoader) -> list[Override]:
    parser = OverridesParser.create(config_loader=loader)
    parsed = []
    for text in overrides:
        messages.check_size(text)
        try:
            parsed += parser.parse_overrides([text])
        except (HydraException, RecursionError):
            foreign = [letter for letter in text.partition("=")[0] if not letter.isascii()]
            name = unicodedata.name(foreign[0], "not ASCII").lower() if foreign else ""
            hint = f"; '{foreign[0]}' in the key is {name}" if foreign else ""
            key, _, value = text.partition("=")
            if value.endswith(")") and "(" in value:
                hint = f"; text with parentheses needs quotes of its own: \"{key}='{value}'\""
            raise ConfigError(
                f"{shown(text)}: must be KEY=VALUE, with nothing around '=' and lists as KEY=[1,2]{hint}."
            ) from None
    return parsed


def _explained(error: Exception, parsed: Sequence[Override], loader: ConfigLoader) -> str:
    """One line for what Hydra refuses in several, with the nearest name that exists."""
    groups = _groups(loader)
    _check_options(parsed, groups, loader)
    tree, choices = _without_settings(parsed, groups)
    for each in parsed:
        key, group = each.key_or_group, each.get_key_element().lstrip("+~")
        if key not in groups:
            why = None if each.is_add() else _no_such_setting(each, tree, choices)
        elif each.is_delete():
            why = f"{_setting(each)}: a run cannot do without it; choose one with {key}=OPTION."
        else:
            places = [name for name in choices if name.partition("@")[0] == key]
            why = f"{_setting(each)}: has no place here{alternatives(group, places)}" if group not in choices else None
        if why is not None:
            return why
    return messages.reworded(error, parsed)


def _without_settings(parsed: Sequence[Override], groups: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the choices of groups, or if they do not fit none of them, compose: the tree of keys, and the choices."""
    chosen = [messages.typed_line(each) for each in parsed if each.key_or_group in groups and not each.is_delete()]
    try:
        config = hydra_compose("config", overrides=chosen, return_hydra_config=True)
    except REFUSED:
        config = hydra_compose("config", overrides=[], return_hydra_config=True)
    return messages.container(config), dict(config.hydra.runtime.choices)


def _no_such_setting(override: Override, tree: dict[str, Any], choices: dict[str, Any]) -> str | None:
    """What stands beside a misspelt key: the settings of its group, or what there is at the top. None if it exists."""
    node, path, names = tree, "", override.key_or_group.split(".")
    while names and names[0] in node:
        name = names.pop(0)
        if names and node[name] is None:
            return f"{_setting(override)}: must be given whole, as {path}{name}={{{'.'.join(names)}:...}}."
        if not names:
            return None
        if not isinstance(node[name], dict):
            return f"{_setting(override)}: {path}{name} has no settings of its own."
        node, path = node[name], f"{path}{name}."
    groups = [] if path else [name for name in choices if name.isidentifier() and name not in tree]
    here = [name for name in [*node, *groups] if name not in ("_target_", "hydra")]
    place = [name for name in choices if name.rpartition("@")[2] == path[:-1]] or [path.partition(".")[0]]
    where = f" in {place[0]}={choices[place[0]]}" if place[0] in choices else ""
    known = list(flattened({key: value for key, value in tree.items() if key != "hydra"}))
    near = {name.rpartition(".")[2]: name for name in reversed(known)}
    if path:  # in a group, a name from another only if it is the same
        near = {name: full for name, full in near.items() if name == names[-1]}
    near |= {name: f"{path}{name}" for name in here}
    close = near.get(closest(names[0], near) or "")
    if close and (longer := ".".join([close, *names[1:]])) in known:
        close = longer
    return f"{_setting(override)}: there is no such setting{where}{ending(close, here)}"


def _check_options(parsed: Sequence[Override], groups: Sequence[str], loader: ConfigLoader) -> None:
    """ConfigError where a group is given an option that it lacks; Hydra lets some of them through."""
    for each in parsed:
        if each.key_or_group in groups and not each.is_delete():
            chosen = each.value()
            if isinstance(chosen, list) and each.key_or_group not in SEVERAL:
                raise ConfigError(f"{_setting(each)}: must be one option; -m {each.key_or_group}=A,B runs both.")
            for value in chosen if isinstance(chosen, list) else [chosen]:
                folder, _, name = str(value).rpartition("/")
                if ".." in folder or str(value).startswith("/"):
                    raise ConfigError(f"{_setting(each)}: must be the name of an option, and lead nowhere else.")
                options = loader.get_group_options(f"{each.key_or_group}/{folder}".rstrip("/"))
                if name not in options and "${" not in name:
                    raise ConfigError(f"{_setting(each)}: there is no such option{alternatives(name, options)}")


def _groups(loader: ConfigLoader) -> list[str]:
    """Every group, Hydra's own by their path: hydra/launcher."""
    hydras = [f"hydra/{name}" for name in loader.list_groups("hydra")]
    return [name for name in loader.list_groups("") if name != "hydra"] + hydras


def _setting(override: Override) -> str:
    """`key=value` as it was typed."""
    if override.is_delete():
        return shown(override.input_line)
    return f"{shown(override.get_key_element().lstrip('+'))}={shown(override.value())}"


def _referred(config: DictConfig) -> frozenset[str]:
    own = messages.container(_without_hydra(config))
    texts = [str(value) for value in flattened(own).values() if "${" in str(value)]
    found = [name for text in texts for name in re.findall(r"\$\{([^}]*)\}?", text)]
    return frozenset(name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else "" for name in found)
