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
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import requests

from rlresearch.errors import RunError, one_line
from rlresearch.loggers.tail import LoggedRow, started
from rlresearch.loggers.wandb.figure import learning_curve
from rlresearch.loggers.wandb.settings import WandbSettings, configuration, mark, marked, run_id
from rlresearch.storage import redaction
from rlresearch.storage.atomic import lock
from rlresearch.storage.run_directory import RunDirectory

CONNECT_S = 10.0  # a server that has not answered by then is taken as not there
_ENDED = {"finished": 0, "interrupted": 255}  # W&B's exit codes; all else has failed or crashed
# What would make another run of ours, or send what is nobody's business.
_NOT_OURS: tuple[str, ...] = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID")
_NOT_OURS += ("WANDB_DIR", "WANDB_TAGS", "WANDB_NOTES", "WANDB_JOB_TYPE", "WANDB_CONSOLE", "WANDB_PROGRAM")
_NOT_OURS += ("WANDB_MODE", "WANDB_DISABLED", "WANDB_ARGS")  # `settings.allowed` has listened to the first two


class Busy(RunError):
    """Another process is mirroring this run."""


class NoAnswer(RunError):
    """W&B does not answer, or not in time."""


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
        self._held = lock(self._folder)
        if self._held is None:
            raise Busy(f"{path} is being mirrored by another process")
        try:
            self._clear()
            self._run = self._opened(finish_s)
        except BaseException:
            self.release()
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

    def send(self, points: Iterable[LoggedRow]) -> None:
        """Hands on the points that W&B lacks; it sends them by itself."""
        for point in points:
            if point.position > self.last:
                self._run.log(self._row(point), step=point.position)
                self.last = point.position

    def send_last(self, points: Sequence[LoggedRow], every: Sequence[LoggedRow]) -> None:
        """As `send`, and with the last row the learning curve of `every` point, as a picture."""
        import wandb

        lacking = [point for point in points if point.position > self.last]
        if lacking:
            path = self._folder / "learning_curve.png"
            if learning_curve(every, path):
                shown = lacking[-1].values | {"plots/learning_curve": wandb.Image(str(path))}
                lacking[-1] = lacking[-1]._replace(values=shown)
            self.send(lacking)

    def finish(self) -> None:
        """Waits until all is sent. Errors: TimeoutError."""
        record = RunDirectory(self.path).recorded()
        final = record.get("final_evaluation")
        if isinstance(final, Mapping):
            for name, value in final.items():
                self._run.summary[f"final/{name}"] = value
        self._run.finish(exit_code=_ENDED.get(str(record.get("status")), 1))
        self.release()

    def let_go(self) -> None:
        """Leaves the run as it is, for somebody who will send the rest."""
        with contextlib.suppress(Exception):
            self._run.finish(exit_code=1)
        self.release()

    def mark(self, complete: bool) -> None:
        """Writes into the run directory how far W&B has it."""
        place = {"server": self._server, "entity": self._run.entity, "project": self.settings.project}
        place |= {"id": run_id(self.path), "page": self.page, "mode": self.settings.mode}
        mark(self.path, "wandb", place | {"position": self.last, "complete": complete})
        if complete and self.online:
            self._clear()

    def _opened(self, finish_s: float) -> Any:
        import wandb

        self._server = _server(wandb)
        if self.online:
            _ask(self._server)
        record = RunDirectory(self.path).recorded()
        run = wandb.init(
            mode=self.settings.mode,
            project=self.settings.project,
            entity=self.settings.entity,
            group=self.settings.group or _group(record),
            job_type=self.settings.job_type,
            tags=list(self.settings.tags),
            id=run_id(self.path),
            name=self.path.name,
            resume="allow" if self.online else None,
            reinit="create_new",
            dir=str(self.path),
            config=_configuration(self.path, record),
            settings=_settings(wandb, self._server, finish_s, started(self.path)),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def _row(self, point: LoggedRow) -> dict[str, Any]:
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

    def release(self) -> None:
        """Lets others mirror the run."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def fill(path: Path, points: Sequence[LoggedRow], settings: WandbSettings, patience_s: float) -> tuple[int, str | None]:
    """Sends what W&B lacks of a run that has ended; returns how many rows that were, and its page.

    Errors: Busy; NoAnswer, also where not all has arrived within `patience_s`; RunError where W&B will not have it.
    """
    until, sent = time.monotonic() + patience_s, 0
    try:
        while True:
            connection = _connected(path, settings, until)
            lacking = [point for point in points if point.position >= connection.start]
            page = connection.page
            connection.send_last(lacking, points)
            connection.finish()
            connection.mark(complete=not lacking)  # the server itself has said so
            if not lacking:
                return sent, page
            sent = max(sent, len(lacking))
            if time.monotonic() > until:
                raise NoAnswer(f"W&B did not take every row within {patience_s:g} s; the same command sends the rest.")
    except RunError:
        raise
    except Exception as error:  # whatever W&B's library raises
        forget()
        told = one_line(redaction.text(f"{type(error).__name__}: {error}"))
        raise NoAnswer(f"W&B does not answer ({told[:200]}); the same command tries again.") from error


def _connected(path: Path, settings: WandbSettings, until: float) -> Connection:
    try:
        return Connection(path, settings, until - time.monotonic())
    except NoAnswer as error:
        raise NoAnswer(f"W&B is not there: {error}; the same command tries again.") from error


def confirmed(path: Path, settings: WandbSettings, last: int, until: float) -> bool:
    """Asks the server whether it has a run up to the position `last`; `until`: by `time.monotonic`."""
    left = until - time.monotonic()
    if left <= 0:
        return False
    again = Connection(path, settings, left)
    again.finish()
    return again.start > last


def forget() -> None:
    """Ends what W&B's library runs for this process: after a failure it takes none of its runs a second time."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown(exit_code=1)


def has_all(path: Path, settings: WandbSettings, last: int) -> bool:
    """Whether the run directory says that W&B has it up to the position `last`."""
    told = marked(path, "wandb")
    same = (told.get("project"), told.get("mode")) == (settings.project, settings.mode)
    same = same and settings.entity in (None, told.get("entity"))
    same = same and os.environ.get("WANDB_BASE_URL") in (None, told.get("server"))
    return bool(same and told.get("complete") and told.get("position") == last)


def _group(record: Mapping[str, Any]) -> str | None:
    """The runs of a sweep stand together under its name, the members of a population under the first one's."""
    sweep = (record.get("sweep") or {}).get("directory")
    if isinstance(sweep, str):
        return Path(sweep).name
    members = (record.get("population") or {}).get("members") or [None]
    return members[0]


def _configuration(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: record.get(name) for name in ("algo", "env", "device", "python", "packages", "git", "choices")}
    return redaction.settings(configuration(path) | {"run": about})


def _server(wandb: Any) -> str:
    """Where W&B is, by the environment or its own settings files."""
    return os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url


def _ask(server: str) -> None:
    """Whether somebody answers there in a sensible way. NoAnswer if not.

    W&B's own library tries for minutes, and a run that it has given up it does not take again.
    """
    try:
        asked = {"query": "query Viewer { viewer { id } }"}
        answer = requests.post(f"{server.rstrip('/')}/graphql", json=asked, timeout=CONNECT_S)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise NoAnswer(f"its server answers {answer.status_code} {answer.reason}")
        answer.json()
    except requests.exceptions.SSLError:
        return  # the library has settings of its own for that
    except (requests.exceptions.RequestException, ValueError) as error:
        raise NoAnswer(f"its server {_failing(error)}") from error


def _failing(error: Exception) -> str:
    """What a server does that does not answer; addresses, which may hold secrets, left out."""
    if isinstance(error, requests.exceptions.Timeout):
        return f"does not answer within {CONNECT_S:g} s"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "cannot be reached"
    return "answers what nobody understands"


def _settings(wandb: Any, server: str, finish_s: float, began: float | None) -> Any:
    return wandb.Settings(
        base_url=server,
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
