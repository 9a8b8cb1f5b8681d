"""Going on with a sweep that was stopped, in its folder and with its numbers."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.schema import says_nothing
from lrexp.folder.layout import EARLIER, SUMMARY
from lrexp.grid.points.point import Point, Started, title
from lrexp.runs.run import named_path
from lrexp.runs.sweep import DAMAGED, FAILED, INTERRUPTED, MISSING, RUNNING, swept_keys

UNDONE = (MISSING, DAMAGED, FAILED, INTERRUPTED, RUNNING)  # a running one has been killed


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
            "  without any other override the sweep goes on as it was;"
            " hydra.launcher.allow_changed_grid=true goes on all the same"
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


def set_aside(folder: Path, point: Point) -> None:
    """Move what an earlier attempt at a point left out of its way."""
    left = folder / point.folder
    if not left.exists():
        return
    kept = folder / EARLIER / point.folder
    kept.parent.mkdir(parents=True, exist_ok=True)  # hydra.sweep.subdir may have several levels
    attempts = (kept.with_name(f"{kept.name}.{number}") for number in itertools.count(1))
    left.rename(next(attempt for attempt in attempts if not attempt.exists()))


def _identity(point: Point) -> str:
    return json.dumps([point.case, _said(point)], sort_keys=True)


def _said(point: Point) -> dict[str, Any]:
    """Settings but for those that say nothing, which points of older sweeps may lack."""
    return {key: value for key, value in point.settings.items() if not says_nothing(key, value)}


def _renumber(point: Point, num: int, folder: str | None) -> None:
    """Give a point another number, and the folder that it has or that follows from it."""
    with point.changed() as composed:
        composed.hydra.job.num = composed.hydra.job.id = num
        if folder is not None:
            composed.hydra.sweep.subdir = folder
    point.num, point.folder = num, str(composed.hydra.sweep.subdir)
