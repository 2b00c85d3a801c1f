"""A user's own folder of options. Its files are checked before Hydra reads them: Hydra builds whatever they ask for."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from rlresearch.config import safe_yaml
from rlresearch.errors import ConfigError, format_value

SCHEME = "own"


class CheckedConfigSource(FileConfigSource):
    """Hydra's source for a folder of options, with a check of each file before Hydra reads it."""

    @staticmethod
    def scheme() -> str:
        """What stands before `://` in Hydra's search path."""
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        """What Hydra reads from a file. ConfigError if the file does not pass `check`."""
        check(Path(self.path) / self._normalize_file_name(config_path))
        return super().load_config(config_path)


def register() -> None:
    """Makes Hydra's search path understand `own://FOLDER`: a folder whose files are checked."""
    SourcesRegistry.instance().register(CheckedConfigSource)


def check(file: Path) -> None:
    """ConfigError, with the file and if known the line, unless the file holds settings and has a common size."""
    try:
        content = _content(file)
        tree = safe_yaml.load(content, references=True)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{file}: must hold settings, a line each as KEY: VALUE: {safe_yaml.reason(error)}."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {safe_yaml.reason(error)}.") from None
    if content.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        hides = "begins with a byte order mark, which hides its first line from Hydra"
        raise ConfigError(f"{file}: {hides}; save it as UTF-8 without one.")
    if tree is not None and not (isinstance(tree, dict) and all(isinstance(key, str) for key in tree)):
        raise ConfigError(f"{file}: must hold settings, a line each as KEY: VALUE.")
    if isinstance(tree, dict):
        _check_defaults(file, tree.get("defaults", []))
        _check_values(file, tree)


def _content(file: Path) -> bytes:
    about = os.stat(file)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")
    with open(file, "rb") as opened:
        return opened.read(safe_yaml.LARGEST + 1)


def _check_defaults(file: Path, defaults: Any) -> None:
    wrong = not isinstance(defaults, list)
    for each in [] if wrong else defaults:
        wrong |= not (isinstance(each, str) or (isinstance(each, dict) and len(each) == 1))
        wrong |= isinstance(each, dict) and not all(isinstance(key, str) for key in each)
    if wrong:
        raise ConfigError(f"{file}: defaults must be a list of GROUP: OPTION.")


def _check_values(file: Path, tree: Any) -> None:
    if isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            _check_values(file, each)
    elif isinstance(tree, set | tuple):
        raise ConfigError(
            f"{file}: {format_value(str(tree))} is no setting; allowed: numbers, text, true, null, lists."
        )
