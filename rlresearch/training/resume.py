"""Resumes a run: reads its stored configuration, applies allowed changes, and finds the newest checkpoint.

Another person may have written a run directory. So its configuration is read as plain YAML, and its `_target_`s may
only name this package or packages that the user names.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rlresearch.config import safe_yaml
from rlresearch.config.changes import Change
from rlresearch.config.dotted import flattened
from rlresearch.config.instantiate import allow_imports_from
from rlresearch.errors import ConfigError, RunError, command_line, format_value, override_text
from rlresearch.storage import checkpoint, redaction
from rlresearch.storage.atomic import read_file
from rlresearch.storage.checkpoint import Checkpoint
from rlresearch.storage.run_directory import RunDirectory
from rlresearch.training.experiment import Plan, plan

# Settings that do not affect what is learned. Changing any other setting would make a different run.
SAFE = ("total_steps", "device", "threads", "compile_cache", "deterministic")
SAFE_GROUPS = ("logger", "eval", "checkpoint")
# Settings that are newer than some stored runs, by component: what they are where a stored configuration lacks them.
BEFORE = {"normalize": {"rlresearch.normalize.Running": {"precision": "float32"}}}
POPULATION = "population.yaml"  # in addition to config.yaml, the configuration of a member's run alone
_FILES = ("run.json", "config.yaml", POPULATION, "metrics.jsonl", "evaluations.jsonl", "log.txt")
_MOST_FOLDERS = 20_000


def resume_command(path: Path, config_dir: str | None, *more: str) -> str:
    """Returns the command that resumes a run, a sweep or a search. config_dir: of the command that started it. more:
    further words of the command.
    """
    folder = [] if config_dir is None else [f"--config-dir={_from_here(Path(config_dir))}"]
    own = [*folder, override_text("resume", _from_here(path)), *more]
    return command_line(["python", "-m", "rlresearch", *own])


def _from_here(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


@dataclass(frozen=True)
class StoredRun:
    """A stored run. home: the directory with its checkpoints; for a population, of its first member. directories: one
    per member. index: of the member that was named.
    """

    home: Path
    directories: list[Path]
    index: int
    config: dict[str, Any]
    record: dict[str, Any]


class ResumePoint(NamedTuple):
    """The point at which a run resumes. loaded: its checkpoint, None for the beginning. damaged: newer checkpoints
    that cannot be used, with the reasons. changed: [before, now] by dotted key. offer: what else the user
    may do, if anything.
    """

    stored: StoredRun
    config: dict[str, Any]
    loaded: Checkpoint | None
    damaged: dict[str, str]
    changed: dict[str, list[Any]]
    offer: str = ""


def load_resume_point(path: str, changes: Sequence[Change], packages: Sequence[str]) -> tuple[Plan, ResumePoint]:
    """Returns the plan of the run at `path` with `changes`, and its resume point. Errors: ConfigError."""
    stored = open_run(path, "resume")
    config, changed = apply_changes(stored, changes)
    config |= {"runs_dir": str(stored.home.parent), "packages": list(packages)}
    _check_writable(path, stored)
    made = plan(config, ["rlresearch", *packages], begins=False)
    fresh = made.checkpoint.episodes == "fresh" or not made.task.reseed
    loaded, damaged = checkpoint.newest(stored.home, exact=not fresh)
    newer = [name for name in checkpoint.names(stored.home) if loaded is None or name > loaded.path.name]
    offer = _offer(path, made, loaded, [name for name in newer if name not in damaged])
    if loaded is None and damaged:
        name, why = next(iter(damaged.items()))
        every = f"all {len(damaged)} checkpoints are" if len(damaged) > 1 else "the only checkpoint is"
        raise ConfigError(f"resume={format_value(path)}: {every} damaged, nothing was changed: {name}: {why}")
    _check_fit(path, stored, made, loaded)
    return made, ResumePoint(stored, config, loaded, damaged, changed, offer)


def _check_writable(path: str, stored: StoredRun) -> None:
    """ConfigError where a run that is somebody else's, or on a disk that takes nothing, is to go on in its place."""
    for directory in stored.directories:
        try:
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            why = f"'{directory}' cannot be written ({error.strerror or error})"
            raise ConfigError(
                f"resume={format_value(path)}: {why}; copy the run to a folder of yours, or begin with what it has "
                "learned: init_from=RUN."
            ) from None


