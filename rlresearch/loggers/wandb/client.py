"""Connects a run directory to its run in Weights & Biases, and sends the points that W&B lacks.

The name of a run directory is the run's id in W&B, and the position of a point is W&B's `_step`. A resumed run asks the
server for the last position that it has, and sends only later points. So no point is missing, and none is sent twice.
If resuming removes rows and the run writes them again, W&B keeps the rows that it got first; only their `time` and
speed differ. Charts have `step`, the number of transitions, on their axis.

W&B gets the configuration without secrets, the rows, videos and pictures. It gets no code, no git diff, no command
line, no console output, and nothing about the machine.
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

CONNECT_S = 10.0  # seconds; a server that has not answered by then counts as unreachable
_ENDED = {"finished": 0, "interrupted": 255}  # W&B's exit codes; every other status means failed or crashed
# These variables would change the id of the run, or make W&B send more than described above.
_NOT_OURS: tuple[str, ...] = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_SWEEP_ID")
_NOT_OURS += ("WANDB_DIR", "WANDB_TAGS", "WANDB_NOTES", "WANDB_JOB_TYPE", "WANDB_CONSOLE", "WANDB_PROGRAM")
_NOT_OURS += ("WANDB_MODE", "WANDB_DISABLED", "WANDB_ARGS")  # `settings.allowed` has listened to the first two


class Busy(RunError):
    """Another process is sending this run to W&B."""


class NoAnswer(RunError):
    """W&B did not answer in time, or not at all."""


def prepare() -> None:
    """Configures W&B's library; call it before the import. It then prints nothing and sends no error reports."""
    for name in _NOT_OURS:
        os.environ.pop(name, None)
    os.environ |= {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    logging.getLogger("wandb").setLevel(logging.CRITICAL)


class Connection:
    """The W&B run of a run directory, open until `finish` or `abandon`.

    start: the first position that W&B lacks. finish_s: seconds that `finish` may wait. Errors: Busy; NoAnswer; errors
    of W&B's library, for example where the server refuses the login.
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
        """The URL of the run's web page; None in offline mode."""
        return self._run.url if self.online else None

    def send(self, points: Iterable[LoggedRow]) -> None:
        """Passes the points that W&B lacks to its library, which sends them in the background."""
        for point in points:
            if point.position > self.last:
                self._run.log(self._row(point), step=point.position)
                self.last = point.position

    def send_last(self, points: Sequence[LoggedRow], every: Sequence[LoggedRow]) -> None:
        """Does the same as `send`, and adds a picture of the learning curve to the last point.

        every: all points of the run, for the curve.
        """
        import wandb

        lacking = [point for point in points if point.position > self.last]
        if lacking:
            path = self._folder / "learning_curve.png"
            if learning_curve(every, path):
                shown = lacking[-1].values | {"plots/learning_curve": wandb.Image(str(path))}
                lacking[-1] = lacking[-1]._replace(values=shown)
            self.send(lacking)

    def finish(self) -> None:
        """Ends the W&B run and waits until everything is sent. Errors: TimeoutError."""
        record = RunDirectory(self.path).recorded()
        final = record.get("final_evaluation")
        if isinstance(final, Mapping):
            for name, value in final.items():
                self._run.summary[f"final/{name}"] = value
        self._run.finish(exit_code=_ENDED.get(str(record.get("status")), 1))
        self.release()

    def abandon(self) -> None:
        """Closes the connection without waiting; another process can send the missing points later."""
        with contextlib.suppress(Exception):
            self._run.finish(exit_code=1)
        self.release()

    def mark(self, complete: bool) -> None:
        """Stores in the run directory the last position that W&B has. complete: whether W&B has every point."""
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
        """Removes the files of W&B's library from the run directory; they can be made again from the rows."""
        for each in self._folder.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each, ignore_errors=True)
            else:
                each.unlink(missing_ok=True)

    def release(self) -> None:
        """Releases the lock, so that another process can send this run."""
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


def fill(path: Path, points: Sequence[LoggedRow], settings: WandbSettings, patience_s: float) -> tuple[int, str | None]:
    """Sends the points that W&B lacks of a run that has ended. Returns how many they were, and the URL of its page.

    Errors: Busy; NoAnswer, also where some points have not arrived after `patience_s` seconds; RunError.
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
    except Exception as error:  # W&B's library raises many kinds of errors
        forget()
        told = one_line(redaction.text(f"{type(error).__name__}: {error}"))
        raise NoAnswer(f"W&B does not answer ({told[:200]}); the same command tries again.") from error


def _connected(path: Path, settings: WandbSettings, until: float) -> Connection:
    try:
        return Connection(path, settings, until - time.monotonic())
    except NoAnswer as error:
        raise NoAnswer(f"W&B is not there: {error}; the same command tries again.") from error


def confirmed(path: Path, settings: WandbSettings, last: int, until: float) -> bool:
    """Asks the server whether it has all points up to the position `last`. until: a deadline of `time.monotonic`."""
    left = until - time.monotonic()
    if left <= 0:
        return False
    again = Connection(path, settings, left)
    again.finish()
    return again.start > last


def forget() -> None:
    """Shuts down W&B's library in this process. Without this, a run that failed once cannot be opened again."""
    import wandb

    with contextlib.suppress(Exception):
        wandb.teardown(exit_code=1)


def has_all(path: Path, settings: WandbSettings, last: int) -> bool:
    """Returns whether, according to the run directory, W&B has all points up to the position `last`."""
    told = marked(path, "wandb")
    same = (told.get("project"), told.get("mode")) == (settings.project, settings.mode)
    same = same and settings.entity in (None, told.get("entity"))
    same = same and os.environ.get("WANDB_BASE_URL") in (None, told.get("server"))
    return bool(same and told.get("complete") and told.get("position") == last)


def _group(record: Mapping[str, Any]) -> str | None:
    """Returns the group in W&B: the sweep's name, or the name of the first member of a population, or None."""
    sweep = (record.get("sweep") or {}).get("directory")
    if isinstance(sweep, str):
        return Path(sweep).name
    members = (record.get("population") or {}).get("members") or [None]
    return members[0]


def _configuration(path: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    about = {name: record.get(name) for name in ("algo", "env", "device", "python", "packages", "git", "choices")}
    return redaction.settings(configuration(path) | {"run": about})


def _server(wandb: Any) -> str:
    """Returns W&B's URL, from the environment or from W&B's own settings files."""
    return os.environ.get("WANDB_BASE_URL") or wandb.setup().settings.base_url


def _ask(server: str) -> None:
    """Tests whether a W&B server answers. Errors: NoAnswer.

    W&B's own library would try for minutes, and then refuse to open the same run again.
    """
    try:
        asked = {"query": "query Viewer { viewer { id } }"}
        answer = requests.post(f"{server.rstrip('/')}/graphql", json=asked, timeout=CONNECT_S)
        if answer.status_code == 429 or answer.status_code >= 500:
            raise NoAnswer(f"its server answers {answer.status_code} {answer.reason}")
        answer.json()
    except requests.exceptions.SSLError:
        return  # W&B's library has its own settings for certificates
    except (requests.exceptions.RequestException, ValueError) as error:
        raise NoAnswer(f"its server {_failing(error)}") from error


def _failing(error: Exception) -> str:
    """Returns the reason without any address, because an address may contain a secret."""
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
