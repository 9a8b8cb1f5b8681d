"""The points of a grid, each composed and checked once, and which of them train alike."""

from __future__ import annotations

from collections.abc import Sequence

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import OTHERS_SETTING, ConfigError
from lrexp.config.schema import OPTIONS
from lrexp.grid.engines.jobs import check_engine
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.cases import cross, in_case
from lrexp.grid.points.equal import find_equal, refuse_moot_rates
from lrexp.grid.points.point import Point, make_point, refuse_shared_folders
from lrexp.grid.points.resume import Settled, numbered_as, settled
from lrexp.grid.pool.pool import check_gpus
from lrexp.record.counted import counting
from lrexp.runs.sweep import read_sources
from lrexp.session.request import Request
from lrexp.session.single import trains_a_grid


def known_points(request: Request) -> Settled:
    """Points of a sweep that goes on which need not be composed again."""
    started = request.started
    if started is None or not request.sources or read_sources(started.folder) != request.sources:
        return {}
    board = Leaderboard(started.folder)
    with counting("looking for results", len(started.points)) as count:
        for point in started.points:
            board.read(point)
            count()
    return settled(started, board.status)


def compose_points(
    loader: CheckedLoader, request: Request, known: Settled | None = None
) -> list[Point]:
    """Every point, composed once and checked; in a resumed sweep under its old number.

    Those that are known are as they were, without a composed config.

    Raises:
        UserError: for the first point that cannot be used, and for a grid that has changed.
    """
    config = request.config
    points: list[Point] = []
    crossed, known = cross(request.cases, request.axes, loader), dict(known or {})
    started = request.started.points if request.started else []
    begun = {(point.case, tuple(point.overrides)) for point in started}
    if any((case, tuple(overrides)) not in begun for case, overrides in crossed):
        known = {}  # a new point may train as one that is done does
    with counting("composing points", len(crossed)) as count:
        for case, overrides in crossed:
            point = known.pop((case, tuple(overrides)), None)
            points.append(point or _composed(loader, request, len(points), case, overrides))
            count()
    refuse_shared_folders([point for point in points if point.composed])
    if request.cases is None:
        refuse_moot_rates(points)
    if request.started:
        allowed = config.hydra.launcher.allow_changed_grid
        points = numbered_as(request.started, points, allowed)
    return points


def _composed(
    loader: CheckedLoader, request: Request, num: int, case: str, overrides: list[str]
) -> Point:
    """A point, composed and checked."""
    try:
        composed = loader.load_sweep_config(request.config, overrides)
    except ConfigError as error:
        raise _in_grid(error, case, request) from error
    if trains_a_grid(composed):
        hint = "leave out -m, and give a single value of each setting"
        raise ConfigError("task", "trains a grid of its own", hint, composed.task.name)
    return make_point(num, overrides, composed, case)


def find_equal_points(loader: CheckedLoader, request: Request, points: Sequence[Point]) -> None:
    """Note in every point that trains like an earlier one which that is.

    Raises:
        UserError: for the first point whose network, plan or schedule cannot be built.
    """
    if not request.ours or not all_are(points, "train"):
        return
    check_engine(request.settings)
    check_gpus(request.settings, points)

    def placed(point: Point, error: ConfigError) -> ConfigError:
        return _in_grid(loader.placed(error, point.overrides), point.case, request)

    composed = [point for point in points if point.composed]
    with counting("comparing points", len(composed)) as count:
        equal = find_equal(composed, placed, count)
    for point in composed:
        point.same_as = equal.get(point.num)


def _in_grid(error: ConfigError, case: str, request: Request) -> ConfigError:
    """The same error, with its place in a file of cases, or what such a file is good for."""
    named = (axis.partition("=") for axis in request.axes)
    several = any(key in OPTIONS and "," in value for key, _, value in named)
    unfit = error.__cause__ is None and error.key.partition(".")[0] in OPTIONS  # no slip of the pen
    if request.cases is None and (OTHERS_SETTING in error.problem or (several and unfit)):
        hint = "in a grid of several options, cases=FILE.yaml gives each settings of its own"
        error.hint = f"{error.hint}; {hint}" if error.hint else hint
    return in_case(error, case, request.cases)


def all_are(points: Sequence[Point], task: str) -> bool:
    """Whether `task=` of every point is this one."""
    return all(point.settings["task.name"] == task for point in points)
