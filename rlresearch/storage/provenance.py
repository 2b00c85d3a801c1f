"""How and by which code a run was started, for its run.json; secrets left out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlresearch import __version__
from rlresearch.errors import command_line
from rlresearch.storage.redaction import redacted

_GIT_PATIENCE_S = 2.0
_PACKAGES = ("tensorflow", "keras", "hydra-core", "omegaconf", "gymnasium", "numpy", "rlresearch")


def provenance(argv: Sequence[str], overrides: Sequence[str]) -> dict[str, Any]:
    """What run.json says about how and by which code a run was started; pass it to `record`.

    command, overrides (both `redacted`), host, pid, python, packages {name: version or null}, git {commit, dirty}
    of the working directory and package_git of this package; null where there is no commit. `dirty` means
    changes to tracked files, and is null where git took more than 2 s.
    """
    package = Path(__file__).parent
    # Installed inside somebody else's repository, the package is no part of that repository's commit.
    own_repository = _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    return {
        "command": command_line(redacted(argv)),
        "overrides": redacted(overrides),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "python": platform.python_version(),
        "packages": versions(),
        "git": _commit(Path(".")),
        "package_git": _commit(package) if own_repository else None,
    }


def versions() -> dict[str, str | None]:
    """The packages that a run's numbers depend on."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return __version__ if package == "rlresearch" else None  # run from a checkout


def _commit(folder: Path) -> dict[str, Any] | None:
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None; it takes no locks (`status` would write the index) and starts no monitor."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        answer = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, timeout=_GIT_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else None
