"""Videos of evaluation episodes: replays an episode in an environment that renders, and writes an MP4 file.

The seed and the actions define an episode. A replay uses no evaluation environment, no policy and no random key, so a
run with videos has the same numbers as one without.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import gymnasium as gym
import numpy as np

from rlresearch.envs.checked import CheckedEnv
from rlresearch.envs.closing import close
from rlresearch.envs.task import Task
from rlresearch.errors import ConfigError, RunError, describe_error, one_line
from rlresearch.evaluation.evaluator import LONGEST, Episode
from rlresearch.storage.run_directory import video_of

_FRAMES_A_SECOND = 30  # where the environment does not say
_log = logging.getLogger("rlresearch.evaluation.video")


class Recorder:
    """Records videos of the first episode of evaluations into the run directories `folders`, one per member.

    The first video that fails causes a warning; the run continues. check: called between frames, may raise.
    """

    def __init__(self, task: Task, folders: Sequence[Path], check: Callable[[], None] = lambda: None) -> None:
        self._task, self._folders, self._check = task, list(folders), check
        self._warned = False

    def record(self, step: int, episodes: Sequence[Episode | None], active: Sequence[bool]) -> None:
        """Writes RUN/videos/step_000000005000.mp4 for each member that is still active."""
        for folder, episode, on in zip(self._folders, episodes, active, strict=True):
            try:
                if on and episode is not None:
                    record(self._task, episode, video_of(folder, step), self._check)
            except Exception as error:  # noqa: BLE001 (whatever drawing an environment does; the run is worth more)
                if not self._warned:
                    self._warned = True
                    known = isinstance(error, RunError | ConfigError | OSError)
                    why = one_line(str(error) if known else describe_error(error))
                    _log.warning("a video could not be made: %s. The run goes on.", why)


def record(task: Task, episode: Episode, path: Path, check: Callable[[], None] = lambda: None) -> None:
    """Writes an episode to an MP4 file, whole or not at all. Errors: RunError, ConfigError, OSError.

    It warns where the replay gives another return than the evaluation.
    """
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.mp4")
    env = CheckedEnv(task.make(render_mode="rgb_array"), task.id)
    try:
        returned = write_video(fresh, env, episode, check)
        os.replace(fresh, path)
    except gym.error.Error as error:
        raise RunError(f"environment '{task.id}' cannot be rendered: {error}") from error
    finally:
        env.close()
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    if returned is not None and returned != episode.total:
        _log.warning("%s shows another episode than the one evaluated: %s does not repeat itself", path, task.id)


def check_rendering(task: Task, where: str) -> None:
    """ConfigError, about the setting `where`, unless a frame can be drawn and videos can be written here."""
    _without_screen()
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ConfigError(f"{where}: needs imageio-ffmpeg ({error}); pip install 'rlresearch[video]'.") from error
    made = task.make()
    modes = list(made.metadata.get("render_modes") or ())
    close(made, task.id)
    if "rgb_array" not in modes:
        only = f"only {', '.join(map(str, modes))}" if modes else "nothing at all"
        raise ConfigError(f"{where}: {task.id} cannot draw pictures (rgb_array), {only}; leave it out.")
    try:
        env = task.make(render_mode="rgb_array")
        try:
            env.reset(seed=0)
            frame = env.render()
        finally:
            close(env, task.id)
    except Exception as error:  # whatever an environment does that lacks what it draws with
        hint = "pip install 'rlresearch[video]', or leave it out."
        raise ConfigError(f"{where}: {task.id} cannot be drawn: {one_line(str(error))}; {hint}") from error
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3 and frame.shape[2] == 3):
        what = f"shape {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise ConfigError(f"{where}: {task.id} draws {what}, not [height, width, 3]; leave it out.")


def _without_screen() -> None:
    """Tells drawing libraries to work without a screen where there is none, and not to print anything."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("MUJOCO_GL", "egl")


def write_video(path: Path, env: CheckedEnv, episode: Episode, check: Callable[[], None]) -> float | None:
    """Writes the video. Returns the return of the episode, or None where the video shows only its beginning."""
    import imageio_ffmpeg

    frames = _frames(env, episode, check)
    shown, _ = next(frames)
    size = shown.shape[1], shown.shape[0]
    rate = env.metadata.get("render_fps") or _FRAMES_A_SECOND
    writer = imageio_ffmpeg.write_frames(str(path), size, fps=rate, macro_block_size=2, ffmpeg_log_level="error")
    total: float | None = 0.0
    try:
        writer.send(None)
        writer.send(np.ascontiguousarray(shown, np.uint8))
        for frame, total in frames:  # noqa: B007 (the last total is asked for)
            writer.send(np.ascontiguousarray(frame, np.uint8))
    finally:
        writer.close()
    return total if len(episode.actions) <= LONGEST else None


def _frames(env: CheckedEnv, episode: Episode, check: Callable[[], None]) -> Iterator[tuple[np.ndarray, float]]:
    """Yields (frame, return so far) for each step."""
    env.reset(seed=episode.seed)
    total = 0.0
    yield cast(np.ndarray, env.render()), total  # as `rgb_array` promises
    for action in episode.actions[:LONGEST]:
        check()
        _, reward, terminated, truncated, _ = env.step(action)
        total += reward
        yield cast(np.ndarray, env.render()), total
        if terminated or truncated:
            break
