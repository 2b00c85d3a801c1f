"""Options in a folder of the user's own: read by Hydra, but first looked at, since Hydra makes whatever they ask for.

A file of some hundred bytes can stand for a billion nodes (references to references), and one nested deep enough ends
the interpreter. What gets past here is small, shallow, and settings.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigResult

from rlresearch.errors import ConfigError

LARGEST, MOST_NODES, DEEPEST = 1 << 20, 20_000, 40  # bytes; mappings, lists and values; levels
SCHEME = "own"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class OwnFolder(FileConfigSource):
    """Hydra's folder of options, whose files are checked before Hydra reads them."""

    @staticmethod
    def scheme() -> str:
        return SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        check(Path(self.path) / self._normalize_file_name(config_path))
        return super().load_config(config_path)


def address(folder: Path) -> str:
    """How Hydra's search path names a folder whose files are checked."""
    SourcesRegistry.instance().register(OwnFolder)
    return f"{SCHEME}://{folder}"


def check(file: Path) -> None:
    """ConfigError, naming the file and where it can the line, if it is anything but settings of a common size."""
    try:
        content = _content(file)
        _count(content)
        tree = yaml.load(content, _LOADER)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}{_line(error)}: is no YAML of settings: {_why(error)}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if tree is not None and not (isinstance(tree, dict) and all(isinstance(key, str) for key in tree)):
        raise ConfigError(f"{file}: must hold settings, a line each as KEY: VALUE.")
    if isinstance(tree, dict):
        _check_defaults(file, tree.get("defaults", []))


def _content(file: Path) -> bytes:
    about = os.stat(file)
    if not stat.S_ISREG(about.st_mode):
        raise ValueError("it is no plain file")
    if about.st_size > LARGEST:
        raise ValueError(f"it has {about.st_size:,} bytes, of at most {LARGEST:,}")
    return file.read_bytes()


def _count(content: bytes) -> None:
    """Errors: ValueError, where references written out would make too many nodes, or there are too many levels."""
    open_: list[list[Any]] = []  # the anchor of each level that is begun, and how many nodes it has so far
    sizes: dict[str, int] = {}
    for event in _events(content):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in open_):
                raise ValueError(f"'*{event.anchor}' refers to what it is a part of")
            size = sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append([event.anchor, 1])
            if len(open_) > DEEPEST:
                raise ValueError(f"it has more than {DEEPEST} levels")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
            sizes |= {anchor: size} if anchor else {}
        else:
            size = 1
            sizes |= {event.anchor: 1} if getattr(event, "anchor", None) else {}
        if open_:
            open_[-1][1] += size
        if size > MOST_NODES or (open_ and open_[-1][1] > MOST_NODES):
            raise ValueError(f"written out it has more than {MOST_NODES:,} values")


def _events(content: bytes) -> Iterator[yaml.Event]:
    yield from yaml.parse(content, _LOADER)


def _check_defaults(file: Path, defaults: Any) -> None:
    wrong = not isinstance(defaults, list)
    for each in [] if wrong else defaults:
        wrong |= not (isinstance(each, str) or (isinstance(each, dict) and len(each) == 1))
        wrong |= isinstance(each, dict) and not all(isinstance(key, str) for key in each)
    if wrong:
        raise ConfigError(f"{file}: defaults must be a list of GROUP: OPTION.")


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _why(error: yaml.YAMLError) -> str:
    why = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return str(why).replace("tag:yaml.org,2002:", "!!")
