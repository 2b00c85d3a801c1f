"""Hydra over the shipped `conf` and a folder of the user's own; what it raises, and what the two add to each other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlresearch.config import config_source
from rlresearch.errors import ConfigError, format_value

HYDRA_VERSION = "1.3"
MAIN_CONFIG = "config"  # conf/config.yaml
_PACKAGE = Path(__file__).resolve().parents[1]
# The shipped `conf`: inside an installed package, beside it in a checkout.
CONFIG_FOLDER = (_PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent) / "conf"
# What Hydra raises for a wrong command.
REFUSED = (HydraException, OmegaConfBaseException, YAMLError, ValueError, OSError)


@contextlib.contextmanager
def open_hydra(config_dir: str | None, scheme: str = config_source.SCHEME) -> Iterator[Hydra]:
    """Hydra over the shipped folder and, with precedence, the user's: as Hydra's own --config-dir.

    scheme: of the user's folder; by default one whose files are checked before Hydra reads them.
    """
    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigError(f"--config-dir={format_value(config_dir)}: must be a folder that exists.")
    GlobalHydra.instance().clear()
    version.setbase(HYDRA_VERSION)
    # Hydra's and its plugins' launchers and sweepers that share a name with one in `conf` are removed: Hydra would take
    # theirs for the schema of ours.
    Plugins.instance()  # they register themselves when it is made
    for group, options in ConfigStore.instance().repo.get("hydra", {}).items():
        if isinstance(options, dict):
            for name in [name for name in options if (CONFIG_FOLDER / "hydra" / group / name).is_file()]:
                del options[name]
    path = create_config_search_path(str(CONFIG_FOLDER))
    if config_dir is not None:
        config_source.register()
        folder = f"{scheme}://{os.path.abspath(config_dir)}"
        path.prepend(provider="command-line", path=folder, anchor=SearchPathQuery(provider="schema"))
    try:
        yield Hydra.create_main_hydra2("rlresearch", path)
    finally:
        GlobalHydra.instance().clear()


def to_container(config: Any, resolve: bool = False) -> dict[str, Any]:
    """A configuration as dicts and lists."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def config_dir_of(config: DictConfig) -> str | None:
    """The folder that --config-dir named, of a configuration with Hydra's own settings."""
    sources = config.hydra.runtime.config_sources
    return next((each.path for each in sources if each.provider == "command-line"), None)
