"""Files that a crash, or somebody else's hand, cannot turn into something else.

What is written here is on the disk when the call returns; what is read here is a plain file where it is said to
be: no link is followed out of a run, no pipe is waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"  # how names begin of what is not published yet, or is no more


def write_file(path: Path, content: bytes) -> None:
    """Writes a file that must not exist yet, and brings it to the disk. Errors: OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Every byte of `content`, however many calls it takes. Errors: OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def read_file(path: Path, most: int) -> bytes:
    """The first `most` bytes of a regular file, fewer where it is shorter.

    Errors: OSError; ValueError where it is no regular file.
    """
    with open_file(path) as reader:
        return reader.read(min(most, os.fstat(reader.fileno()).st_size + 1))  # a buffer of `most` may be too large


def open_file(path: Path) -> BinaryIO:
    """A regular file, to be read. Errors: OSError; ValueError where it is no regular file."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("is not a plain file")
    return os.fdopen(file, "rb")


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk. Errors: OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_file(path: Path) -> None:
    """Brings what was written to a file, by whomever, to the disk. Errors: OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def temporary(folder: Path) -> Path:
    """A name in `folder` for something not to be published yet."""
    return folder / f"{TEMPORARY}{secrets.token_hex(4)}"


def discard(path: Path) -> None:
    """Removes a file or folder; a crash in between leaves it with a temporary name, never half under its own.

    What cannot be removed stays, without an error.
    """
    doomed = path
    with contextlib.suppress(OSError):
        if not path.name.startswith(TEMPORARY):
            doomed = temporary(path.parent)
            os.rename(path, doomed)
            sync_folder(path.parent)
        if doomed.is_dir() and not doomed.is_symlink():
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            doomed.unlink()


def remove_leftovers(*folders: Path) -> None:
    """Removes what a process was killed over: not yet published, or not wholly removed."""
    for folder in folders:
        for left in folder.glob(f"{TEMPORARY}*"):
            discard(left)


def lock(folder: Path) -> int | None:
    """Keeps a folder for this process, until the file number returned is closed; None where another one has it.

    On a file system that knows no locks everybody gets it.
    """
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        pass
    return file
