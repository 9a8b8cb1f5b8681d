"""Runs the points of a sweep through an executor, shows them, and keeps the leaderboard."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.types import HydraContext, TaskFunction

from lrexp.grid.auto import auto
from lrexp.grid.executors import Executor, Session, serial, stacked
from lrexp.grid.isolation import small_collections
from lrexp.grid.jobs import Jobs
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.equal import UnbuildableError, find_equal
from lrexp.grid.points.point import NEVER_STARTED, Point, make_point, read_summary, title, varied
from lrexp.grid.pool.pool import pool
from lrexp.grid.settings import LauncherSettings, read_settings
from lrexp.grid.stack.allocator import keep_freed_memory

log = logging.getLogger(__name__)


EXECUTORS: dict[str, Executor] = {f.__name__: f for f in (auto, serial, stacked, pool)}


class Grid:
    """The points of one sweep folder while they run.

    Args:
        board: of the sweep's folder.
        hydra_context: of this command.
        task_function: runs one composed config. When it has an attribute `view`, it is one of
            lrexp's own: its points are shown and ranked. Any other function is simply called.
        settings: of the launcher.
    """

    def __init__(
        self,
        board: Leaderboard,
        hydra_context: HydraContext,
        task_function: TaskFunction,
        settings: LauncherSettings,
    ):
        self.board, self._settings = board, settings
        self._hydra_context = hydra_context
        self._task: Any = task_function
        self._own = hasattr(task_function, "view")

    def run(self, points: Sequence[Point]) -> dict[int, JobReturn]:
        """Run points to their end, whatever becomes of each; by number.

        The leaderboard is written as points end. What stops the sweep passes through.
        """
        keep_freed_memory()
        if not self._own or any(p.settings["task.name"] != "train" for p in points):
            return self._run_unseen(points)
        from lrexp.grid.live import GridView

        ended: dict[int, JobReturn] = {}
        keys = varied(self.board.points)
        view = GridView(len(points))
        self._task.view = view
        running: dict[int, Point] = {}

        def begin(point: Point) -> None:
            running[point.num] = point
            view.begin(point.num, title(point, keys) or point.folder)

        jobs = Jobs(self._hydra_context, self._task, begin)
        session = Session(jobs, self._task, self._settings, view, self.board.folder)
        executor = EXECUTORS[self._settings.executor]
        try:
            with small_collections(), view.shown(), closing(executor(points, session)) as ends:
                for point, returned in ends:
                    returned.cfg = returned.hydra_cfg = None  # a large grid would fill memory
                    ended[point.num] = returned
                    if running.pop(point.num, None) is None:  # no worker could begin with it
                        view.begin(point.num, point.folder)
                    view.end(point.num, self._take(point, returned))
                    self.board.write()
                    if self._task.asked:  # an exception of a signal was lost in a destructor
                        raise self._task.asked[-1]
        finally:
            for point in running.values():  # the sweep is stopped
                self._take(point, None)
            self.board.write()
            self._task.view = None
        return ended

    def _run_unseen(self, points: Sequence[Point]) -> dict[int, JobReturn]:
        """Run points that are not for ranking: plans, and functions that are not lrexp's."""
        ended = {}
        jobs = Jobs(self._hydra_context, self._task, lambda point: None)
        with small_collections():
            for point, returned in serial(points, Session(jobs, self._task)):
                ended[point.num] = returned
                if self._own:
                    self._take(point, returned)
        if self._own:
            self.board.write()
        return ended

    def _take(self, point: Point, returned: JobReturn | None) -> dict[str, Any]:
        """The summary of a point that ended, also when it could not write one."""
        summary = read_summary(self.board.folder / point.folder)
        if returned is not None and returned.status == JobStatus.FAILED:
            error = returned._return_value
            said = summary.get("error") or f"{type(error).__name__}: {error}"
            summary |= {"status": "failed", "error": said}
        elif returned is not None and summary.get("status") in (NEVER_STARTED, "running", None):
            problem = "it ended, and its summary could not be written: see lrexp.log"
            summary |= {"status": "failed", "error": problem}
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
    settings = read_settings(launcher.settings)
    grid = Grid(launcher.board, launcher.hydra_context, launcher.task_function, settings)
    loader = launcher.hydra_context.config_loader
    points = [
        make_point(num, overrides, loader.load_sweep_config(launcher.config, list(overrides)))
        for num, overrides in enumerate(job_overrides, first_num)
    ]
    grid.board.points += points
    if all(point.settings.get("task.name") == "train" for point in points):
        with suppress(UnbuildableError):  # its run will say so
            find_equal(points)  # which of them may train together
    returned = grid.run(points)
    configure_log(hydra.hydra_logging, hydra.verbose)
    return [returned[point.num] for point in points]
