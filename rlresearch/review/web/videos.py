"""Videos of a run: the MP4 files in its folder `videos`. Names come from a listing, never from a request."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

FOLDER = "videos"
_MOST = 100  # videos of a run; only the newest are listed
_NUMBERS = re.compile(r"(\d+)")


def names(run: Path) -> list[str]:
    """Returns the names of a run's videos, sorted by the numbers in them; without links, pipes and devices."""
    folder = f"{run}/{FOLDER}"
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return []
        with os.scandir(folder) as entries:
            found = [entry.name for entry in entries if _is_video(entry)]
    except OSError:
        return []
    return sorted(found, key=_in_order)[-_MOST:]


def open_video(run: Path, name: str) -> tuple[int, int]:
    """Opens a video that `names` returned. Returns its file number and its size in bytes.

    Errors: OSError, also where the name is no longer a plain file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(run / FOLDER, flags | os.O_DIRECTORY)
    try:
        file = os.open(name, flags | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode):
        os.close(file)
        raise OSError(f"{name} is no file")
    return file, about.st_size


def _is_video(entry: os.DirEntry[str]) -> bool:
    fit = entry.name.endswith(".mp4") and entry.name.isprintable() and not entry.name.startswith(".")
    return fit and entry.is_file(follow_symlinks=False)


def _in_order(name: str) -> list[tuple[int, int, str]]:
    parts = _NUMBERS.split(name)
    return [(1, int(part), "") if part.isascii() and part.isdigit() else (0, 0, part) for part in parts]
