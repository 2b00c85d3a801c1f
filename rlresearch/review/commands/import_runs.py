"""`import`: makes run directories from runs of other programs, so that they can be listed and compared.

It reads monitor.csv and evaluations.npz of Stable-Baselines3, event files of TensorBoard, and offline files of W&B.
The files of one folder are one run, whose environments have a monitor.csv each; only files with `seed` and a number in
their names are separate runs. Known metric names are changed to ours; other names are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rlresearch.errors import ConfigError, RunError, format_value, one_line
from rlresearch.review.runs import query, sb3_monitor, tfevents, wandb_files
from rlresearch.review.runs.index import Index
from rlresearch.storage.jsonl import JsonLines
from rlresearch.storage.redaction import redacted
from rlresearch.storage.run_directory import RunDirectory, atomic_write, timestamp

# Names of Stable-Baselines3 and CleanRL for metrics that our runs have too.
_SAME = {
    "rollout/ep_rew_mean": "train/return",
    "rollout/ep_len_mean": "train/length",
    "charts/episodic_return": "train/return",
    "charts/episodic_length": "train/length",
    "time/fps": "speed/steps_per_second",
    "charts/SPS": "speed/steps_per_second",
    "train/critic_loss": "loss/critic",
    "train/actor_loss": "loss/actor",
    "train/policy_gradient_loss": "loss/policy",
    "train/value_loss": "loss/value",
}
_EVALUATED = {"eval/mean_reward": "returns", "eval/mean_ep_length": "lengths"}


@dataclass
class Foreign:
    """A run of another program. metrics, evaluations: {step: row}. began: its start, in seconds since 1970. notes: what
    of it could not be read.
    """

    files: list[Path]
    metrics: dict[int, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[int, dict[str, Any]] = field(default_factory=dict)
    env: str | None = None
    began: float | None = None
    notes: list[str] = field(default_factory=list)


def import_(arguments: argparse.Namespace) -> int:
    """Makes a run directory for each run that is found. Files that were imported before are skipped.

    Returns the exit code: 1 where a run has nothing that can be read; the others are imported.
    """
    settings = _settings(arguments.set)
    os.makedirs(arguments.runs_dir, exist_ok=True)
    with Index(arguments.runs_dir, cache=False) as index:
        there = {run.values.get("imported.sha256"): run.name for run in index.runs()}
    found, failed = [], 0
    for files in _folders(arguments.sources):
        try:
            if (digest := _digest(files)) in there:
                print(f"{files[0].parent} is there already, as {there[digest]}")
                continue
            found.append((read(files), digest))
        except (OSError, RunError) as error:
            print(f"rlresearch-review: {one_line(str(error))}", file=sys.stderr)
            failed += 1
    envs = [arguments.env or run.env or "unknown" for run, _ in found]
    for (run, digest), env, seed in zip(found, envs, _seeds([run for run, _ in found], envs, arguments.seed)):
        for note in run.notes:
            print(f"note: {note}", file=sys.stderr)
        path = _write(run, arguments, settings | {"seed": seed}, env, digest)
        told = f"seed {seed}, {len(run.metrics)} rows, {len(run.evaluations)} evaluations"
        print(f"{run.files[0].parent} became {path} ({told})")
    return 1 if failed else 0


_SEED = re.compile(r"(?:^|[^a-z])seed[ _=-]*(\d{1,18})(?!\d)", re.IGNORECASE)


def _seeds(runs: Sequence[Foreign], envs: Sequence[str], first: int | None) -> list[int]:
    """The seed of each run: the one that its file or folder is named after, else the next that its environment lacks.

    first: what all of them are counted from, whatever their names; None: names come first, and the others count from 0.
    """
    named = [None if first is not None else _named_seed(run.files) for run in runs]
    used = {(env, seed) for env, seed in zip(envs, named, strict=True)}
    seeds = []
    for env, seed in zip(envs, named, strict=True):
        if seed is None:
            seed = next(each for each in itertools.count(first or 0) if (env, each) not in used)
            used.add((env, seed))
        seeds.append(seed)
    return seeds


def _named_seed(files: Sequence[Path]) -> int | None:
    """As its file or its folders are named; RL Zoo's args.yml says it too."""
    parts = [files[0].name, *reversed(files[0].parent.resolve().parts[-3:])]
    found = [int(match[1]) for match in map(_SEED.search, parts) if match]
    for place in sorted(files[0].parent.glob("*/args.yml")) if not found else ():
        said = re.search(r"\bseed\b\W{1,9}(\d{1,18})\b", place.read_text(errors="replace"))
        found += [int(said[1])] if said else []
    return found[0] if found else None


