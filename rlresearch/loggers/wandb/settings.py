"""Settings of W&B, and the marker file that says how much of a run a mirror (W&B, TensorBoard) has.

`loggers/tail.py` reads the rows of a run while they are written; `client.py` sends them to W&B. This happens in a
separate process (`uploader.py`), which `supervisor.py` starts and ends, so a slow or broken server cannot disturb
training. A mirror can also be filled later, because the run directory has all rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import yaml

from rlresearch.errors import ConfigError, format_value
from rlresearch.storage.atomic import read_file
from rlresearch.storage.run_directory import atomic_write

MARKER = "mirrors.json"  # in a run directory: how much of the run each mirror has
FOLDERS = ("wandb", "tensorboard")  # in a run directory: files of the mirrors, which can be made again from the rows
_NO_NAME = re.compile(r"[\\/#?%:]")  # characters that W&B forbids in names of projects and runs
_LONGEST = 128
_LARGEST = 1 << 20  # bytes; no file that is read here should be larger


@dataclass(frozen=True)
class WandbSettings:
    """mode: online, or offline for files that W&B's own tools read. group: by default the name of the sweep, or of
    the first member of a population.
    exit_wait_s: how many seconds a finished run waits until its last rows are sent.
    """

    mode: Literal["online", "offline"] = "online"
    project: str = "rlresearch"
    entity: str | None = None
    group: str | None = None
    tags: tuple[str, ...] = ()
    job_type: str = "train"
    exit_wait_s: Annotated[float, at.Interval(ge=0, le=3600)] = 30.0

    def __post_init__(self) -> None:
        if find_spec("wandb") is None:
            raise ConfigError("wandb is not installed: pip install wandb, or leave out logger=wandb.")
        names = {"project": self.project, "entity": self.entity, "group": self.group, "job_type": self.job_type}
        for key, name in names.items():
            if name is not None and not 0 < len(name) <= _LONGEST:
                raise ConfigError(f"{key}={format_value(name)}: must have 1 to {_LONGEST} characters.")
        if found := _NO_NAME.search(self.project):
            raise ConfigError(
                f"project={format_value(self.project)}: must be a name without {found[0]!r}, as W&B wants it."
            )
        for tag in self.tags:
            if not 0 < len(tag) <= 64:
                raise ConfigError(f"tags={format_value(self.tags)}: each must have 1 to 64 characters.")


def run_id(path: Path) -> str:
    """Returns the id of a run in W&B: the name of its directory, without forbidden characters."""
    name = _NO_NAME.sub("-", path.name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 7]}{name[-7:]}"


def configuration(path: Path) -> dict[str, Any]:
    """Returns the stored configuration of a run; {} where config.yaml cannot be read."""
    try:
        config = yaml.safe_load(read_file(path / "config.yaml", _LARGEST))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def marked(path: Path, mirror: str) -> dict[str, Any]:
    """Returns what `mark` stored about a mirror; {} where there is nothing, or it cannot be read."""
    try:
        found = json.loads(read_file(path / MARKER, _LARGEST)).get(mirror)
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def mark(path: Path, mirror: str, about: Mapping[str, Any]) -> None:
    """Stores in the run directory how much of it a mirror has. Errors: RunError where it cannot be written."""
    every = {name: found for name in FOLDERS if (found := marked(path, name))} | {mirror: dict(about)}
    atomic_write(path / MARKER, json.dumps(every, indent=2) + "\n")
