"""A command line with -m, from what it asks for to the last line that it prints."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobStatus, setup_globals
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lrexp.config.errors import ConfigError
from lrexp.config.mistakes import OTHERS_SETTING
from lrexp.config.names import shown_path
from lrexp.grid.launcher import Grid
from lrexp.grid.leaderboard import Leaderboard, leaderboard_lines
from lrexp.grid.points.cases import (
    GROUP,
    Cases,
    cross,
    in_case,
    overruled,
    own_overrides,
    read_cases,
    take_cases,
)
from lrexp.grid.points.moot_rates import may_be_absolute, refuse_moot_rates
from lrexp.grid.points.point import (
    POINTS,
    Point,
    Started,
    make_point,
    points_text,
    read_points,
    read_summary,
    refuse_shared_folders,
    title,
    varied,
)
from lrexp.grid.points.resume import UNDONE, numbered_as, set_aside, sweep_folder
from lrexp.grid.settings import OF_LAUNCHER, read_settings

log = logging.getLogger(__name__)

LAUNCHER = "hydra_plugins.hydra_lrexp_launcher.lrexp_launcher.LrexpLauncher"
CASES_COPY = "cases.yaml"  # in the sweep's folder


@dataclass
class Request:
    """What a command line with -m asks for."""

    config: DictConfig  # composed for the sweep as a whole
    overrides: list[str]  # without cases
    cases: Cases | None
    started: Started | None = None  # the sweep that is to go on
    folder: Path | None = None  # and where it is

    @property
    def ours(self) -> bool:
        """Whether our launcher runs it."""
        return self.config.hydra.launcher._target_ == LAUNCHER

    @property
    def task(self) -> list[str]:
        """Overrides of the command line that are not Hydra's."""
        return [str(override) for override in self.config.hydra.overrides.task]

    @property
    def axes(self) -> list[str]:
        """What a grid is made of: hydra.sweeper.params and the command line, which wins."""
        params: Any = OmegaConf.select(self.config, "hydra.sweeper.params") or {}
        typed = {override.lstrip("+~").partition("=")[0] for override in self.task}
        return [*(f"{k}={v}" for k, v in params.items() if k not in typed), *self.task]

    @property
    def how(self) -> list[str]:
        """Overrides that say how the points are run."""
        return [override for override in self.overrides if OF_LAUNCHER.fullmatch(override)]

    @property
    def command(self) -> list[str]:
        """Overrides that ask for the same grid."""
        return [*([f"{GROUP}={self.cases.name}"] if self.cases else []), *self.axes]


