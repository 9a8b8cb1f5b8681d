"""A command line with -m: every point composed and checked, the folder claimed, the points run."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, setup_globals
from hydra.types import HydraContext
from omegaconf import OmegaConf

from lrexp.config.compose import CONFIG_NAME, CheckedLoader
from lrexp.config.errors import OTHERS_SETTING, ConfigError, RunFailedError
from lrexp.config.names import new_run_id, shown_path
from lrexp.folder.claim import Claim, link_latest
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import MULTIRUN, WANDB
from lrexp.grid.launcher import Grid
from lrexp.grid.leaderboard import Leaderboard, leaderboard_lines
from lrexp.grid.points.cases import cross, in_case, overruled, own_overrides
from lrexp.grid.points.equal import UnbuildableError, find_equal
from lrexp.grid.points.moot_rates import may_be_absolute, refuse_moot_rates
from lrexp.grid.points.point import (
    POINTS,
    Point,
    make_point,
    points_text,
    read_summary,
    refuse_shared_folders,
    title,
    varied,
)
from lrexp.grid.points.resume import UNDONE, numbered_as, set_aside
from lrexp.grid.pool.pool import check_gpus
from lrexp.grid.settings import read_settings
from lrexp.session.points import Points
from lrexp.session.request import CASES_COPY, Request, read_request
from lrexp.train.signals import signals_stop

log = logging.getLogger(__name__)

Say = Callable[[str], object]  # takes a line for whoever waits for the sweep


def run_sweep(loader: CheckedLoader, overrides: Sequence[str], say: Say) -> Leaderboard:
    """Compose and check every point, then run them in the sweep's folder.

    Args:
        loader: composes.
        overrides: of the command line.
        say: is told what people should know before, and what came of it in the end.

    Returns:
        What came of every point.

    Raises:
        UserError: for a mistake that is found before the sweep has a folder.
        RunFailedError: when the sweep as a whole failed; a point that did stops nothing.
    """
    request = read_request(loader, overrides)
    config = request.config
    config.run_id = config.run_id or new_run_id()
    folder = request.folder or loader.folder(config, "hydra.sweep.dir", request.overrides)
    config.hydra.sweep.dir = str(folder)
    callbacks = Callbacks(config)
    context, task = HydraContext(config_loader=loader, callbacks=callbacks), Points()
    sweeper = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=task
    )
    resumed, points = request.started is not None, []
    if isinstance(sweeper, BasicSweeper):
        points = compose_points(loader, request)
        _refuse_going_on(request, points)
        Claim(folder, resumed).undo()  # before torch is imported
        find_equal_points(loader, request, points)
    elif request.cases or resumed:
        key = "cases" if request.cases else "hydra.launcher.resume"
        problem = "is for a grid, and this sweeper chooses points as it goes"
        raise ConfigError(key, problem, "leave out hydra/sweeper")
    claim, board = Claim(folder, resumed), Leaderboard(folder)
    link_latest(folder)
    callbacks.on_multirun_start(config=config, config_name=CONFIG_NAME)
    try:
        with signals_stop() as task.asked:
            _run(request, points, sweeper, context, task, board, say)
    except Exception as error:
        raise RunFailedError(error) from error
    finally:
        claim.release()
        callbacks.on_multirun_end(config=config, config_name=CONFIG_NAME)
        with suppress(OSError):
            say("\n".join([*_closing_lines(board), *_report_lines(board)]))
    return board


def _refuse_going_on(request: Request, points: list[Point]) -> None:
    """Refuse trainer.resume=auto in a grid that is begun: its points never go on by themselves."""
    asked = [request.config.trainer.resume, *(p.settings.get("trainer.resume") for p in points)]
    if "auto" in asked and not request.started:
        hint = "hydra.launcher.resume=SWEEP, or latest, goes on with a grid"
        raise ConfigError("trainer.resume", "is for single runs", hint, "auto")


def compose_points(loader: CheckedLoader, request: Request) -> list[Point]:
    """Every point, composed once and checked; in a resumed sweep under its old number.

    Raises:
        UserError: for the first point that cannot be used, and for a grid that has changed.
    """
    config = request.config
    points: list[Point] = []
    for case, overrides in cross(request.cases, request.axes, loader):
        try:
            composed = loader.load_sweep_config(config, overrides)
        except ConfigError as error:
            if OTHERS_SETTING in error.problem and request.cases is None:
                error.hint += "; in a grid of both, cases= gives each settings of its own"
            raise _in_case(error, request, case, overrides) from error
        points.append(make_point(len(points), overrides, composed, case))
    refuse_shared_folders(points)
    if request.cases is None:
        rated = [point for point in points if may_be_absolute(point.settings["lr_policy.name"])]
        refuse_moot_rates([point.config for point in rated])
    if request.started:
        allowed = config.hydra.launcher.allow_changed_grid
        points = numbered_as(request.started, points, allowed)
    return points


def find_equal_points(loader: CheckedLoader, request: Request, points: Sequence[Point]) -> None:
    """Note in every point that trains like an earlier one which that is.

    Raises:
        UserError: for the first point whose network, plan or schedule cannot be built.
    """
    if not request.ours or not _all_train(points):
        return
    check_gpus(read_settings(request.config.hydra.launcher), points)
    try:
        equal = find_equal(points)
    except UnbuildableError as problem:
        point = problem.point
        error = loader.placed(problem.error, point.overrides)
        raise _in_case(error, request, point.case, point.overrides) from problem
    for point in points:
        point.same_as = equal.get(point.num)


def _all_train(points: Sequence[Point]) -> bool:
    return all(point.settings["task.name"] == "train" for point in points)


def _in_case(
    error: ConfigError, request: Request, case: str, overrides: Sequence[str]
) -> ConfigError:
    if request.cases is None:
        return error
    return in_case(error, case, request.cases, own_overrides(request.cases, case, overrides))


def _run(
    request: Request,
    points: Sequence[Point],
    sweeper: Any,
    context: HydraContext,
    task: Points,
    board: Leaderboard,
    say: Say,
) -> None:
    """Run the points in the sweep's folder, or let the sweeper choose them.

    The board is up to date however this ends.
    """
    setup_globals()
    launcher, folder = sweeper.launcher, board.folder
    if not isinstance(sweeper, BasicSweeper):
        launcher.board = board
        sweeper.sweep(arguments=request.task)
        return
    board.points = _with_former(points, request)
    _write_grid(folder, board.points, request)
    if not request.ours:
        size = sweeper.max_batch_size or len(points)
        if size < 1:
            key, hint = "hydra.sweeper.max_batch_size", "at least 1"
            raise ConfigError(key, "is too small", hint, size)
        for first in range(0, len(points), size):
            batch = points[first : first + size]
            try:
                _launch(launcher, batch, say)
            finally:
                _look_up(board, batch)
        return
    _look_up(board, board.points)
    undone = ("failed",) if request.config.hydra.launcher.only == "failed" else UNDONE
    todo = [p for p in points if p.same_as is None and board.status(p.num) in undone]
    for point in todo if request.started else ():
        set_aside(folder, point)
    for line in _notes(request, points, todo):
        say(line)
    settings = read_settings(request.config.hydra.launcher)
    Grid(board, context, task, settings).run(todo)


def _look_up(board: Leaderboard, points: Sequence[Point]) -> None:
    """Bring the board up to date from the summaries of points."""
    for point in points:
        board.take(point.num, read_summary(board.folder / point.folder))
    board.write()


def _launch(launcher: Any, batch: Sequence[Point], say: Say) -> None:
    """Run points through a launcher that is not ours; exceptions are in their summaries."""
    for returned in launcher.launch([p.overrides for p in batch], initial_job_idx=batch[0].num):
        if returned.status != JobStatus.COMPLETED:
            say(f"failed  {' '.join(returned.overrides)}: {returned._return_value}")


def _with_former(points: Sequence[Point], request: Request) -> list[Point]:
    """The points, and those of the sweep's start that are no longer asked for."""
    nums = {point.num for point in points}
    former = request.started.points if request.started else []
    both = [*points, *(point for point in former if point.num not in nums)]
    return sorted(both, key=lambda point: point.num)


