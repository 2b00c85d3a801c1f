"""Disks that fail and power that goes, for tests of what is written: the calls of `os` are tampered with."""

import io
import os
from contextlib import contextmanager
from pathlib import Path

import pytest

CALLS = ("open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir")


class PowerGone(BaseException):
    """The machine stops here: nothing after it happens, no cleaning up either."""


class Disk:
    """Counts calls that change something; at number `at` (from 0) `happens(name)`, which may raise.

    Knows which files and names have reached the disk: those for which fsync was called since.
    """

    def __init__(self, at=None, happens=None, once=True):
        self.calls, self.at, self.happens, self.once = 0, at, happens, once
        self.unsynced, self.renames = {}, []
        self._paths = {}

    def passes(self, name):
        number, self.calls = self.calls, self.calls + 1
        if self.at is not None and (number == self.at or (number > self.at and not self.once)):
            self.happens(name)

    def after_power_loss(self):
        """What was never synced is lost: half of each file's new bytes, and every new name."""
        for path, size in self.unsynced.items():
            if path.exists():
                os.truncate(path, size + (path.stat().st_size - size) // 2)
        for old, new in reversed(self.renames):
            if new.exists() and not old.exists():
                os.rename(new, old)


@contextmanager
def tampered(disk):
    """The calls of `os` in CALLS go through `disk`, those that only read apart."""
    real = {name: getattr(os, name) for name in CALLS}

    def opened(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            disk.passes("open")
        file = real["open"](path, flags, *rest, **more)
        disk._paths[file] = Path(path)
        return file

    def write(file, content):
        disk.passes("write")
        path = disk._paths.get(file)
        if path is not None:
            disk.unsynced.setdefault(path, os.fstat(file).st_size)
        return real["write"](file, content)

    def fsync(file):
        disk.passes("fsync")
        path = disk._paths.get(file)
        disk.unsynced.pop(path, None)
        disk.renames = [pair for pair in disk.renames if pair[1].parent != path]

    def rename(old, new, **more):
        disk.passes("rename")
        real["rename"](old, new, **more)
        disk.renames.append((Path(old), Path(new)))
        moved = {path: size for path, size in disk.unsynced.items() if Path(old) in (path, *path.parents)}
        for path, size in moved.items():
            del disk.unsynced[path]
            disk.unsynced[Path(new) / path.relative_to(old)] = size

    def other(name):
        def call(*arguments, **more):
            disk.passes(name)
            return real[name](*arguments, **more)

        return call

    own = {"open": opened, "write": write, "fsync": fsync, "rename": rename}
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, own.get(name) or other(name))
        yield disk


@contextmanager
def read_only(folder):
    """Nothing below `folder`, nor the folder, takes a file, whoever asks: somebody else's, or on a disk mounted so."""
    real_open, real_file, real_mkdir = os.open, io.open, os.mkdir

    def refuse(path):
        if Path(folder) in (Path(path).absolute(), *Path(path).absolute().parents):
            raise PermissionError(13, "Permission denied", str(path))

    def opened(path, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *rest, **more)

    def file(path, mode="r", *rest, **more):
        if not isinstance(path, int) and set(mode) & set("wax+"):
            refuse(path)
        return real_file(path, mode, *rest, **more)

    def mkdir(path, *rest, **more):
        refuse(path)
        real_mkdir(path, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opened)
        patch.setattr(io, "open", file)
        patch.setattr("builtins.open", file)
        patch.setattr(os, "mkdir", mkdir)
        yield