def read_request(
    loader: Any, config_name: str, overrides: Sequence[str], folders: Sequence[Path]
) -> Request:
    """Compose what all points have in common, and find what the grid is made of.

    A sweep that is resumed without naming its grid again is the one that was started.

    Args:
        loader: composes.
        config_name: the primary config.
        overrides: of the command line.
        folders: of YAML files, where cases are looked for.

    Raises:
        UserError: for what cannot be composed, and launcher settings that cannot be used.
    """

    def compose(given: Sequence[str]) -> DictConfig:
        return loader.load_configuration(
            config_name, [*given, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN
        )

    rest, name = take_cases(overrides)
    request = Request(compose(rest), rest, None)
    launcher = request.config.hydra.launcher
    if request.ours:
        read_settings(launcher)
        if launcher.resume:
            request.folder = sweep_folder(launcher.resume)
            request.started = read_points(request.folder)
    if request.started and request.folder and not request.axes and not name:
        command, name = take_cases(request.started.command)
        typed = {override.partition("=")[0] for override in rest}
        kept = [override for override in command if override.partition("=")[0] not in typed]
        request.overrides = [*rest, *kept]
        request.config = compose(request.overrides)
        if name:  # the file as it was then
            copy = read_cases(str(request.folder / CASES_COPY), folders)
            request.cases = replace(copy, name=name)
    elif name:
        request.cases = read_cases(name, folders)
    return request


def compose_points(loader: Any, request: Request) -> list[Point]:
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


def find_equal_points(loader: Any, request: Request, points: Sequence[Point]) -> None:
    """Note in every point that trains like an earlier one which that is.

    Raises:
        UserError: for the first point whose network, plan or schedule cannot be built.
    """
    if not request.ours or not _all_train(points):
        return
    from lrexp.grid.points.equal import UnbuildableError, find_equal
    from lrexp.grid.pool.pool import check_gpus

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


def run_sweep(
    request: Request,
    points: Sequence[Point],
    sweeper: Any,
    hydra_context: HydraContext,
    task_function: TaskFunction,
    board: Leaderboard,
) -> None:
    """Run the points in the sweep's folder, or let the sweeper choose them.

    Args:
        request: of the command line.
        points: composed and checked; none when the sweeper chooses them.
        sweeper: set up.
        hydra_context: of this command.
        task_function: runs one composed config.
        board: of the sweep's folder; it is up to date however this ends.
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
                _launch(launcher, batch)
            finally:
                _look_up(board, batch)
        return
    _look_up(board, board.points)
    undone = ("failed",) if request.config.hydra.launcher.only == "failed" else UNDONE
    todo = [p for p in points if p.same_as is None and board.status(p.num) in undone]
    for point in todo if request.started else ():
        set_aside(folder, point)
    for line in _notes(request, points, todo):
        print(line, flush=True)
    settings = read_settings(request.config.hydra.launcher)
    Grid(board, hydra_context, task_function, settings).run(todo)


def _look_up(board: Leaderboard, points: Sequence[Point]) -> None:
    """Bring the board up to date from the summaries of points."""
    for point in points:
        board.take(point.num, read_summary(board.folder / point.folder))
    board.write()


def _launch(launcher: Any, batch: Sequence[Point]) -> None:
    """Run points through a launcher that is not ours; exceptions are in their summaries."""
    for returned in launcher.launch([p.overrides for p in batch], initial_job_idx=batch[0].num):
        if returned.status != JobStatus.COMPLETED:
            print(f"failed  {' '.join(returned.overrides)}: {returned._return_value}")


def _with_former(points: Sequence[Point], request: Request) -> list[Point]:
    """The points, and those of the sweep's start that are no longer asked for."""
    nums = {point.num for point in points}
    former = request.started.points if request.started else []
    both = [*points, *(point for point in former if point.num not in nums)]
    return sorted(both, key=lambda point: point.num)


def _write_grid(folder: Path, points: Sequence[Point], request: Request) -> None:
    """What a sweep folder says about its grid before a point has run."""
    from lrexp.folder.files import write_atomically

    saved = request.config.copy()
    saved.hydra.overrides.task = request.command
    if request.cases:
        copy = folder / CASES_COPY
        if not copy.exists() or not os.path.samefile(request.cases.file, copy):
            shutil.copyfile(request.cases.file, copy)
    OmegaConf.save(saved, folder / "multirun.yaml")
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


def closing_lines(board: Leaderboard) -> list[str]:
    """The last lines of a sweep: the leaderboard, what failed, where everything is."""
    lines, folder = [], board.folder
    shown = shown_path(folder)
    if board.points and _all_train(board.points):
        lines += ["", *leaderboard_lines(board.board())]
    for point, error in board.with_status("failed"):
        lines.append(f"failed {point.folder}: {error}")
    asked = [point for point in board.points if not point.former]
    undone = [p for p in asked if p.same_as is None and board.status(p.num) in UNDONE]
    if undone and (folder / POINTS).is_file():
        count = f"{len(undone)} of {len(asked)} points have no result"
        lines.append(f"{count}; run them with: lrexp -m hydra.launcher.resume={shown}")
    if any(folder.glob("*/wandb/offline-run-*")):
        lines.append(f"wandb  offline; upload with: python -m lrexp.commands.sync {shown}")
    return [*lines, f"sweep  {shown}"]


def report_lines(board: Leaderboard) -> list[str]:
    """Write the sweep's report.html, and say where it is or why there is none."""
    if not board.points or not _all_train(board.points):
        return []
    from lrexp.report.sweep.page import write_sweep_report

    try:
        return [f"report {shown_path(write_sweep_report(board.folder))}"]
    except Exception as error:  # the sweep itself is done
        log.info("report of %s", board.folder, exc_info=error)
        return [f"warning: the report could not be written: {type(error).__name__}: {error}"]
