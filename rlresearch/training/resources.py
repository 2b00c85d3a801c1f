"""What a run will need of memory and disk, as far as it is known before TensorFlow: replay, checkpoints, logs.

Parameters and moments are not counted. Networks have no size before they are built, and a replay that could fill the
memory is much larger.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from rlresearch.buffer_contract import Sized
from rlresearch.errors import ConfigError, format_value
from rlresearch.runners import Population
from rlresearch.storage.tensor_files import FILES_OF_A_RING
from rlresearch.training.experiment import Plan
from rlresearch.types import EnvSpec

FLOAT, FLAG = 4, 1  # bytes
ROW_OF_METRICS, ROW_OF_EVALUATION, ONE_EPISODE = 700, 50, 24  # bytes of JSON, about


class Footprint(NamedTuple):
    """In bytes, all members together. replay: in memory; checkpoints, logs: on the disk, at most."""

    replay: int
    checkpoints: int
    logs: int


def footprint(plan: Plan) -> Footprint:
    """What a run needs from its beginning to its end."""
    steps, saving, evaluation = plan.settings.total_steps, plan.checkpoint, plan.eval
    members = len(plan.runner.of(plan.settings.seed)) if isinstance(plan.runner, Population) else 1
    row = row_bytes(plan.task.spec)
    buffer = plan.trainer.buffer
    if isinstance(buffer, Sized):
        growing, rewritten = buffer.nbytes(row)
    else:  # it does not say so: with a capacity of its own to set, it has so many rows
        settable = any(each.name == "capacity" for each in fields(buffer))  # type: ignore[arg-type]  # a dataclass
        growing, rewritten = 0, buffer.capacity * row if settable else 0

    checkpoints = 0
    if saving.keep_last:
        kept = saving.keep_last + saving.keep_best + 1  # one is being written
        if saving.keep_every is not None and saving.every_steps is not None:
            kept += steps // (saving.every_steps * saving.keep_every)
        checkpoints = min(steps * row, growing) * (FILES_OF_A_RING + 1) // FILES_OF_A_RING + kept * rewritten

    rows = steps // (plan.logger.every_steps or steps) + 1
    evaluations = steps // evaluation.every_steps if evaluation.every_steps else 0
    episodes = evaluations * evaluation.episodes + evaluation.final_episodes
    logs = rows * ROW_OF_METRICS + (evaluations + 1) * ROW_OF_EVALUATION + episodes * ONE_EPISODE
    return Footprint(members * (growing + rewritten), members * checkpoints, members * logs)


def row_bytes(spec: EnvSpec) -> int:
    """Of one stored transition: two observations, an action, a reward, two flags."""
    action = 1 if hasattr(spec.action_space, "n") else math.prod(spec.action_space.shape)
    return FLOAT * (2 * math.prod(spec.observation_space.shape) + action + 1) + 2 * FLAG


def check_room(plan: Plan) -> None:
    """ConfigError where memory or disk cannot hold what the run will need."""
    need, free = footprint(plan), free_memory()
    if free is not None and need.replay > free:
        seeds = plan.runner.of(plan.settings.seed) if isinstance(plan.runner, Population) else None
        members = "" if seeds is None else f" for {len(seeds)} members"
        raise ConfigError(
            f"buffer.capacity={plan.trainer.buffer.capacity}: needs {_told(need.replay)} of memory{members}, "
            f"{_told(free)} are free; lower it."
        )
    runs_dir, written = Path(plan.settings.runs_dir).absolute(), need.checkpoints + need.logs
    folder = next(each for each in (runs_dir, *runs_dir.parents) if each.exists())
    if written > (free := shutil.disk_usage(folder).free):
        raise ConfigError(
            f"runs_dir={format_value(plan.settings.runs_dir)}: the run may write {_told(written)} "
            f"(replay in checkpoints {_told(need.checkpoints)}, logs {_told(need.logs)}), {_told(free)} are free "
            "there; choose another folder, lower buffer.capacity, or have no checkpoints with checkpoint=none."
        )


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that this process could still take, of the machine and of its control group; None where it is unknown."""
    free = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or one without a limit, which says "max"
        pass
    return max(min(free), 0) if free else None


def _told(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
