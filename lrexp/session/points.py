"""What Hydra runs for a composed config: the task of a single run, and that of a sweep's points."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.errors import out_of_memory
from lrexp.config.schema import Config, chosen_option, load
from lrexp.folder.hold import heed, owners
from lrexp.folder.owner import Owner
from lrexp.runs.resume import Stopped
from lrexp.session.ranks import ranks_here
from lrexp.tasks.opening import Launch

if TYPE_CHECKING:
    from lrexp.build.data import Datasets
    from lrexp.grid.leaderboard import Leaderboard
    from lrexp.grid.search.search import Search
    from lrexp.tasks.train import Training
    from lrexp.train.loop import Trainer
    from lrexp.train.ramp import TrainsEpochs


class Points:
    """The task of a sweep's points. Those that run in one program share their data."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder  # of the sweep
        self.view: Any = None  # lrexp.grid.live.GridView, while our launcher runs
        self.said: set[str] | None = None  # see `lrexp.session.sweep.Around`
        self.told: set[str] = set()  # of the points so far, where they come in batches
        self.executor = "serial"  # of lrexp.grid.executors
        self.asked: list[type[BaseException]] = []  # signals that want the sweep to stop
        self.planned: set[str] = set()  # see Launch
        self.board: Leaderboard | None = None  # of a sweep whose sweeper chooses points as it goes
        self.owners: dict[str, Owner] = {}  # of the folders around, where another program has them
        self.search: Search | None = None  # what our own of these carries out

    def __call__(self, composed: DictConfig, stopped: Stopped | None = None) -> float:
        return job(composed, self, stopped)

    def open(
        self,
        composed: DictConfig,
        asked: list[type[BaseException]],
        stopped: Stopped | None = None,
    ) -> Training:
        """A point's run, built but not trained; see `lrexp.tasks.train.open_training`."""
        from lrexp.tasks.train import open_training

        return open_training(*_checked(composed, self, stopped), asked)

    def trainer(self, composed: DictConfig) -> Trainer:
        """What would train a point, outside of any run."""
        from lrexp.tasks.train import build_trainer

        return build_trainer(check(without_hydra(composed))[1], self.datasets)

    def load_data(self, composed: DictConfig) -> None:
        """Read a point's data for those to come. That they cannot be had, its run will say."""
        from lrexp.build.experiment import choose_device

        config = check(without_hydra(composed))[1]
        with suppress(Exception):
            self.datasets.get(config, choose_device(config.trainer.device))

    def for_worker(self) -> Points:
        """The same for a worker program, with the data that lie in memory."""
        points = Points()
        points.executor, points.datasets = "pool", self.datasets.in_memory()
        points.owners = owners()
        return points

    def for_job(self, engine: str) -> Points:
        """The same for a program on another machine, which reads the data itself."""
        points = Points()
        points.executor = engine
        return points

    @cached_property
    def datasets(self) -> Datasets:
        """The data of the points so far."""
        from lrexp.build.data import Datasets

        made = Datasets()
        made.features.folder = self.folder
        return made

    def close(self) -> None:
        """Remove what was kept for the points alone."""
        if "datasets" in self.__dict__:
            self.datasets.features.close()


def job(
    composed: DictConfig,
    points: Points | None = None,
    stopped: Stopped | None = None,
    until: int | None = None,
) -> float:
    """Run one checked config in the run folder that Hydra names.

    Args:
        composed: without its hydra section, as Hydra hands it over.
        points: the sweep that it is a point of.
        stopped: the run in the folder that goes on.
        until: the epoch to stop after; None: the last one.

    Returns:
        The best monitored value.
    """
    resolved, config, launch = _checked(composed, points, stopped, until)
    return load(chosen_option("task", config.task).make)(resolved, config, launch)


def _checked(
    composed: DictConfig,
    points: Points | None,
    stopped: Stopped | None = None,
    until: int | None = None,
) -> tuple[DictConfig, Config, Launch]:
    """A config as it is saved and as it is read, and where it runs."""
    if points:
        heed(points.owners)
    hydra: Any = HydraConfig.get()
    in_sweep = hydra.mode == RunMode.MULTIRUN
    terminal = None
    if points and points.view:
        from lrexp.grid.live import PointRecorder

        terminal = partial(PointRecorder, points.view, hydra.job.num)
    resolved, config = check(composed)
    launch = Launch(
        folder=Path(hydra.runtime.output_dir),
        overrides=list(OmegaConf.to_container(hydra.overrides.task)),  # type: ignore[arg-type]
        title=point_title(hydra) if in_sweep else "",
        sweep=Path(hydra.sweep.dir).name if in_sweep else None,
        datasets=points and points.datasets,
        executor=points.executor if points else "serial",
        terminal=terminal,
        together=_stacked,
        stopped=stopped,
        planned=points and points.planned,
        until=until,
        ranks=ranks_here(),
    )
    return resolved, config, launch


def _stacked(trainers: Sequence[Trainer]) -> TrainsEpochs | None:
    """A stack of trainers that have not trained; None where they cannot be stacked, or one fits."""
    from lrexp.grid.stack.probe import probe
    from lrexp.grid.stack.trainer import StackedTrainer, StackError

    if len(trainers) < 2 or probe(trainers[0]):
        return None
    try:
        return StackedTrainer(trainers)
    except StackError:
        return None
    except Exception as error:
        if out_of_memory(error):
            return None
        raise


def point_title(hydra: Any) -> str:
    """What tells a point from the others: its folder's name, and what that leaves out.

    Args:
        hydra: that section of its config.
    """
    how = hydra.job.config.override_dirname
    left_out = [o for o in hydra.overrides.task if str(o).partition("=")[0] in how.exclude_keys]
    return " ".join([*str(hydra.job.override_dirname).split(how.item_sep), *left_out]).strip()