def read(files: Sequence[Path]) -> Foreign:
    """Reads the files of one run. Errors: RunError where none of them can be read; it names the first."""
    run, monitors, why = Foreign(list(files)), [], list[str]()
    for file in files:
        try:
            if file.suffix == ".csv":
                monitors.append(_monitor(run, file))
            elif file.suffix == ".npz":
                _read_evaluations(run, file)
            elif file.suffix == ".wandb":
                _read_wandb(run, file)
            else:
                _read_events(run, file)
        except RunError as error:
            why.append(str(error))
    if len(why) == len(files):
        raise RunError(why[0])
    run.notes += why
    _add_episodes(run, monitors)
    return run


def _monitor(run: Foreign, path: Path) -> sb3_monitor.Monitor:
    try:
        made = sb3_monitor.read(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: is no monitor.csv of Stable-Baselines3: {error}") from error
    if made.left_out:
        run.notes.append(f"{path}: {made.left_out} of its rows cannot be read, and are left out")
    return made


def _folders(sources: Sequence[Path]) -> Iterator[list[Path]]:
    found: dict[tuple[Path, str | None], list[Path]] = {}
    for source in sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such file or folder.")
        within = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        known = [path for path in within if _is_known(path)]
        if not known:
            kinds = "monitor.csv, evaluations.npz, events.out.tfevents.* or *.wandb"
            raise ConfigError(f"{source}: holds none of {kinds}.")
        for path in known:
            named = _SEED.search(path.name)
            own = found.setdefault((path.parent, named[1] if named else None), [])
            own += [] if path in own else [path]
    yield from found.values()


def _is_known(path: Path) -> bool:
    named = path.name.endswith(("monitor.csv", ".wandb")) or path.name == "evaluations.npz"
    return named or ".tfevents." in path.name


def _add_episodes(run: Foreign, monitors: Sequence[sb3_monitor.Monitor]) -> None:
    """Adds the episodes of one run, whose environments wrote a file each."""
    began, episodes = sb3_monitor.together(monitors)
    run.env = next((each.env for each in monitors if each.env is not None), run.env)
    run.began = min((each for each in (run.began, began) if each is not None), default=None)
    for step, row in sb3_monitor.rows(episodes).items():
        run.metrics.setdefault(step, {}).update(row)


def _read_evaluations(run: Foreign, path: Path) -> None:
    """Reads evaluations.npz: timesteps [n], results [n, episodes], ep_lengths [n, episodes]."""
    try:
        with np.load(path, allow_pickle=False) as found:
            lengths = found["ep_lengths"] if "ep_lengths" in found else np.full(found["results"].shape, np.nan)
            for step, returns, steps in zip(found["timesteps"].tolist(), found["results"], lengths, strict=True):
                row = {"time": None, "returns": np.atleast_1d(returns).tolist()}
                known = [] if np.isnan(steps).any() else np.atleast_1d(steps).astype(int).tolist()
                run.evaluations[int(step)] = row | ({"lengths": known} if known else {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: is no evaluations.npz of Stable-Baselines3: {error}") from error


def _read_events(run: Foreign, path: Path) -> None:
    """Reads an event file. A mean over evaluation episodes becomes an evaluation with one return."""
    for each in tfevents.scalars(path):
        run.began = each.wall_time if run.began is None else min(run.began, each.wall_time)
        elapsed = round(each.wall_time - run.began, 3)
        if each.tag in _EVALUATED:
            row = run.evaluations.setdefault(each.step, {"time": elapsed})
            row.setdefault(_EVALUATED[each.tag], [each.value])  # evaluations.npz has every episode, so its row stays
            row["time"] = row["time"] if row.get("time") is not None else elapsed
            continue
        name = _SAME.get(each.tag, each.tag if "/" in each.tag else f"imported/{each.tag}")
        run.metrics.setdefault(each.step, {"time": elapsed})[name] = each.value


def _read_wandb(run: Foreign, path: Path) -> None:
    """Reads the rows of a .wandb file. An evaluation of one of our own runs keeps all its episodes."""
    config, rows = wandb_files.read(path)
    env = config.get("env")
    own = env.get("id") if isinstance(env, dict) else env
    run.env = run.env or next((each for each in (own, config.get("env_id")) if isinstance(each, str)), None)
    run.began = min([each.wall_time for each in rows if each.wall_time is not None], default=run.began)
    for each in rows:
        elapsed = None if each.wall_time is None or run.began is None else round(each.wall_time - run.began, 3)
        told = {"time": each.values.get("time", elapsed)}
        if isinstance(each.values.get("eval/returns"), list):
            lengths = each.values.get("eval/lengths")
            row = told | {"returns": each.values["eval/returns"]} | ({"lengths": lengths} if lengths else {})
            run.evaluations[each.step] = row
            continue
        for name, value in each.values.items():
            if name in _EVALUATED and not isinstance(value, list):
                run.evaluations.setdefault(each.step, dict(told)).setdefault(_EVALUATED[name], [value])
            elif name not in ("step", "global_step", "time") and not isinstance(value, list):
                ours = _SAME.get(name, name if "/" in name else f"imported/{name}")
                run.metrics.setdefault(each.step, dict(told))[ours] = value


def _write(run: Foreign, arguments: argparse.Namespace, settings: dict[str, Any], env: str, digest: str) -> Path:
    rows = {"metrics.jsonl": run.metrics, "evaluations.jsonl": run.evaluations}
    with RunDirectory.create(arguments.runs_dir, arguments.algo, env, settings["seed"]) as made:
        atomic_write(made.path / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        for name, found in rows.items():
            file = JsonLines(made.path / name)
            for step in sorted(found):
                file.write({"step": step} | found[step])
            file.close()
        ends = [step for found in rows.values() for step in found]
        times = [row["time"] for found in rows.values() for row in found.values() if row.get("time") is not None]
        began = datetime.fromtimestamp(run.began, UTC) if run.began else None
        made.record(
            status="finished",
            started_at=timestamp(began) if began else made.recorded()["started_at"],
            wall_time_s=max(times, default=None),
            total_steps=max(ends, default=None),
            final_evaluation=_final(run),
            imported={"from": redacted([str(run.files[0].parent.resolve())])[0], "sha256": digest},
            **{"host": None, "pid": None},
        )
    return made.path


def _final(run: Foreign) -> dict[str, Any] | None:
    known = [step for step, row in run.evaluations.items() if row.get("returns")]
    if not known:
        return None
    row = run.evaluations[max(known)]
    final = {"step": max(known), "mean": float(np.mean(row["returns"])), "std": float(np.std(row["returns"]))}
    lengths = {"mean_length": float(np.mean(row["lengths"]))} if row.get("lengths") else {}
    return final | {"episodes": len(row["returns"])} | lengths


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Returns the values of `--set algo.gamma=0.9` as nested dicts. Errors: ConfigError."""
    made: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        *path, last = key.split(".")
        if not equals or not all([*path, last]):
            raise ConfigError(f"--set {format_value(word)}: must be KEY=VALUE, as in algo.gamma=0.9.")
        node = made
        for name in path:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--set {format_value(word)}: {name} has a value of its own already.")
        node[last] = query.typed(value)
    return made


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()
