"""Files that survive a crash, and that are safe to read.

A write is on the disk when the call returns. A read accepts plain files only. It follows no link, because the link
may lead out of the run, and it opens no pipe, because it might wait forever.
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

TEMPORARY = ".tmp-"  # the beginning of the name of a file or folder that is unfinished, or about to be removed


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file and flushes it to the disk. Errors: OSError, also where the file exists."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(file, content)
        os.fsync(file)
    finally:
        os.close(file)


def write_all(file: int, content: bytes) -> None:
    """Writes every byte of `content` to the open file; the system may need several calls. Errors: OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def read_file(path: Path, most: int) -> bytes:
    """Returns the first `most` bytes of a plain file; a shorter file gives fewer bytes.

    Errors: OSError; ValueError where the path is not a plain file.
    """
    with open_file(path) as reader:
        return reader.read(min(most, os.fstat(reader.fileno()).st_size + 1))  # a buffer of `most` may be too large


def open_file(path: Path) -> BinaryIO:
    """Opens a plain file for reading. Errors: OSError; ValueError where the path is not a plain file."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise ValueError("is not a plain file")
    return os.fdopen(file, "rb")


def sync_folder(folder: Path) -> None:
    """Flushes a folder to the disk: the names of its files survive a power loss. Errors: OSError."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_file(path: Path) -> None:
    """Flushes a file to the disk, also what other processes wrote to it. Errors: OSError."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def temporary(folder: Path) -> Path:
    """Returns a random path in `folder` for an unfinished file or folder."""
    return folder / f"{TEMPORARY}{secrets.token_hex(4)}"


def discard(path: Path) -> None:
    """Removes a file or a folder. It gets a temporary name first, so a crash leaves no half folder under its own name.

    A file that cannot be removed stays; this is not an error.
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
    """Removes the temporary files that a killed process left in these folders."""
    for folder in folders:
        for left in folder.glob(f"{TEMPORARY}*"):
            discard(left)


def lock(folder: Path) -> int | None:
    """Locks a folder for this process. Returns a file number, or None where another process holds the lock.

    Closing the file number releases the lock. On a file system without locks every process gets one.
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