def trusted_packages(packages: Any, folder: str | None) -> list[str]:
    """`named_packages`, which can be imported from then on. ConfigError where the folder is none."""
    if folder is None:
        return named_packages(packages, None)
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir={format_value(folder)}: must be a folder that exists.")
    allow_imports_from(folder)
    return named_packages(packages, folder)


def named_packages(packages: Any, folder: str | None) -> list[str]:
    """Returns the packages that the user named, and those in the folder of --config-dir. Errors: ConfigError."""
    named = list(packages) if isinstance(packages, list | tuple) else [packages]
    for each in named:
        if not (isinstance(each, str) and each.isidentifier()):
            raise ConfigError(f"packages={format_value(packages)}: must be a list of package names, like [my_lab].")
    inside = Path(folder).iterdir() if folder is not None else ()
    return [*named, *(each.stem for each in inside if each.suffix == ".py" or (each / "__init__.py").is_file())]


def open_run(path: str, key: str) -> StoredRun:
    """Opens the run in a directory; for a member, its whole population. Errors: ConfigError that names `key`."""
    run = Path(path).absolute()
    where = f"{key}={format_value(path)}"
    if not os.path.isfile(run / "run.json"):  # Path.is_file would raise for a name that is too long
        newest = max(_below(run), default=None)
        inside = next((each for each in run.parents if os.path.isfile(each / "run.json")), None)
        hint = f"; the newest below it is {newest}" if newest else ""
        hint = f"; this is inside of one: {override_text(key, str(inside))}" if inside is not None else hint
        raise ConfigError(f"{where}: must be a run directory, one with a run.json{hint}.")
    try:
        record = RunDirectory(run).recorded()
        names = (record.get("population") or {}).get("members") or [run.name]
        directories = [run.parent / name for name in names if name == Path(name).name]
        home = directories[0]
        for directory in directories:
            _check_links(directory)
        config = read_config(home / (POPULATION if record.get("population") else "config.yaml"))
        return StoredRun(home, directories, names.index(run.name), config, record)
    except RunError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (ValueError, TypeError, AttributeError, LookupError):
        raise ConfigError(f"{where}: its run.json does not say which runs it was trained with.") from None


def check_source(plan: Plan) -> None:
    """Errors: ConfigError where `init_from` names a run that does not exist."""
    if plan.settings.init_from is not None:
        open_run(plan.settings.init_from, "init_from")


def _below(folder: Path) -> Iterator[Path]:
    """Yields run directories below a folder; stops after _MOST_FOLDERS folders, about a second."""
    for seen, (place, _, files) in enumerate(os.walk(folder)):
        if "run.json" in files:
            yield Path(place)
        if seen > _MOST_FOLDERS:
            return


def _check_links(directory: Path) -> None:
    """Errors: RunError where a file of a run is a link, because writes to it would change another place."""
    own = [directory, *(directory / name for name in _FILES)]
    for path in (*own, directory / "checkpoints", directory / "checkpoints" / checkpoint.REPLAY):
        if path.is_symlink():
            raise RunError(f"{path} is a link, and a run is read where it lies")
        if path in own[1:] and path.exists() and not path.is_file():
            raise RunError(f"{path} is no file")


def read_config(path: Path) -> dict[str, Any]:
    """A stored configuration: plain YAML, no references, nothing looked up. RunError where it is something else.

    A setting that came later is as it was before it came.
    """
    try:
        config = safe_yaml.load(read_file(path, safe_yaml.LARGEST + 1))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} cannot be read: {safe_yaml.reason(error)}") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise RunError(f"{path} cannot be read: it holds no settings")
    for group, components in BEFORE.items():
        if isinstance(node := config.get(group), dict):
            config[group] = components.get(str(node.get("_target_")), {}) | node
    return config


