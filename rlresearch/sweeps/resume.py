"""`resume=SWEEP`: runs the remaining jobs of a sweep, with its launcher or another one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlresearch.config.changes import Change
from rlresearch.config.dotted import flattened
from rlresearch.errors import ConfigError, allowed_hint, format_value
from rlresearch.storage.redaction import MASK
from rlresearch.sweeps import ledger
from rlresearch.sweeps.controller import RETRIED, Sweep
from rlresearch.sweeps.launchers.basic import check_outward, create_launcher
from rlresearch.training.resume import named_packages

ALLOWED = ("retry", "packages", "hydra/launcher", "hydra.launcher.SETTING")


def resume_sweep(changes: Sequence[Change], folder: str | None, argv: Sequence[str]) -> None:
    """Runs the remaining jobs of the sweep at `resume` in the changes.

    Finished jobs do not run again. Interrupted jobs resume from their checkpoints. With retry=failed, jobs that failed,
    were killed or timed out run again. Errors: ConfigError where this is impossible; RunError where a job does not
    finish.
    """
    asked = {change.key: change.value for change in changes}
    path = Path(str(asked.pop("resume"))).absolute()
    retry = str(asked.pop("retry", "none")).lower()
    if retry not in RETRIED:
        raise ConfigError(f"retry={format_value(retry)}: must be one of {', '.join(RETRIED)}.")
    packages = ["rlresearch", *named_packages(asked.pop("packages", []), folder)]
    account = ledger.read(path)
    header = account.header
    secrets = {key: asked.pop(key) for key in _masked(account) if key in asked}
    name, settings = _launcher(header, asked)
    if (sweeper := header.get("sweeper", "basic")) != "basic":
        raise ConfigError(f"resume={path}: was proposed by hydra/sweeper={sweeper}, which goes on by itself.")
    sweep = Sweep(create_launcher(name, settings), name, str(path.parent), argv, folder, packages)
    sweep.secrets = secrets
    try:
        sweep.reopen(path, retry)
        sweep.run_rest()
        sweep.finish()
    finally:
        sweep.close()


def _masked(account: ledger.SweepState) -> set[str]:
    """Returns the keys whose values the ledger leaves out because they are secrets."""
    own = [*(flattened(base.config) for base in account.bases), *(job.values for job in account.jobs)]
    return {key for values in own for key, value in values.items() if MASK in str(value)}


def _launcher(header: dict, asked: dict) -> tuple[str, dict]:
    """Returns the name and the settings of the launcher: the stored ones, changed by the ones in `asked`."""
    chosen = asked.pop("hydra/launcher", None)
    own = {
        key.removeprefix("hydra.launcher."): asked.pop(key) for key in list(asked) if key.startswith("hydra.launcher.")
    }
    for key, value in asked.items():
        raise ConfigError(
            f"{key}={format_value(value)}: cannot be changed while a sweep goes on, its jobs are as they were planned"
            f"{allowed_hint(key, ALLOWED)}"
        )
    if chosen is None or chosen == header.get("launcher"):
        name, stored = str(header.get("launcher", "basic")), header.get("settings", {})
        check_outward(name, stored, own)
        return name, {**stored, **own}
    return str(chosen), own
