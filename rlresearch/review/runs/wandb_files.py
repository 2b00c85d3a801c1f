"""Reads the rows of W&B's offline files (.wandb) with W&B's own command `wandb leet inspect`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlresearch.errors import RunError, one_line

_STEPS = ("step", "global_step", "_step")  # of our runs, of Stable-Baselines3 through TensorBoard, of W&B itself
_INCOMPLETE = "incomplete .wandb file"  # W&B's message about the file of a killed run; its rows are still usable


class History(NamedTuple):
    """One row. wall_time: seconds since 1970, or None. values: numbers and lists of numbers, by name."""

    step: int
    wall_time: float | None
    values: dict[str, Any]


def read(path: Path) -> tuple[dict[str, Any], list[History]]:
    """Returns the configuration and the rows of a file. Errors: RunError where W&B cannot read it."""
    config: dict[str, Any] = {}
    rows = []
    for record in _records(path):
        if record.get("type") == "run":
            config |= (record["run"].get("config") or {}).get("update") or {}
        elif record.get("type") == "history":
            item = record["history"].get("item") or {}
            step = next((item[name] for name in _STEPS if isinstance(item.get(name), int | float)), None)
            if step is not None:
                rows.append(History(int(step), _number(item.get("_timestamp")), _values(item)))
    return config, rows


def _records(path: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false"}
    try:
        answer = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        complaint = answer.stderr.decode(errors="replace")
        records = [json.loads(line) for line in answer.stdout.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: W&B's reader says nothing that can be read: {error}") from error
    if not records or (answer.returncode and _INCOMPLETE not in complaint):
        last = complaint.strip().splitlines()[-1:] or ["it holds no records"]
        raise RunError(f"{path}: W&B cannot read it: {one_line(last[0])}")
    yield from (record for record in records if isinstance(record, dict))


def _values(item: Mapping[str, Any]) -> dict[str, Any]:
    """Returns numbers and lists of numbers by name; nested names have dots; pictures and other media are left out."""
    media = {name.removesuffix("._type") for name in item if name.endswith("._type")}
    found: dict[str, Any] = {}
    for name, value in item.items():
        if name.startswith("_") or name.rpartition(".")[0] in media:
            continue
        numbers = [_number(each) for each in value] if isinstance(value, list) else _number(value)
        if numbers is not None and numbers != [] and not (isinstance(numbers, list) and None in numbers):
            found[name] = numbers
    return found


def _number(value: Any) -> float | None:
    """Returns a number, also for W&B's texts for NaN and infinity; None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.get(str(value))