def _write_grid(folder: Path, points: Sequence[Point], request: Request) -> None:
    """What a sweep folder says about its grid before a point has run."""
    saved = request.config.copy()
    saved.hydra.overrides.task = request.command
    if request.cases:
        copy = folder / CASES_COPY
        if not copy.exists() or not os.path.samefile(request.cases.file, copy):
            shutil.copyfile(request.cases.file, copy)
    OmegaConf.save(saved, folder / MULTIRUN)
    write_atomically(folder / POINTS, points_text(points, [*request.how, *request.command]))


def _notes(request: Request, points: Sequence[Point], todo: Sequence[Point]) -> list[str]:
    """What people should know before the first point starts."""
    lines = []
    if request.cases:
        lines += [f"note   {line}" for line in overruled(request.cases, request.axes)]
    keys = varied(points)
    for point in points:
        if point.same_as is not None:
            named = title(point, keys)
            lines.append(f"equal  {point.num} {named} trains as {point.same_as} does: runs once")
    if request.started:
        done = len(points) - len(todo) - sum(p.same_as is not None for p in points)
        lines.append(f"resume {done} points are done, {len(todo)} to run")
    return lines


def _closing_lines(board: Leaderboard) -> list[str]:
    """The last lines of a sweep: the leaderboard, what failed, where everything is."""
    lines, folder = [], board.folder
    shown = shown_path(folder)
    typed = shlex.quote(shown)
    if board.points and _all_train(board.points):
        lines += ["", *leaderboard_lines(board.board())]
    for point, error in board.with_status("failed"):
        lines.append(f"failed {point.folder}: {error}")
    asked = [point for point in board.points if not point.former]
    undone = [p for p in asked if p.same_as is None and board.status(p.num) in UNDONE]
    if undone and (folder / POINTS).is_file():
        count = f"{len(undone)} of {len(asked)} points have no result"
        lines.append(f"{count}; run them with: lrexp -m hydra.launcher.resume={typed}")
    if any(folder.glob(f"*/{WANDB}/offline-run-*")):
        lines.append(f"wandb  offline; upload with: lrexp sync {typed}")
    return [*lines, f"sweep  {shown}"]


def _report_lines(board: Leaderboard) -> list[str]:
    """Write the sweep's report.html, and say where it is or why there is none."""
    if not board.points or not _all_train(board.points):
        return []
    from lrexp.report.sweep.page import write_sweep_report

    try:
        return [f"report {shown_path(write_sweep_report(board.folder))}"]
    except Exception as error:  # the sweep itself is done
        log.info("report of %s", board.folder, exc_info=error)
        return [f"warning: the report could not be written: {type(error).__name__}: {error}"]
