"""Mirrors of run directories: W&B and TensorBoard. The directory is the truth, a mirror can be filled later.

following.py reads a directory's rows while they are written; weights_biases.py and tensorboard.py hand them on. W&B's
part runs in a process of its own (process.py), which beside.py starts and ends: whatever a server does, training knows
nothing of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types as at
import yaml

from rlresearch.errors import ConfigError, command_line, format_value
from rlresearch.storage.atomic import read_file
from rlresearch.storage.run_directory import atomic_write

MARKER = "mirrors.json"  # what of a run directory stands in which mirror
FOLDERS = ("wandb", "tensorboard")  # in a run directory, for what mirrors keep; never the only copy of anything
_NO_NAME = re.compile(r"[\\/#?%:]")  # what W&B takes in no project's and no run's name
_LONGEST = 128
_LARGEST = 1 << 20  # bytes of a file that is read here


@dataclass(frozen=True)
class WandbSettings:
    """mode: online, or offline for files that W&B's own tools read. group: by default the sweep, or a
    population's first member.
    exit_wait_s: how long a run that has ended waits for its last rows to be sent.
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


def sync_command(runs: Sequence[Path]) -> str:
    """What is pasted to send runs to W&B later."""
    return command_line(["rlresearch-review", "sync", *(str(run.absolute()) for run in runs), "--to", "wandb"])


def run_id(path: Path) -> str:
    """What a run is called in W&B: its directory's name."""
    name = _NO_NAME.sub("-", path.name)
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 7]}{name[-7:]}"


def configuration(path: Path) -> dict[str, Any]:
    """A run's stored configuration; empty where there is none that can be read."""
    try:
        config = yaml.safe_load(read_file(path / "config.yaml", _LARGEST))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def marked(path: Path, mirror: str) -> dict[str, Any]:
    """What a run directory says of its mirror; empty where it says nothing that can be read."""
    try:
        found = json.loads(read_file(path / MARKER, _LARGEST)).get(mirror)
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def mark(path: Path, mirror: str, about: Mapping[str, Any]) -> None:
    """Writes down what stands in a mirror. Errors: RunError where it cannot be written."""
    every = {name: found for name in FOLDERS if (found := marked(path, name))} | {mirror: dict(about)}
    atomic_write(path / MARKER, json.dumps(every, indent=2) + "\n")
