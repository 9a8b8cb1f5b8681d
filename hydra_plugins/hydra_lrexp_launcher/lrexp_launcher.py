"""`hydra/launcher=lrexp`: all points of a grid in one session."""

# Hydra runs this file while it is not in sys.modules, where dataclasses would look up annotations
# that are text: no `from __future__ import annotations` here.
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrexp.grid.settings import LauncherSettings


@dataclass
class LrexpLauncherConf(LauncherSettings):
    """Settings under `hydra.launcher`."""

    _target_: str = "hydra_plugins.hydra_lrexp_launcher.lrexp_launcher.LrexpLauncher"


ConfigStore.instance().store(
    group="hydra/launcher", name="lrexp", node=LrexpLauncherConf, provider="lrexp"
)


class LrexpLauncher(Launcher):
    """Hands the points over to lrexp.grid."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = LauncherSettings(**settings)
        self.board = None  # lrexp.grid.leaderboard.Leaderboard of the points so far

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called once by the sweeper."""
        self.hydra_context, self.task_function = hydra_context, task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run a batch of points; called by sweepers that choose points as they go."""
        from lrexp.grid.launcher import launch

        return launch(self, job_overrides, initial_job_idx)
