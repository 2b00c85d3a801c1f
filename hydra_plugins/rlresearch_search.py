"""The sweeper `hydra/sweeper=optuna`, as Hydra's plugin. Its work is done in `rlresearch.sweeps.search`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class OptunaSweeper(Sweeper):
    """Trains the trials that Optuna proposes, a batch at a time, with whichever launcher was chosen."""

    def __init__(self, **settings: Any) -> None:
        self.launcher: Launcher | None = None
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what `sweep` needs. `sweep` makes the launcher, after it has checked the search."""
        self.hydra_context, self.config, self._task = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> Any:
        """Returns the result. ConfigError on a wrong search, before anything is made; RunError if trials failed."""
        from rlresearch.config.hydra_session import config_dir_of
        from rlresearch.config.overrides import parse_search
        from rlresearch.sweeps.search import driver

        assert self.config is not None and self.hydra_context is not None  # Hydra has called `setup`
        hydras, config_dir = self.config.hydra, config_dir_of(self.config)
        settings = cast(dict[str, Any], OmegaConf.to_container(hydras.sweeper, resolve=True))
        prepared = driver.checked(parse_search(settings, arguments, config_dir), config_dir)
        asked = [*arguments, *hydras.overrides.hydra]
        own = prepared.settings.directory
        home = driver.own_directory(hydras.sweep.dir, asked, config_dir) if own is None else Path(own)
        hydras.sweep.dir = str(home)  # where launchers put what is theirs
        try:
            self.launcher = Plugins.instance().instantiate_launcher(
                hydra_context=self.hydra_context, task_function=self._task, config=self.config
            )
            if (launched := getattr(self.launcher, "sweep", None)) is not None:
                launched.packages = prepared.packages
            adopt = getattr(self.launcher, "adopt", None)  # other people's launchers keep no ledger
            return driver.search(prepared, self.launcher.launch, home, adopt)
        finally:
            driver.leave(home)
            if (launched := getattr(self.launcher, "sweep", None)) is not None:
                launched.close()
