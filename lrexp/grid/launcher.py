"""Runs the points of a sweep through an executor, shows them, and keeps the leaderboard."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals

from lrexp.config.errors import ConfigError, UserError, disk_full
from lrexp.folder.claim import refuse_others
from lrexp.folder.layout import names_of_run
from lrexp.grid.auto import auto
from lrexp.grid.engines.jobs import check_engine, on_engine
from lrexp.grid.executors import serial, stacked
from lrexp.grid.isolation import keep_freed_memory, small_collections
from lrexp.grid.jobs import Session
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.equal import find_equal
from lrexp.grid.points.point import Point, make_point, read_summary, title
from lrexp.grid.pool.pool import pool
from lrexp.grid.settings import read_settings
from lrexp.runs.resume import DONE
from lrexp.runs.sweep import DAMAGED, FAILED, MISSING, swept_keys

LEAST_ROOM = 65536  # bytes on a disk: with less no run can be recorded
EXECUTORS = {f.__name__: f for f in (auto, serial, stacked, pool)}


def run_points(
    points: Sequence[Point], session: Session, board: Leaderboard
) -> dict[int, JobReturn]:
    """Run points to their end, whatever becomes of each; by number.

    The leaderboard is written as points end. What stops the sweep passes through. Points are shown
    and ranked when the session's task is one of lrexp's own and trains; plans, and functions that
    are not lrexp's, are simply called.

    Raises:
        UserError: when a disk has no room left; what is running is stopped.
    """
    keep_freed_memory()
    task, ended, told = session.task, dict[int, JobReturn](), set[int]()
    own, view = _is_ours(task), None
    by_num = {point.num: point for point in points}

    def over(num: int) -> None:
        """Show and count a point that has a result, though its pack goes on."""
        summary = _taken(by_num[num], None, board)
        if view and summary["status"] in DONE:  # what failed may be tried again
            told.add(num)
            view.end(num, summary)
            board.write_if_due()

    executor = serial
    if own and all(point.settings["task.name"] == "train" for point in points):
        from lrexp.grid.live import GridView

        keys, how = swept_keys(board.points), session.settings
        executor = on_engine if how.engine else EXECUTORS[how.executor]
        titles = {p.num: title(p, keys) or p.folder for p in points}
        view = task.view = GridView(titles, said=task.said, told=task.told)
        view.over = over
    shown = view.shown() if view else nullcontext()
    try:
        with small_collections(), shown, closing(executor(points, session)) as ends:
            for point, returned in ends:
                ended[point.num] = returned
                if not own:
                    continue
                returned.cfg = returned.hydra_cfg = None  # a large grid would fill memory
                summary = _taken(point, returned, board)
                if view and point.num not in told:
                    if point.num not in view.running:  # no worker could begin with it
                        view.begin(point.num)
                    view.end(point.num, summary)
                board.write_if_due()
                if no_room(summary, board.folder):
                    raise UserError(
                        f"the disk of {board.folder} is full, which point {point.num} could not do"
                        " without; the sweep was stopped, and what is undone can run later"
                    )
                if task.asked:  # an exception of a signal was lost in a destructor
                    raise task.asked[-1]
    finally:
        if own:
            begun = view.running if view else {}
            for point in points:
                if point.num in begun:  # the sweep is stopped
                    _taken(point, None, board)
            if getattr(task, "board", None) is board:  # one of many batches of a sweeper's choice:
                board.write_if_due()  # who gave it writes it in the end
            else:
                board.write()
            task.view = None
    return ended


def _is_ours(task: Any) -> bool:
    """Whether a sweep's points are lrexp's runs, not calls of somebody's own function."""
    return hasattr(task, "view")


def no_room(summary: Mapping[str, Any], folder: Path) -> bool:
    """Whether a point failed for want of room on the disk, as every one after it would."""
    if summary["status"] != FAILED:
        return False
    try:
        return disk_full(summary["error"]) or shutil.disk_usage(folder).free < LEAST_ROOM
    except OSError:
        return False


def _taken(point: Point, returned: JobReturn | None, board: Leaderboard) -> dict[str, Any]:
    """The summary of a point that ended, also when it could not write one; the board keeps it."""
    summary = read_summary(board.folder / point.folder)
    if returned is not None and returned.status == JobStatus.FAILED:
        error = returned._return_value
        said = summary.get("error") or f"{type(error).__name__}: {error}"
        summary |= {"status": "failed", "error": said}
    elif returned is not None and summary.get("status") in (MISSING, DAMAGED, "running", None):
        problem = "it ended, and its summary could not be written: see lrexp.log"
        summary |= {"status": "failed", "error": problem}
    return board.take(point.num, summary, point.monitor)


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], first_num: int
) -> list[JobReturn]:
    """Run a batch of points that a sweeper chose; the plugin keeps the board between batches."""
    setup_globals()
    hydra = launcher.config.hydra
    configure_log(hydra.hydra_logging, hydra.verbose)
    for handler in logging.root.handlers:  # what a point logs is not for the terminal
        handler.setLevel(logging.WARNING)
    folder = Path(str(hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    if launcher.board is None:
        launcher.board = getattr(launcher.task_function, "board", None) or Leaderboard(folder)
    context, settings = launcher.hydra_context, read_settings(launcher.settings)
    check_engine(settings)
    known = {point.num: point for point in launcher.board.points}  # of a sweeper of ours
    points = [
        known.get(num)
        or make_point(
            num,
            overrides,
            context.config_loader.load_sweep_config(launcher.config, list(overrides)),
        )
        for num, overrides in enumerate(job_overrides, first_num)
    ]
    if _is_ours(launcher.task_function):  # others' write over their last results, as under Hydra's
        for point in points:
            refuse_others(folder / point.folder, names_of_run(hydra))
    launcher.board.points += [point for point in points if point.num not in known]
    if all(point.settings.get("task.name") == "train" for point in points):
        with suppress(ConfigError):  # its run will say so
            find_equal(points)  # which of them may train together
    session = Session(context, launcher.task_function, settings, folder)
    returned = run_points(points, session, launcher.board)
    configure_log(hydra.hydra_logging, hydra.verbose)
    return [returned[point.num] for point in points]
