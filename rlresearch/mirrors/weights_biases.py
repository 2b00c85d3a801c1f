"""One run directory in Weights & Biases: what of it is there already, and the rest sent after it.

A run's name is its id there, and a point's position is W&B's `_step`. So a run that goes on, here or in another
process, asks the server for the last position that it has and sends what comes after it: nothing twice, nothing left
out. (Rows that a resume cut off and wrote again stay as they were sent first; they differ in `time` and speed.) Charts
have the transitions, `step`, on their axis.

W&B gets the configuration without secrets, the rows, videos and pictures; no code, no git diff, no command line, no
console output, nothing about the machine.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from rlresearch import redaction
from rlresearch.durable import hold, read_file
from rlresearch.errors import RunError
from rlresearch.mirrors import WandbSettings, mark, marked, run_id
from rlresearch.mirrors.following import Point, started
from rlresearch.rundir import RunDirectory

CONNECT_S = 10.0  # a server that has not answered by then is taken as not there
_LARGEST_CONFIG = 1 << 20  # bytes
_ENDED = {"finished": 0, "interrupted": 255}  # W&B's exit codes; all else has failed or crashed
# What would make another run of ours, or send what is nobody's business.
_NOT_OURS = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID", "WANDB_MODE")
_NOT_OURS += ("WANDB_DIR", "WANDB_TAGS", "WANDB_NOTES", "WANDB_JOB_TYPE", "WANDB_CONSOLE", "WANDB_PROGRAM")
_NOT_OURS += ("WANDB_ARGS",)


class Busy(RunError):
    """Another process is mirroring this run."""


def prepare() -> None:
    """To be called before W&B's library is loaded: nothing on the terminal, no reports of errors to its makers."""
    for name in _NOT_OURS:
        os.environ.pop(name, None)
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    logging.getLogger("wandb").setLevel(logging.CRITICAL)


class Connection:
    """A run directory's run in W&B, open until `finish` or `let_go`.

    start: the first position that it lacks. Errors: Busy; whatever W&B's library raises where the server does not
    answer within CONNECT_S or will not have us.
    """

    def __init__(self, path: Path, settings: WandbSettings, finish_s: float) -> None:
        self.path, self.settings = path, settings
        self._folder = path / "wandb"
        self._folder.mkdir(exist_ok=True)
        self._held = hold(self._folder)
        if self._held is None:
            raise Busy(f"{path} is being mirrored by another process")
        try:
            self._clear()
            self._run = self._opened(finish_s)
        except BaseException:
            self._release()
            raise
        self.start = self._run.starting_step
        self.last = self.start - 1
        self._began = started(path)

    @property
    def online(self) -> bool:
        return self.settings.mode == "online"

    @property
    def page(self) -> str | None:
        """Where a browser finds the run; None offline."""
        return self._run.url if self.online else None

    def send(self, points: Iterable[Point]) -> None:
        """Hands on the points that W&B lacks; it sends them by itself."""
        for point in points:
            if point.position > self.last:
                self._run.log(self._row(point), step=point.position)
                self.last = point.position

    def finish(self) -> None:
        """Waits until all is sent. Errors: TimeoutError."""
        record = RunDirectory(self.path).recorded()
        final = record.get("final_evaluation")
        if isinstance(final, Mapping):
            for name, value in final.items():
                self._run.summary[f"final/{name}"] = value
        self._run.finish(exit_code=_ENDED.get(record.get("status"), 1))
        self._release()

    def let_go(self) -> None:
        """Leaves the run as it is, for somebody who will send the rest."""
        with contextlib.suppress(Exception):
            self._run.finish(exit_code=1)
        self._release()

    def mark(self, complete: bool) -> None:
        """Writes into the run directory how far W&B has it."""
        place = {"server": server(), "entity": self._run.entity, "project": self.settings.project}
        place |= {"id": run_id(self.path), "page": self.page, "mode": self.settings.mode}
        mark(self.path, "wandb", place | {"position": self.last, "complete": complete})
        if complete and self.online:
            self._clear()

    def _opened(self, finish_s: float) -> Any:
        import wandb

        record = RunDirectory(self.path).recorded()
        run = wandb.init(
            mode=self.settings.mode,
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.settings.group or _population(record),
            job_type=self.settings.job_type,
            tags=list(self.settings.tags),
            id=run_id(self.path),
            name=self.path.name,
            resume="allow" if self.online else None,
            reinit="create_new",
            dir=str(self.path),
            config=_configuration(self.path, record),
            settings=_settings(wandb, finish_s, started(self.path)),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def _row(self, point: Point) -> dict[str, Any]:
        import wandb

        row = {"step": point.step} | point.values
        if point.time is not None:
            row["time"] = point.time
            row |= {} if self._began is None else {"_timestamp": self._began + point.time}
        finite = [each for each in row.get("eval/returns", ()) if math.isfinite(each)]
        if finite:
            row["eval/return_histogram"] = wandb.Histogram(finite)
        if point.video is not None and point.video.is_file():
            row["eval/video"] = wandb.Video(str(point.video), caption=f"step {point.step:,}", format="mp4")
        return row

    def _clear(self) -> None:
        """What W&B keeps beside the rows can be made again from them."""
        for each in self._folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)

    def _release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def server() -> str:
    """Where W&B is."""
    return os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")


def has_all(path: Path, settings: WandbSettings, last: int) -> bool:
    """Whether the run directory says that W&B has it up to the position `last`."""
    told = marked(path, "wandb")
    same = (told.get("server"), told.get("project"), told.get("mode")) == (server(), settings.project, settings.mode)
    same = same and settings.entity in (None, told.get("entity"))
    return bool(same and told.get("complete") and told.get("position") == last)


def _population(record: Mapping[str, Any]) -> str | None:
    """The members of a population stand together under the first one's name."""
    members = (record.get("population") or {}).get("members") or [None]
    return members[0]


def _configuration(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    try:
        config = yaml.safe_load(read_file(path / "config.yaml", _LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunError(f"{path / 'config.yaml'} cannot be read: {error}") from error
    about = {name: record.get(name) for name in ("algo", "env", "device", "python", "packages", "git", "choices")}
    return redaction.settings((config if isinstance(config, dict) else {}) | {"run": about})


def _settings(wandb: Any, finish_s: float, began: float | None) -> Any:
    return wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        finish_timeout=max(finish_s, 1.0),
        finish_timeout_raises=True,
        host="",
        init_timeout=CONNECT_S,
        program="",
        save_code=False,
        silent=True,
        symlink=False,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
        x_start_time=began,
    )
