"""Settings of W&B, and the marker file that says how much of a run a mirror (W&B, TensorBoard) has.

`loggers/tail.py` reads the rows of a run while they are written; `client.py` sends them to W&B. This happens in a
separate process (`uploader.py`), which `supervisor.py` starts and ends, so a slow or broken server cannot disturb
training. A mirror can also be filled later, because the run directory has all rows.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import annotated_types as at
import yaml

from rlresearch.errors import ConfigError, allowed_hint, command_line, format_value
from rlresearch.storage.atomic import read_file
from rlresearch.storage.run_directory import atomic_write

MARKER = "mirrors.json"  # in a run directory: how much of the run each mirror has
FOLDERS = ("wandb", "tensorboard")  # in a run directory: files of the mirrors, which can be made again from the rows
_NO_NAME = re.compile(r"[\\/#?%:]")  # characters that W&B forbids in names of projects and runs
_LONGEST = 128
_LARGEST = 1 << 20  # bytes; no file that is read here should be larger
# What W&B's own switches ask for, the least that is sent first.
_DISABLED, _OFFLINE, _ONLINE = "disabled", "offline", "online"
_MODES = {_DISABLED: _DISABLED, _OFFLINE: _OFFLINE, "dryrun": _OFFLINE, _ONLINE: _ONLINE, "run": _ONLINE}
_MODES |= {"shared": _ONLINE}
_NO = ("", "0", "false", "f", "no", "n", "off")


@dataclass(frozen=True)
class WandbSettings:
    """mode: online, or offline for files that W&B's own tools read; W&B's own switches may allow less, see `allowed`.
    group: by default the name of the sweep, or of the first member of a population.
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
        switch()  # a wrong one is told before the run
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


class Switch(NamedTuple):
    """What W&B's own switches ask for: mode: disabled, offline or online. said: where, as `WANDB_MODE=offline`."""

    mode: str
    said: str


def switch() -> Switch | None:
    """The first that says something of WANDB_DISABLED, WANDB_MODE and what `wandb offline` or `wandb disabled` wrote.

    ConfigError on a mode that W&B does not have.
    """
    if (disabled := os.environ.get("WANDB_DISABLED", "")).lower() not in _NO:
        return Switch(_DISABLED, f"WANDB_DISABLED={disabled}")
    if mode := os.environ.get("WANDB_MODE"):
        if mode.lower() not in _MODES:
            raise ConfigError(f"WANDB_MODE={format_value(mode)}: there is no such mode{allowed_hint(mode, _MODES)}")
        return Switch(_MODES[mode.lower()], f"WANDB_MODE={mode}")
    for file in _settings_files():
        stored = configparser.ConfigParser(interpolation=None)
        with contextlib.suppress(OSError, ValueError, configparser.Error):
            stored.read_string(read_file(file, _LARGEST).decode())
            mode = stored.get("default", "mode", fallback="").lower()
            if stored.get("default", "disabled", fallback="").lower() not in _NO:
                return Switch(_DISABLED, f"'disabled' in {file}")
            if mode in _MODES:
                return Switch(_MODES[mode], f"'mode = {mode}' in {file}")
    return None


def allowed(settings: WandbSettings) -> tuple[WandbSettings | None, str | None]:
    """The settings as far as W&B's own switches allow, None where they allow nothing; and why that is less than asked.

    A configuration may ask for less than a switch, and a switch for less than a configuration: the less is done.
    """
    said = switch()
    if said is None or said.mode in (_ONLINE, settings.mode):
        return settings, None
    if said.mode == _DISABLED:
        return None, f"W&B gets nothing of this run, as {said.said} says"
    return replace(settings, mode="offline"), f"W&B is offline, as {said.said} says"


def _settings_files() -> list[Path]:
    """W&B's files of the folder and of the user, in this order."""
    above = Path(os.environ.get("WANDB_DIR") or ".")
    folder = ".wandb" if (above / ".wandb").exists() else "wandb"
    home = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config/wandb")
    return [above / folder / "settings", Path(home) / "settings"]


def sync_command(runs: Sequence[Path]) -> str:
    """What is pasted to send runs to W&B later."""
    return command_line(["rlresearch-review", "sync", *(str(run.absolute()) for run in runs), "--to", "wandb"])


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