def lasting_digest(config: Mapping[str, Any]) -> str:
    """Returns a digest of the settings that must not change when a run is resumed."""
    own = {key: value for key, value in flattened(config).items() if not _safe(key)}
    for key in ("runs_dir", "packages", "resume"):
        own.pop(key, None)
    for group, components in BEFORE.items():  # earlier versions had no such settings, and their digests lack them
        for name, value in components.get(str(own.get(f"{group}._target_")), {}).items():
            if own.get(key := f"{group}.{name}") == value:
                own.pop(key)
    return hashlib.blake2b(json.dumps(own, sort_keys=True, default=str).encode(), digest_size=16).hexdigest()


def _safe(key: str) -> bool:
    return key in (*SAFE, "env.timeout_s") or key.partition(".")[0] in SAFE_GROUPS


def apply_changes(stored: StoredRun, changes: Sequence[Change]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Returns the stored configuration with changes, and {key: [before, now]}. Errors: ConfigError if not allowed."""
    config = copy.deepcopy(stored.config)
    chosen = stored.record.get("choices") or {}
    for key, value, settings in sorted(changes, key=lambda each: each.settings is None):  # groups first
        group = settings is not None
        if group and key in SAFE_GROUPS:
            config[key] = settings
        elif group and chosen.get(key) != value:
            raise ConfigError(f"{key}={format_value(value)}: {_refusal(chosen.get(key))}")
        elif not group and _safe(key):
            _set(config, key, value)
        elif not group and redaction.MASK in str(flattened(stored.config).get(key)):  # a secret, which was not stored
            _set(config, key, value)
        elif not group and (before := flattened(config).get(key)) != value:
            raise ConfigError(f"{key}={format_value(value)}: {_refusal(before)}")
    before, now = flattened(stored.config), flattened(config)
    different = [key for key in now.keys() | before.keys() if now.get(key) != before.get(key)]
    different = [key for key in different if redaction.MASK not in str(before.get(key))]
    return config, {key: [before.get(key), now.get(key)] for key in sorted(different)}


def _refusal(now: Any) -> str:
    return (
        f"cannot be changed while a run goes on, where it is {format_value(now)}: it would be another run; "
        "init_from=RUN begins one from what this run has learned."
    )


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        config = config[name]
    config[last] = value


def _offer(path: str, made: Plan, loaded: Checkpoint | None, newer: Sequence[str]) -> str:
    """What is said where there are `newer` checkpoints, from which only other episodes can be gone on with.

    ConfigError where there is no other checkpoint.
    """
    if not newer:
        return ""
    why = f"environment '{made.task.id}' cannot be brought back to step {int(newer[0].partition('.')[0])}"
    offer = "checkpoint.episodes=fresh goes on from there with new episodes"
    if loaded is None:
        raise ConfigError(f"resume={format_value(path)}: {why}, its newest checkpoint; {offer}.")
    return f"{why}; the run goes on from step {loaded.about.step}. {offer}"


def _check_fit(path: str, stored: StoredRun, made: Plan, loaded: Checkpoint | None) -> None:
    where, total = f"resume={format_value(path)}", made.settings.total_steps
    reached = loaded.about.step if loaded else 0
    if loaded is not None and loaded.about.config != lasting_digest(stored.config):
        raise ConfigError(f"{where}: its configuration is not the one that its checkpoints were made with.")
    if loaded is None and made.settings.init_from is not None:
        begins = f"it began with what another run had learned; begin it anew with init_from={made.settings.init_from}"
        raise ConfigError(f"{where}: has no checkpoint, and {begins}.")
    if reached > total:
        raise ConfigError(f"total_steps={total}: must be at least {reached}, which the run has behind it.")
    if stored.record.get("status") == "finished" and loaded is None:
        raise ConfigError(f"{where}: has finished, and has no checkpoint to go on from.")
    if stored.record.get("status") == "finished" and reached >= total:
        raise ConfigError(f"{where}: has finished at step {reached}; train on with total_steps=MORE.")
