"""Facts for run.json about how a run was started and with which code; without secrets."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlresearch import __version__
from rlresearch.storage.redaction import redacted

_GIT_PATIENCE_S = 2.0
_PACKAGES = ("tensorflow", "keras", "hydra-core", "omegaconf", "gymnasium", "numpy", "rlresearch")


def provenance(argv: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns the fields of run.json that say how a run was started and with which code; pass them to `record`.

    The fields are command and overrides (both `redacted`), host, pid, python, packages {name: version or null},
    git {commit, dirty} of the working directory, and package_git of this package. git and package_git are null where
    there is no commit. `dirty` means that tracked files have changes; it is null where git took more than 2 s.
    """
    package = Path(__file__).parent
    # The package may be installed inside another project's repository; that repository's commit says nothing about it.
    own_repository = _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    return {
        "command": shlex.join(redacted(argv)),
        "overrides": redacted(overrides),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": versions(),
        "git": _commit(Path(".")),
        "package_git": _commit(package) if own_repository else None,
    }


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that can change the results of a run; None where one is missing."""
    found: dict[str, str | None] = dict.fromkeys(_PACKAGES)
    found["rlresearch"] = __version__  # in a checkout it is not installed
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _commit(folder: Path) -> dict[str, Any] | None:
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """Returns the output of a git command, or None where it fails.

    Git must not change the repository: it takes no locks (`status` would write the index) and starts no monitor.
    """
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else None
