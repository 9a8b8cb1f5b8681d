"""Going on with a sweep that was stopped, in its folder, with its numbers and stopped points."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lrexp.config.check import check
from lrexp.config.compose import without_hydra
from lrexp.config.errors import CannotGoOnError, ConfigError, UserError
from lrexp.config.names import new_run_id
from lrexp.config.schema import says_nothing
from lrexp.folder.claim import InUseError, owned
from lrexp.folder.hold import is_held, refuse_late
from lrexp.folder.layout import CHECKPOINTS, EARLIER, LAST, OF_CLAIM, OWNER, PREVIOUS, SUMMARY
from lrexp.folder.owner import Watched, look
from lrexp.grid.points.point import Point, Started, title
from lrexp.runs.differences import change_lines
from lrexp.runs.resume import DONE, Stopped, changes_since, stopped_run
from lrexp.runs.run import named_path
from lrexp.runs.sweep import DAMAGED, FAILED, INTERRUPTED, MISSING, RUNNING, swept_keys

STOPPED = (INTERRUPTED, RUNNING)  # a running one has been killed
UNDONE = (MISSING, DAMAGED, FAILED, *STOPPED)
LOOK_S = 1.0  # between looks at points that may be run elsewhere


def sweep_folder(name: str) -> Path:
    """The sweep that `hydra.launcher.resume` means.

    Raises:
        ConfigError: when there is none.
    """
    path, problem = named_path(name), ""
    if not os.path.isdir(path):
        problem = "there is no such sweep"
    elif (path / SUMMARY).is_file():
        problem = f"{path.resolve()} is a single run"
    if problem:
        raise ConfigError("hydra.launcher.resume", problem, "give a sweep's folder", name)
    return path.resolve()


Settled = dict[tuple[str, tuple[str, ...]], Point]  # by case and overrides


def settled(started: Started, status: Callable[[int], str]) -> Settled:
    """The points of a sweep that have a result and need not be composed again.

    Only where everything that is composed from is as it was: then the same overrides come to the
    settings that points.json has. A point that others train alike, or that trains as another does,
    is not among them: whether they do is found out anew, by what builds plans today.

    Args:
        started: the sweep.
        status: of a point, by its number.
    """
    alike = {point.same_as for point in started.points}
    return {
        (point.case, tuple(point.overrides)): point
        for point in started.points
        if not point.former
        and point.same_as is None
        and point.num not in alike
        and point.settings.get("task.name") == "train"
        and status(point.num) not in UNDONE
    }


def numbered_as(started: Started, points: Sequence[Point], allow_changed: bool) -> list[Point]:
    """The points with the numbers and folders that they had when the sweep was started.

    New points come after all others; those that are settled are the start's own, and stay as they
    are. Those of the start that are no longer asked for become former
    ones, which are not missed when the sweep is resumed again.

    Raises:
        UserError: when the grid has changed and may not; it names what has.
    """
    if any(point.trial is not None for point in started.points):
        raise UserError(
            f"{started.folder} is a search, and this is a grid; hydra.launcher.resume and settings"
            " of hydra.sweeper alone go on with it"
        )
    kept = {id(point) for point in points}
    old: dict[str, list[Point]] = {}
    for point in started.points:
        if id(point) not in kept:
            old.setdefault(_identity(point), []).append(point)
    kept, new = {id(point) for point in started.points}, []
    for point in (point for point in points if id(point) not in kept):
        same = old.get(_identity(point))
        if same:
            first = same.pop(0)
            _renumber(point, first.num, first.folder)
        else:
            new.append(point)
    dropped = [point for rest in old.values() for point in rest]
    gone = [point for point in dropped if not point.former]
    if (new or gone) and not allow_changed:
        said = "\n  ".join(_changes(gone, new, swept_keys(points), swept_keys(started.points)))
        raise UserError(
            f"the grid is not the one this sweep was started with:\n  {said}\n"
            "  without any other override the sweep goes on as it was; another grid is typed whole,"
            " all its overrides, with hydra.launcher.allow_changed_grid=true"
        )
    for point in gone:
        point.former = True
    following = max(point.num for point in started.points) + 1
    for num, point in enumerate(new, following):
        _renumber(point, num, None)
    return sorted(points, key=lambda point: point.num)


def _changes(
    gone: Sequence[Point], new: Sequence[Point], keys: Sequence[str], former_keys: Sequence[str]
) -> list[str]:
    """What differs between two grids and the keys that each sweeps, a line per change."""
    found: dict[str, list[str]] = {}
    before = {tuple(map(point.chosen.get, keys)): point for point in gone}
    for point in new:
        named = title(point, keys) or "the point"
        other = before.pop(tuple(map(point.chosen.get, keys)), None)
        if other is None:
            found.setdefault("new", []).append(named)
            continue
        for key in dict.fromkeys([*_said(other), *_said(point)]):
            was, now = (json.dumps(p.settings.get(key)) for p in (other, point))
            if was != now:
                found.setdefault(f"{key} was {was} and is {now}", []).append(named)
    for point in before.values():
        found.setdefault("no longer there", []).append(title(point, former_keys) or "the point")
    lines = []
    for change, named in found.items():
        more = f" and {len(named) - 3} more" if len(named) > 3 else ""
        lines.append(f"{change}: {'; '.join(named[:3])}{more}")
    return lines


def stopped_in(folder: Path, point: Point) -> Stopped | None:
    """The run in a point's folder that can go on, as far as is seen without its state.

    None where there is none, or it has come to its end, or has saved no state.

    Raises:
        CannotGoOnError: when it cannot go on as the point; its text says why.
    """
    place = folder / point.folder
    saved = any((place / CHECKPOINTS / name).is_file() for name in (LAST, PREVIOUS))
    if not saved or point.monitor is None:
        return None
    try:
        stopped = stopped_run(place)
        if stopped is None or stopped.status in DONE:
            return None
        changes = changes_since(place, check(without_hydra(point.config))[0])
    except UserError as error:
        raise CannotGoOnError(str(error)) from error
    if changes:
        said = "; ".join(change_lines(changes))
        raise CannotGoOnError(f"what was stopped there has other settings: {said}")
    return stopped


def free_to_run(points: Sequence[Point], folder: Path, engine: str | None) -> list[Point]:
    """The points that no other program runs; an engine waits for those that one does.

    Raises:
        UserError: when there is one, and no engine.
    """
    watched = Watched()
    alive = {point.num: watched.alive(folder / point.folder) for point in points}
    while not engine and None in alive.values():
        time.sleep(LOOK_S)
        for point in points:  # all at a time: many are dead where a node has failed
            if alive[point.num] is None:
                alive[point.num] = watched.alive(folder / point.folder)
    held = [point for point in points if alive[point.num] is not False]
    if held and not engine:
        raise UserError(
            f"{len(held)} of the points to run are being run by other programs, such as"
            f" {look(folder / held[0].folder / OWNER).owner}\n"
            "  wait until they have ended, or go on with the hydra/launcher that started them"
        )
    return [point for point in points if alive[point.num] is False]


def make_ready(
    folder: Path,
    points: Sequence[Point],
    status: Callable[[int], str],
    say: Callable[[str], object],
    restart: bool = False,
    engine: str | None = None,
) -> int:
    """Let those points of a resumed sweep go on that were stopped and can; the rest begins anew.

    What a job of an engine has begun with meanwhile is left to that job.

    Args:
        folder: the sweep's.
        points: to be run.
        status: what came of a point, by number.
        say: is told why one that was stopped cannot go on.
        restart: begin all of them anew.
        engine: whose jobs are going to run them.

    Returns:
        How many go on.

    Raises:
        InUseError: for a point that another program has begun with, and no engine.
    """
    going_on = 0
    for point in points:
        with ExitStack() as held:
            place = folder / point.folder
            if place.is_dir() and not is_held(place):  # a job of an engine holds it already
                try:
                    held.enter_context(owned(place))
                except InUseError:
                    if not engine:
                        raise
                    continue
            if not restart and status(point.num) in STOPPED:
                going_on += go_on(folder, point, say)
            else:
                begin_anew(folder, point)
    return going_on


def go_on(folder: Path, point: Point, say: Callable[[str], object]) -> bool:
    """Let a point go on with the run in its folder if it can, otherwise begin anew; whether it can.

    Sets the step that it goes on from. A state that proves to be damaged is found out by its job.
    """
    from lrexp.folder.checkpoint import saved_step

    stopped = None
    try:
        stopped = stopped_in(folder, point)
    except CannotGoOnError as error:
        say(f"note   {point.folder}: {error}; the point runs anew")
    if stopped is None:
        begin_anew(folder, point)
        return False
    point.reached = saved_step(folder / point.folder / CHECKPOINTS)
    return True


def from_last_epoch(count: int) -> str:
    """What so many stopped points do."""
    return "goes on from its last epoch" if count == 1 else "go on from their last epoch"


def begin_anew(folder: Path, point: Point) -> None:
    """Make a point another run than any before, with nothing in its way."""
    set_aside(folder, point)
    point.reached = None
    with point.changed() as composed:
        composed.run_id = new_run_id()


def set_aside(folder: Path, point: Point) -> None:
    """Move what an earlier attempt at a point left out of its way; who holds it now goes on so."""
    left = folder / point.folder
    if not left.exists():
        return
    refuse_late(left)
    inside = [path for path in left.iterdir() if path.name not in OF_CLAIM]
    claimed = len(inside) < len(os.listdir(left))
    if not inside:
        return
    kept = folder / EARLIER / point.folder
    kept.parent.mkdir(parents=True, exist_ok=True)  # hydra.sweep.subdir may have several levels
    attempts = (kept.with_name(f"{kept.name}.{number}") for number in itertools.count(1))
    place = next(attempt for attempt in attempts if not attempt.exists())
    if not claimed:
        left.rename(place)
        return
    place.mkdir()
    for path in inside:
        path.rename(place / path.name)


def _identity(point: Point) -> str:
    return json.dumps([point.case, _said(point)], sort_keys=True)


def _said(point: Point) -> dict[str, Any]:
    """Settings but for those that say nothing, which points of older sweeps may lack, and for what
    is decided once the grid has ended."""
    said = {key: value for key, value in point.settings.items() if not says_nothing(key, value)}
    said.pop("logger.points", None)
    return said


def _renumber(point: Point, num: int, folder: str | None) -> None:
    """Give a point another number, and the folder that it has or that follows from it."""
    with point.changed() as composed:
        composed.hydra.job.num = composed.hydra.job.id = num
        if folder is not None:
            composed.hydra.sweep.subdir = folder
    point.num, point.folder = num, str(composed.hydra.sweep.subdir)
