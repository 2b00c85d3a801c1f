"""Hydra's settings of a single run: hydra.run.dir, hydra.job.chdir and env_set, hydra/job_logging, hydra.callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobStatus, configure_log, run_job
from hydra.types import HydraContext, RunMode

from rlresearch.config import hydra_messages
from rlresearch.config.compose import Composed
from rlresearch.config.hydra_session import MAIN_CONFIG


def run_as_hydra_job(function: Callable[[], object], composed: Composed, argv: Sequence[str]) -> None:
    """Calls `function` while the Hydra settings of `composed` are in effect, as `hydra.main` would.

    Errors: ConfigError if the settings cannot take effect. Errors of `function` are raised as they are.
    """
    whole = composed.hydra_config
    whole.hydra.mode = RunMode.RUN
    try:
        configure_log(whole.hydra.hydra_logging, whole.hydra.verbose)
        callbacks = Callbacks(whole)
        callbacks.on_run_start(config=whole, config_name=MAIN_CONFIG)
        context = HydraContext(config_loader=composed.loader, callbacks=callbacks)
        returned = run_job(lambda _: function(), whole, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=whole, config_name=MAIN_CONFIG, job_return=returned)
    except Exception as error:
        raise hydra_messages.explain_hydra_failure(error, argv) from error
    if returned.status == JobStatus.FAILED:
        raise returned._return_value  # Hydra's own `return_value` would print a line of its own
