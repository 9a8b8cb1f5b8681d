"""Going on with a sweep that was stopped, in its folder and with its numbers."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
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


def numbered_as(started: Started, points: Sequence[Point], allow_changed: bool) -> list[Point]:
    """The points with the numbers and folders that they had when the sweep was started.

    New points come after all others. Those of the start that are no longer asked for become former
    ones, which are not missed when the sweep is resumed again.

    Raises:
        UserError: when the grid has changed and may not; it names what has.
    """
    old: dict[str, list[Point]] = {}
    for point in started.points:
        old.setdefault(_identity(point), []).append(point)
    new = []
    for point in points:
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
