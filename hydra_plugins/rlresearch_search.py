"""Where Hydra finds the sweeper `hydra/sweeper=optuna`; all that it does is in rlresearch.sweeps."""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Trains the trials that Optuna proposes, a batch at a time, with whichever launcher was chosen."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.launcher: Launcher | None = None
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Makes the launcher, in the sweep directory that is this search's own."""
        from rlresearch.sweeps.controller import own_directory

        self.hydra_context, self.config = hydra_context, config
        typed = any(each.startswith("hydra.sweep.dir=") for each in config.hydra.overrides.hydra)
        config.hydra.sweep.dir = str(own_directory(config.hydra.sweep.dir, typed))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """The values of the best trials. RunError where trials failed."""
        from omegaconf import OmegaConf

        from rlresearch.compose import sought_with
        from rlresearch.sweeps.controller import search

        settings = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        asked = sought_with(settings, arguments, self.hydra_context.config_loader)
        sources = self.config.hydra.runtime.config_sources
        own = next((each.path for each in sources if each.provider == "command-line"), None)
        return search(asked, self.launcher.launch, self.config.hydra.sweep.dir, own)
