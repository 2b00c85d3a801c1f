"""The launchers and the basic sweeper of `rlresearch.sweeps`, as Hydra's plugins.

Hydra takes plugins from this namespace alone and imports each module of it at every start, so this one stays light.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf


class _LedgerLauncher(Launcher):
    """The launcher `NAME`, with the settings in `conf/hydra/launcher`. `task_function.argv` is the command."""

    NAME: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        self._settings = {key: _plain(value) for key, value in settings.items()}

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        from rlresearch.config.hydra_session import config_dir_of
        from rlresearch.sweeps.controller import Sweep
        from rlresearch.sweeps.launchers.basic import create_launcher

        self.sweep = Sweep(
            create_launcher(self.NAME, self._settings),
            self.NAME,
            config.hydra.sweep.dir,
            task_function.argv,
            config_dir_of(config),
            sweeper=config.hydra.runtime.choices["hydra/sweeper"],
            arguments=list(config.hydra.overrides.task),
        )

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs a batch. A job that did not finish is FAILED, and its `return_value` raises."""
        jobs = self.sweep.launch([list(each) for each in job_overrides], initial_job_idx)
        return [_returned(job) for job in jobs]

    def adopt(self, folder: Path, storage: str, trials: Collection[int]) -> int:
        """See `Sweep.adopt`."""
        return self.sweep.adopt(folder, storage, trials)


def _returned(job: Any) -> JobReturn:
    from rlresearch.errors import RunError
    from rlresearch.sweeps.ledger import DONE

    returned = JobReturn(overrides=job.overrides, task_name="rlresearch", working_dir=str(job.run))
    if job.status in DONE:
        returned.status, returned.return_value = JobStatus.COMPLETED, job.objective
    else:
        returned.status, returned.return_value = JobStatus.FAILED, RunError(f"{job.status}: {job.reason}")
    return returned


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


class Basic(_LedgerLauncher):
    """`hydra/launcher=basic`: one job after the other, in this process."""

    NAME = "basic"


class Fused(_LedgerLauncher):
    """`hydra/launcher=fused`: jobs as members of one compiled program."""

    NAME = "fused"


class Local(_LedgerLauncher):
    """`hydra/launcher=local`: each job in a process of its own, several at a time."""

    NAME = "local"


class Ray(_LedgerLauncher):
    """`hydra/launcher=ray`: jobs as tasks of a Ray cluster."""

    NAME = "ray"


class SubmititLocal(_LedgerLauncher):
    """`hydra/launcher=submitit_local`: jobs as submitit's local processes."""

    NAME = "submitit_local"


class SubmititSlurm(_LedgerLauncher):
    """`hydra/launcher=submitit_slurm`: jobs of a Slurm cluster."""

    NAME = "submitit_slurm"


class Product(Sweeper):
    """Every combination of the values on the command line; `hydra/sweeper=basic`.

    plan_only: print the jobs and how they would run, and run none. params: further values by key, as a configuration
    file has them; what the command line says of a key wins. others: settings that there are not.
    """

    def __init__(self, plan_only: bool = False, params: Any = None, **others: Any) -> None:
        self._plan_only, self._params, self._others = plan_only, _plain(params), others

    def setup(self, *, hydra_context: Any, task_function: Any, config: DictConfig) -> None:
        """Makes the launcher. Hydra calls this before `sweep`."""
        from hydra.core.plugins import Plugins

        from rlresearch.config.hydra_session import config_dir_of

        self._config_dir = config_dir_of(config)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs all jobs. RunError at the end if one did not finish."""
        from rlresearch.config.compose import as_hydra_takes
        from rlresearch.config.overrides import sweep_jobs, with_params
        from rlresearch.errors import ConfigError, allowed_hint, format_value
        from rlresearch.sweeps.jobs import Composer, check

        if not isinstance(self._plan_only, bool):
            raise ConfigError(f"hydra.sweeper.plan_only={self._plan_only}: must be true or false.")
        for key, value in self._others.items():
            told = f"hydra.sweeper.{key}={format_value(_plain(value))}: hydra/sweeper=basic has no such setting"
            raise ConfigError(f"{told}{allowed_hint(key, ('plan_only', 'params'))}")
        jobs = sweep_jobs(with_params(self._params, arguments, self._config_dir), self._config_dir)
        if not isinstance(self._launcher, _LedgerLauncher):  # another package's: it keeps no ledger
            composer = Composer(self._config_dir)
            check(composer.jobs(jobs), composer.bases)
            typed = as_hydra_takes(jobs, self._config_dir)
            return [(each, each.return_value) for each in self._launcher.launch(typed, 0)]
        sweep = self._launcher.sweep
        if self._plan_only:
            sweep.show_plan(sweep.plan(jobs))
            return []
        try:
            returned = self._launcher.launch(jobs, 0)
            sweep.finish()
            return returned
        finally:
            sweep.close()
