"""Runs the points of a sweep through an executor, shows them, and keeps the leaderboard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lrexp.errors import ConfigError, did_you_mean
from lrexp.grid.executors import EXECUTORS, Executor
from lrexp.grid.isolation import small_collections
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points import Point, make_point, read_summary, title, varied

log = logging.getLogger(__name__)

ONLY = ("failed",)


def check_launcher(settings: Any) -> None:
    """Raise ConfigError for a setting under `hydra.launcher` that cannot be used."""
    for name, allowed in (("executor", EXECUTORS), ("only", ONLY)):
        value = settings[name]
        if value not in allowed and not (name == "only" and value is None):
            hint = did_you_mean(str(value), allowed)
            raise ConfigError(f"hydra.launcher.{name}", "is not one of the choices", hint, value)
    for name in ("only", "allow_changed_grid"):
        if settings[name] and not settings.resume:
            hint = "hydra.launcher.resume=SWEEP or latest"
            problem = "is for a sweep that is resumed"
            raise ConfigError(f"hydra.launcher.{name}", problem, hint, settings[name])


class Grid:
    """The points of one sweep folder while they run.

    Args:
        board: of the sweep's folder.
        hydra_context: of this command.
        task_function: runs one composed config. When it has an attribute `view`, it is one of
            lrexp's own: its points are shown and ranked. Any other function is simply called.
        executor: see `executors`.
    """

    def __init__(
        self,
        board: Leaderboard,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        executor: Executor,
    ):
        self.board, self._executor = board, executor
        self._hydra_context = hydra_context
        self._task: Any = task_function
        self._own = hasattr(task_function, "view")

    def run(self, points: Sequence[Point]) -> dict[int, JobReturn]:
        """Run points to their end, whatever becomes of each; by number.

        The leaderboard is written as points end. What stops the sweep passes through.
        """
        if not self._own or any(p.settings["task.name"] != "train" for p in points):
            with small_collections():
                return {point.num: ended for point, ended in self._executor(points, self._run)}
        from lrexp.grid.live import GridView

        ended: dict[int, JobReturn] = {}
        keys = varied(self.board.points)
        view = GridView(len(points))
        self._task.view = view
        begun: list[Point] = []

        def run(point: Point) -> JobReturn:
            begun.append(point)
            view.begin(point.num, title(point, keys) or point.folder)
            return self._run(point)

        try:
            with small_collections(), view.shown():
                for point, returned in self._executor(points, run):
                    returned.cfg = returned.hydra_cfg = None  # a large grid would fill memory
                    ended[point.num] = returned
                    begun.remove(point)
                    view.end(point.num, self._take(point, returned))
                    self.board.write()
        finally:
            for point in begun:  # the sweep is stopped
                self._take(point, None)
            self.board.write()
            self._task.view = None
        return ended

    def _run(self, point: Point) -> JobReturn:
        """One point in this program, as Hydra runs a job."""
        config = point.config
        try:
            return run_job(
                task_function=self._guarded(point),
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
                hydra_context=self._hydra_context,
            )
        except Exception as error:  # its folder could not be written, or a callback failed
            log.info("point %d", point.num, exc_info=error)
            returned = JobReturn(overrides=point.overrides, status=JobStatus.FAILED)
            returned.return_value = error
            return returned

    def _guarded(self, point: Point) -> Callable[[DictConfig], Any]:
        def task(config: DictConfig) -> Any:
            if self._own and self._task.view is not None:
                from lrexp.grid.live import OncePerGrid

                for handler in logging.root.handlers:
                    if type(handler) is logging.StreamHandler:
                        handler.addFilter(OncePerGrid(self._task.view, point.num))
            try:
                return self._task(config)
            except SystemExit as error:
                raise RuntimeError(f"something in it called exit({error.code})") from error

        return task

    def _take(self, point: Point, returned: JobReturn | None) -> dict[str, Any]:
        """The summary of a point that ended, also when it could not write one."""
        summary = read_summary(self.board.folder / point.folder)
        if returned is not None and returned.status == JobStatus.FAILED:
            error = returned._return_value
            summary |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        self.board.take(point.num, summary)
        return summary


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], first_num: int
) -> list[JobReturn]:
    """Run a batch of points that a sweeper chose.

    Args:
        launcher: the plugin; it keeps the leaderboard between batches.
        job_overrides: of every point.
        first_num: number of the first one.
    """
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    folder = Path(str(hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    if launcher.board is None:
        launcher.board = Leaderboard(folder)
    executor = EXECUTORS[launcher.executor]
    grid = Grid(launcher.board, launcher.hydra_context, launcher.task_function, executor)
    loader = launcher.hydra_context.config_loader
    points = [
        make_point(num, overrides, loader.load_sweep_config(launcher.config, list(overrides)))
        for num, overrides in enumerate(job_overrides, first_num)
    ]
    grid.board.points += points
    returned = grid.run(points)
    configure_log(hydra.hydra_logging, hydra.verbose)
    return [returned[point.num] for point in points]
