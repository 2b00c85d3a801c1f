"""Hydra, in one place: from a command line to plain configuration, and from its errors to one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlresearch.errors import ConfigError, nearest
from rlresearch.runners import flattened

HYDRA_VERSION = "1.3"
CHECKED_VALUES = 50  # of one sweep key, before the first job; each job is checked again


class Composed(NamedTuple):
    """config: plain, resolved; choices: the option chosen of each group."""

    config: dict[str, Any]
    choices: dict[str, Any]


def config_folder() -> Path:
    """The shipped `conf`: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def compose(overrides: Sequence[str], extra_folder: str | None = None) -> Composed:
    """The configuration that `overrides` ask for. ConfigError, one line, where they cannot be met."""
    with _hydra(extra_folder):
        _parse(overrides)
        try:
            config = _composed(overrides)
            return Composed(to_plain(config), dict(config.hydra.runtime.choices))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise ConfigError(_explained(error, overrides)) from None


def to_plain(config: DictConfig) -> dict[str, Any]:
    """Dicts, lists and numbers without Hydra's own; interpolations resolved, a missing value stays '???'."""
    own = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(own, resolve=True)


def tuned_values(name: str | None, config: dict[str, Any], extra_folder: str | None) -> dict[str, Any]:
    """What the tuned settings `name` contributed to `config`: theirs, less what the command line overrode."""
    folders = [config_folder(), *([Path(extra_folder)] if extra_folder else [])]
    files = [file for folder in folders if (file := folder / "tuned" / f"{name}.yaml").is_file()]
    theirs = OmegaConf.to_container(OmegaConf.load(files[0])) if files else {}
    final = flattened(config)
    return {key: value for key, value in flattened(theirs or {}).items() if key in final and final[key] == value}


def sweep_samples(overrides: Sequence[str]) -> list[list[str]]:
    """Command lines that between them show every value of a sweep once, for checking beforehand."""
    parsed = _parse(overrides)
    values = [_values(override) for override in parsed]
    first = [each[0] for each in values]
    samples = [first]
    for index, each in enumerate(values):
        samples += [[*first[:index], value, *first[index + 1 :]] for value in each[1:CHECKED_VALUES]]
    return samples


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [override.input_line]
    if not override.is_discrete_sweep():
        raise ConfigError(f"'{override.input_line}': Hydra's basic sweeper takes lists and ranges, not intervals.")
    key = override.get_key_element()
    values = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigError(f"'{override.input_line}' has no values to sweep over.")
    return values


@contextmanager
def _hydra(extra_folder: str | None):
    GlobalHydra.instance().clear()
    if extra_folder is not None and not Path(extra_folder).is_dir():
        raise ConfigError(f"--config-dir={extra_folder!r} is not a folder.")
    with initialize_config_dir(str(config_folder()), version_base=HYDRA_VERSION):
        if extra_folder is not None:
            path = GlobalHydra.instance().config_loader().get_search_path()
            path.append("main", f"file://{Path(extra_folder).absolute()}")
            _reread_sources()
        yield
    GlobalHydra.instance().clear()


def _reread_sources() -> None:
    """The loader lists its folders once, at its making; it is made again for the longer search path."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    hydra = GlobalHydra.instance().hydra
    hydra.config_loader = ConfigLoaderImpl(config_search_path=hydra.config_loader.get_search_path())


def _composed(overrides: Sequence[str]) -> DictConfig:
    return hydra_compose("config", overrides=list(overrides), return_hydra_config=True)


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException:
            raise ConfigError(
                f"'{text}' is not understood: settings are written KEY=VALUE, lists KEY=[1,2], nothing around '='."
            ) from None
    return parsed


def _explained(error: Exception, overrides: Sequence[str]) -> str:
    """One line for what Hydra says in several, with the nearest name that exists."""
    loader = GlobalHydra.instance().config_loader()
    groups = [group for group in loader.list_groups("") if group != "hydra"]
    for override in _parse(overrides):
        key = override.key_or_group
        if key in groups and isinstance(override.value(), str):
            options = loader.get_group_options(key)
            if override.value() not in options:
                hint = nearest(override.value(), options)
                return f"{key}={override.value()}: there is no such {key}{hint} allowed: {', '.join(options)}."
        elif not _composes(override.input_line) and _composes():
            known = [*flattened(to_plain(_composed(_choices(overrides, groups)))), *groups]
            known = [name for name in known if not name.startswith("hydra")]
            if key not in known:
                return f"'{key}' is not a setting{nearest(key, known)} {_neighbours(key, known)}"
    first = re.sub(r"\s+", " ", str(error)).strip()
    return first[:300]


def _choices(overrides: Sequence[str], groups: Sequence[str]) -> list[str]:
    """The overrides that choose groups, which decide what keys there are."""
    return [o.input_line for o in _parse(overrides) if o.key_or_group in groups and _composes(o.input_line)]


def _composes(*overrides: str) -> bool:
    try:
        _composed(overrides)
    except (HydraException, OmegaConfBaseException, ValueError):
        return False
    return True


def _neighbours(key: str, known: Sequence[str]) -> str:
    """What stands beside a misspelt key: the settings of its group, or the groups."""
    parent = key.rpartition(".")[0]
    beside = [name for name in known if name.rpartition(".")[0] == parent] if parent else []
    beside = beside or sorted({name.split(".")[0] for name in known})
    return f"allowed: {', '.join(beside)}."
