"""The points of a grid, and the file that a sweep folder keeps of them."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from lrexp.config.check import hydra_aside
from lrexp.config.errors import ConfigError, UserError
from lrexp.config.variables import check_read
from lrexp.folder.layout import EARLIER, JOBS, LEADERBOARD, POINTS, SUMMARY
from lrexp.grid.search.settings import OF_SEARCH
from lrexp.grid.settings import OF_LAUNCHER
from lrexp.judge.words import in_short
from lrexp.runs import run as run_folder
from lrexp.runs.reading import leads_out
from lrexp.runs.run import flat
from lrexp.runs.sweep import DAMAGED, MISSING, read_grid

CHOSEN = (
    "its points were chosen as it went, and its sweeper may go on by itself; hydra/sweeper=optuna"
    " goes on with this"
)


@dataclass
class Point:
    """One composed and checked run of a grid."""

    num: int
    overrides: list[str]  # all of them, those common to every point too
    settings: dict[str, Any]  # dotted key → resolved value, without run_id
    folder: str  # its name below the sweep's
    composed: bytes  # the pickled config with its hydra section; b"" of one that is not run
    case: str = ""
    same_as: int | None = None  # number of an earlier point that trains alike: runs in its place
    former: bool = False  # a changed grid went on without it
    alike: str | None = None  # points with the same text may train together; None: not known
    work: float = 0.0  # images × parameters that it trains, where that is known
    note: str = ""  # for its log: why it is run as it is
    # steps of the stopped run in its folder, which goes on; None: it begins
    reached: int | None = None
    trial: int | None = None  # of a search: the number of the trial that it is a run of

    @property
    def config(self) -> DictConfig:
        """The composed config, a fresh copy."""
        return pickle.loads(self.composed)

    @contextmanager
    def changed(self) -> Iterator[DictConfig]:
        """The composed config, to be changed."""
        composed = self.config
        with flag_override(composed, ["struct", "readonly"], False):
            yield composed
        self.composed = pickle.dumps(composed)

    @property
    def monitor(self) -> str | None:
        """What decides which epoch is its best; None of a plan."""
        trains = self.settings.get("task.name") == "train"
        return self.settings.get("trainer.monitor") if trains else None

    @property
    def chosen(self) -> dict[str, str]:
        """Override by key."""
        pairs = (override.lstrip("+~").partition("=") for override in self.overrides)
        return {key: value for key, _, value in pairs}


def make_point(num: int, overrides: Sequence[str], composed: DictConfig, case: str = "") -> Point:
    """A point of a config that Hydra composed for it; sets its number.

    A config that is not lrexp's, and so was not checked, has no settings here.
    """
    with flag_override(composed, ["struct", "readonly"], False):
        composed.hydra.job.num = composed.hydra.job.id = num
    settings: dict[str, Any] = {}
    if "run_id" in composed:
        with hydra_aside(composed):
            settings = flat(OmegaConf.to_container(composed, resolve=True))
        del settings["run_id"]
    folder = str(composed.hydra.sweep.subdir)
    return Point(num, list(overrides), settings, folder, pickle.dumps(composed), case)


def refuse_shared_folders(points: Sequence[Point]) -> None:
    """Raise ConfigError when two points would write to one folder, or one to the sweep's own."""
    folders = [os.path.normpath(point.folder) for point in points]
    if "." in folders:
        problem, hint = "puts a point into the sweep's own folder", "keep ${hydra.job.num} in it"
        raise ConfigError("hydra.sweep.subdir", problem, hint, ".")
    if len(set(folders)) < len(points):
        twice = next(name for name in folders if folders.count(name) > 1)
        problem = "puts several points into one folder"
        raise ConfigError("hydra.sweep.subdir", problem, "keep ${hydra.job.num} in it", twice)


def title(point: Point, keys: Sequence[str]) -> str:
    """What tells a point from the others: see `in_short`."""
    return in_short({key: point.chosen.get(key) for key in keys})


def points_text(points: Sequence[Point], command: Sequence[str]) -> str:
    """points.json: how the sweep was asked for, and every point against the first one."""
    points = sorted(points, key=lambda point: point.num)
    base = points[0].settings
    rows = [
        {
            "num": p.num,
            "folder": p.folder,
            "case": p.case,
            "same_as": p.same_as,
            "former": p.former,
            "overrides": p.overrides,
            "differs": {k: v for k, v in p.settings.items() if k not in base or base[k] != v},
            "lacks": [key for key in base if key not in p.settings],
            **({} if p.trial is None else {"trial": p.trial}),
        }
        for p in points
    ]
    # a line per point
    lines = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows)
    head = json.dumps({"command": list(command), "first": base}, ensure_ascii=False, indent=2)
    return f'{head[:-2]},\n  "points": [\n    {lines}\n  ]\n}}\n'


@dataclass(frozen=True)
class Started:
    """What points.json of a sweep says."""

    folder: Path
    command: list[str]
    points: list[Point]  # without their composed configs


def read_points(folder: Path) -> Started:
    """The grid that a sweep folder was started with.

    Raises:
        UserError: when the folder holds no sweep of this launcher, or what none of ours writes:
            points elsewhere, overrides of Hydra itself.
    """
    file, problems = folder / POINTS, list[str]()
    command, listed = read_grid(folder, problems)
    if not file.exists():
        chosen = f"; {CHOSEN}" if (folder / LEADERBOARD).exists() else ""
        raise UserError(f"{folder} is no sweep that can be resumed: it has no {POINTS}{chosen}")
    if problems or not listed:
        said = problems[0] if problems else "it has no points"
        raise UserError(f"{file} cannot be read: {said}")
    points = [
        Point(
            p.num,
            list(p.overrides),
            dict(p.settings),
            p.folder,
            b"",
            p.case,
            p.same_as,
            p.former,
            trial=p.trial,
        )
        for p in listed
    ]
    for place in (EARLIER, JOBS, *(point.folder for point in points)):
        if leads_out(folder / place, folder):
            raise UserError(f"{folder / place} is a link that leads out of the sweep's folder")
    for override in command:
        if re.match(r"[+~]*hydra[./@=]", override) and not (
            OF_LAUNCHER.fullmatch(override) or OF_SEARCH.fullmatch(override)
        ):
            raise UserError(f"{file}: {override} is no setting of an experiment")
        try:
            check_read(*override.partition("=")[::2])
        except ConfigError as error:
            error.place = str(file)
            raise
    return Started(folder, list(command), points)


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a point; only a status, and what is wrong, when none can be read."""
    notes: list[str] = []
    found = run_folder.read_summary(folder, notes)
    if "status" in found:
        return found
    there = (folder / SUMMARY).exists()
    said = notes[0] if notes else f"{SUMMARY} has no status"
    return found | {"status": DAMAGED if there else MISSING, "error": said if there else None}
