"""`hydra/sweeper=optuna`: settings found by Optuna, trial by trial."""

# Hydra runs this file while it is not in sys.modules, where dataclasses would look up annotations
# that are text: no `from __future__ import annotations` here.
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrexp.grid.search.settings import OptunaSettings


@dataclass
class LrexpOptunaConf(OptunaSettings):
    """Settings under `hydra.sweeper`."""

    _target_: str = "hydra_plugins.hydra_lrexp_optuna.lrexp_optuna.LrexpOptunaSweeper"
    _recursive_: bool = False  # what is below is data


ConfigStore.instance().store(
    group="schema/hydra/sweeper", name="optuna", node=LrexpOptunaConf, provider="lrexp"
)


class LrexpOptunaSweeper(Sweeper):
    """Hands the launcher over to what a sweep's task is searched by."""

    def __init__(self, **settings: Any):
        super().__init__()

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called once, before the sweep has a folder."""
        self.task: Any = task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run trials until there are as many as were asked for."""
        self.task.search.run(self.launcher)
