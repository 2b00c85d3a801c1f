"""From overrides to one configuration: plain dicts, lists and numbers, composed by Hydra."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from hydra import compose as hydra_compose
from hydra.conf import HydraConf
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from rlresearch.config import hydra_messages
from rlresearch.config.dotted import flattened
from rlresearch.config.hydra_session import CONFIG_FOLDER, MAIN_CONFIG, REFUSED, open_hydra, to_container
from rlresearch.config.overrides import (
    CAN_BE_NULL,
    check_overrides,
    for_hydra,
    forced,
    format_override,
    group_names,
    parse,
)
from rlresearch.config.unknown_keys import explain_refusal, unlisted_settings
from rlresearch.errors import ConfigError, allowed_hint, format_value

PACKAGELESS = frozenset({"experiment", "tuned"})  # groups whose options set what stands elsewhere


class Composed(NamedTuple):
    """What a command composes.

    config: plain, resolved. choices: the option of each group. overrides: as typed, without those of Hydra's own
    settings. hydra_config: as Hydra composed it, with its own settings, by `loader`. added: keys of settings that no
    file lists but the component has; see `forced`.
    """

    config: dict[str, Any]
    choices: dict[str, Any]
    overrides: list[str]
    hydra_config: DictConfig
    loader: ConfigLoader
    added: frozenset[str] = frozenset()

    def referenced(self) -> frozenset[str]:
        """The keys that interpolations refer to, with an empty one where an interpolation is more than a key."""
        own = to_plain(self.hydra_config, resolve=False)
        texts = [str(value) for value in flattened(own).values() if "${" in str(value)]
        found = [name for text in texts for name in re.findall(r"\$\{([^}]*)\}?", text)]
        return frozenset(name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else "" for name in found)


def compose(overrides: Sequence[str], config_dir: str | None = None) -> Composed:
    """The configuration that `overrides` ask for. ConfigError, one line, if they cannot be met."""
    with open_hydra(config_dir) as hydra:
        loader = hydra.config_loader
        parsed, groups = parse(overrides, loader), group_names(loader)
        check_overrides(parsed, groups, loader)
        if any(each.value() is None for each in parsed if each.key_or_group in CAN_BE_NULL):
            overrides = for_hydra(overrides, loader)
        added = frozenset[str]()
        try:
            config = _composed(overrides)
        except REFUSED as error:
            added = unlisted_settings(parsed, groups)
            if not added:
                raise ConfigError(explain_refusal(error, parsed, groups)) from None
            try:
                config = _composed(forced(overrides, added))
            except REFUSED as second:
                rest = [each for each in parsed if each.key_or_group not in added]
                raise ConfigError(explain_refusal(second, rest, groups)) from None
        except RecursionError:
            typed = [format_override(each) for each in parsed if each.key_or_group in groups]
            raise ConfigError(f"{', '.join(typed)}: a defaults list leads back to its own file.") from None
        try:
            if (misplaced := PACKAGELESS & {str(key) for key in config}) and not any(each.is_add() for each in parsed):
                raise ConfigError(_explain_package(sorted(misplaced)[0], parsed, config, loader))
            choices = {"experiment": None, "tuned": None} | dict(config.hydra.runtime.choices)
            typed = [str(each.input_line) for each in parsed if not each.key_or_group.startswith(("hydra.", "hydra/"))]
            return Composed(to_plain(config), choices, typed, config, loader, added)
        except InterpolationResolutionError as error:
            raise ConfigError(hydra_messages.explain_interpolation_error(error, config)) from None


def as_hydra_takes(jobs: Sequence[Sequence[str]], config_dir: str | None = None) -> list[list[str]]:
    """Jobs of one sweep, for a launcher that has Hydra compose them: see `for_hydra` and `forced`."""
    added = compose(jobs[0], config_dir).added if jobs else ()
    with open_hydra(config_dir) as hydra:
        return [forced(for_hydra(job, hydra.config_loader), added) for job in jobs]


def _explain_package(group: str, parsed: Sequence[Override], config: DictConfig, loader: ConfigLoader) -> str:
    """Why what an option says stands below the name of its group."""
    options = [each.value() for each in parsed if each.key_or_group == group]
    option = options[-1] if options else config.hydra.runtime.choices.get(group)
    names = option if isinstance(option, list) else [option]
    files = [
        str(file)
        for source in loader.get_search_path().get_path()
        for name in names
        if (file := Path(source.path.rpartition("://")[2], group, f"{name}.yaml")).is_file()
    ]
    lacking = [file for file in files if "@package" not in Path(file).read_text(errors="replace").partition("\n")[0]]
    where = (lacking or files or [f"{group}={option}"])[0]
    return f"{where}: lacks the first line `# @package _global_`, without which its settings stand below {group}."


def _composed(overrides: Sequence[str]) -> DictConfig:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = hydra_compose(MAIN_CONFIG, overrides=list(overrides), return_hydra_config=True)
    for each in caught:
        if (place := re.search(r"path=(\S+) is not available", str(each.message))) is not None:
            raise ConfigError(f"hydra.searchpath={place[1]}: is not there; allowed: file://FOLDER, pkg://PACKAGE.")
    known = [field.name for field in dataclasses.fields(HydraConf)] + ["env"]  # which its own defaults add
    for name in config.hydra:
        if name not in known:
            typed = f"hydra.{name}={format_value(config.hydra[name])}"
            raise ConfigError(f"{typed}: Hydra has no such setting{allowed_hint(name, known)}")
    return config


def to_plain(config: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """Dicts, lists and numbers, without Hydra's own settings. A missing value stays '???'."""
    own = OmegaConf.masked_copy(config, [cast(str, key) for key in config if key != "hydra"])
    return to_container(own, resolve)


def tuned_values(name: str | None, config: dict[str, Any], config_dir: str | None) -> dict[str, Any]:
    """The settings in `config` that come from the tuned option `name`; those that the command overrode are not."""
    folders = [CONFIG_FOLDER, *([Path(config_dir)] if config_dir else [])]
    files = [file for folder in folders if (file := folder / "tuned" / f"{name}.yaml").is_file()]
    if not files:
        return {}
    theirs, final = OmegaConf.load(files[0]), flattened(config)
    resolved = flattened(to_container(OmegaConf.merge(config, theirs), resolve=True))
    own = flattened(to_container(theirs) or {})
    return {key: resolved[key] for key in own if key in final and final[key] == resolved[key]}
