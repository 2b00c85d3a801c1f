"""`sync`: copies stored runs to W&B or TensorBoard; each row arrives once, also after an interruption or a repeat."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import rlresearch
from rlresearch.config.instantiate import make
from rlresearch.errors import ConfigError, RunError, one_line
from rlresearch.loggers.tail import RowFollower
from rlresearch.loggers.wandb import client
from rlresearch.loggers.wandb.settings import WandbSettings, marked, switch
from rlresearch.review import tables
from rlresearch.review.runs import query, reader
from rlresearch.review.runs.index import Index
from rlresearch.review.runs.reader import Run


def sync(arguments: argparse.Namespace) -> int:
    """Copies each run to the mirror `--to` and prints a line for it. Returns exit code 1 where a run failed."""
    runs = _chosen(arguments)
    into = {"wandb": _to_wandb, "tensorboard": _to_tensorboard}[arguments.to]
    if arguments.to == "wandb":
        own = {name: getattr(arguments, name) for name in ("project", "entity", "group") if getattr(arguments, name)}
        make(WandbSettings, own, "--to=wandb")
        if (said := switch()) is not None and said.mode != "online":
            out = (
                "unset it"
                if said.said.startswith("WANDB_DISABLED")
                else "WANDB_MODE=online before the command allows it"
            )
            raise ConfigError(f"--to=wandb: {said.said} forbids it; {out}.")
        client.prepare()
    failed = 0
    for run in runs:
        try:
            print(tables.text(f"{run.name}: {into(run, arguments)}"), flush=True)
        except (ConfigError, RunError) as error:
            print(tables.text(f"{run.name}: {one_line(str(error))}"), file=sys.stderr, flush=True)
            failed += 1
            if isinstance(error, client.NoAnswer):  # then W&B will not answer for the other runs either
                break
    return 1 if failed else 0


def _chosen(arguments: argparse.Namespace) -> list[Run]:
    if not arguments.runs and not arguments.since and not arguments.status:
        raise ConfigError("sync: name the runs, by name, number or filter; all of them are 'name~.'")
    paths = [Path(word) for word in arguments.runs]
    if all((path / "run.json").is_file() for path in paths):  # paths, as a run prints them at its end
        return [_run(path) for path in paths]
    with Index(arguments.runs_dir, arguments.cache) as index:
        runs = query.choose(index, arguments.runs, arguments.since, arguments.status).runs
    if not runs:
        raise ConfigError(f"sync: no run in {arguments.runs_dir} is meant.")
    return runs


def _run(path: Path) -> Run:
    values, _ = reader.read(path)
    return Run(path, path.name, values | {"status": reader.status(values)})


def _to_wandb(run: Run, arguments: argparse.Namespace) -> str:
    settings = _settings(run, arguments)
    points = _points(run)
    if points and client.has_all(run.path, settings, points[-1].position):
        return f"was there already ({len(points):,} rows)"
    sent, page = client.fill(run.path, points, settings, arguments.wait)
    return f"{sent:,} of {len(points):,} rows sent, {page}"


def _settings(run: Run, arguments: argparse.Namespace) -> WandbSettings:
    """Returns the W&B settings of the run's configuration; the command line has priority."""
    logger = reader.read_config(run.path).get("logger")
    stored = logger.get("wandb") if isinstance(logger, dict) else None
    settings = make(WandbSettings, stored if isinstance(stored, dict) else {}, "logger.wandb")
    own = {name: getattr(arguments, name) for name in ("project", "entity", "group") if getattr(arguments, name)}
    return replace(settings, **own, mode="online")


def _to_tensorboard(run: Run, _: argparse.Namespace) -> str:
    points, folder = _points(run), run.path / "tensorboard"
    there = any(folder.glob("events.out.tfevents.*")) if folder.is_dir() else False
    if there and points and marked(run.path, "tensorboard").get("position") == points[-1].position:
        return f"was there already ({len(points):,} rows)"
    # A separate process, because TensorFlow writes these files and this process does not load it.
    command = [sys.executable, "-m", "rlresearch.loggers.tensorboard", str(run.path)]
    answer = subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if answer.returncode:
        lines = answer.stderr.decode(errors="replace").strip().splitlines()
        raise RunError(lines[-1] if lines else f"its files could not be written (exit code {answer.returncode})")
    return f"{len(points):,} rows written; tensorboard --logdir {folder}"


def _points(run: Run) -> Sequence[Any]:
    if run.values.get("status") == "running":
        raise RunError("is still running; sync it when it has ended.")
    return RowFollower(run.path).rest()


def _environment() -> dict[str, str]:
    own = str(Path(rlresearch.__file__).parents[1])
    return os.environ | {"PYTHONPATH": os.pathsep.join([own, *filter(None, [os.environ.get("PYTHONPATH")])])}
