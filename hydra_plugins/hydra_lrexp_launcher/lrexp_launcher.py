"""Our launcher: all points of a grid in one session, here or as jobs of an engine."""

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

from lrexp.grid.settings import (
    KINDS,
    JoblibSettings,
    LauncherSettings,
    LocalJobSettings,
    RaySettings,
    SlurmSettings,
)

TARGET = "hydra_plugins.hydra_lrexp_launcher.lrexp_launcher.LrexpLauncher"


@dataclass
class LauncherConf(LauncherSettings):
    _target_: str = TARGET


@dataclass
class JoblibConf(JoblibSettings):
    _target_: str = TARGET


@dataclass
class LocalJobConf(LocalJobSettings):
    _target_: str = TARGET


@dataclass
class SlurmConf(SlurmSettings):
    _target_: str = TARGET


@dataclass
class RayConf(RaySettings):
    _target_: str = TARGET


CONFS = (LauncherConf, JoblibConf, LocalJobConf, SlurmConf, RayConf)
for name, conf in zip(KINDS, CONFS, strict=True):
    group = "hydra/launcher" if name == "lrexp" else "schema/launcher"
    ConfigStore.instance().store(group=group, name=name, node=conf, provider="lrexp")


class LrexpLauncher(Launcher):
    """Hands the points over to lrexp.grid."""

    def __init__(self, **settings: Any):
        super().__init__()
        self.settings = KINDS[settings.get("engine") or "lrexp"](**settings)
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
