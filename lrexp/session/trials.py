"""Given configurations trained on given seeds through the grid: started, gone on with, extended."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString

from lrexp.config.compose import CheckedLoader
from lrexp.config.errors import UserError, few
from lrexp.config.names import shown_path
from lrexp.folder.layout import CASES, OF_SWEEP, POINTS, WANDB
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.cases import made_cases
from lrexp.grid.points.point import Point
from lrexp.grid.points.resume import UNDONE
from lrexp.grid.settings import OF_LAUNCHER
from lrexp.runs.sweep import SEED, Sweep, read_grid
from lrexp.session.hydra import hydra_of
from lrexp.session.others import (
    refuse_changed,
    refuse_downloads,
    refuse_leading_out,
    refuse_override,
    refuse_unpredicted,
)
from lrexp.session.request import loader_of, read_request
from lrexp.session.sweep import Around, Say, run_request


@dataclass(frozen=True)
class Trials:
    """Configurations, and the seeds that each is trained on."""

    folder: Path  # the grid's; it goes on with what it holds
    asked: Mapping[str, Sequence[str]]  # name → overrides without a seed
    seeds: Mapping[str, Sequence[int]]  # by name
    how: Sequence[str] = ()  # overrides of the launcher
    ran: Mapping[str, Mapping[str, Any]] | None = None  # settings by name, which must be the same


def loader_for(sweep: Path) -> CheckedLoader:
    """What composes as a sweep did: around its saved config, with its folders of options."""
    return loader_of(sweep, CheckedLoader())


def launched_with(sweep: Sweep) -> list[str]:
    """The overrides that said how a sweep's points are run."""
    return [override for override in sweep.command if OF_LAUNCHER.fullmatch(override)]


def train_trials(
    loader: CheckedLoader,
    trials: Trials,
    say: Say,
    begin: Callable[[], object] = lambda: None,
    said: set[str] | None = None,
) -> Leaderboard:
    """Train what the folder has no result of yet, and return what came of all.

    Args:
        loader: composes the configurations.
        trials: what to train.
        say: takes a line for whoever waits.
        begin: is called once the folder is claimed, before anything is trained.
        said: see `Around`.

    Raises:
        UserError: for a configuration that cannot be composed, or is no longer the one that it was.
        RunFailedError: when the grid as a whole failed; a run that did stops nothing.
    """
    for override in (one for asked in trials.asked.values() for one in asked):
        refuse_override(override)
    common = _common(trials.asked)
    axes = {
        name: [
            *(override for override in asked if override not in common),
            f"{SEED}={','.join(map(str, trials.seeds[name]))}",
        ]
        for name, asked in trials.asked.items()
    }
    known = {**(trials.ran or {}), **_ran_before(trials.folder)}

    def refuse(points: Sequence[Point]) -> None:
        refuse_changed(((point.case, point) for point in points), known)
        refuse_downloads(points)

    around = Around(
        say,
        refuse,
        begin,
        failures if said is not None else closing_lines,
        said,
    )
    return train_cases(loader, trials.folder, axes, [*trials.how, *common], around)


def train_cases(
    loader: CheckedLoader,
    folder: Path,
    axes: Mapping[str, Sequence[str]],
    common: Sequence[str],
    around: Around,
) -> Leaderboard:
    """Train the cases of a grid as far as its folder has no result of them.

    Args:
        loader: composes the points.
        folder: the grid's; it goes on with what it holds, whatever the grid was then.
        axes: case → overrides, an axis as KEY=VALUE,VALUE.
        common: overrides that every point has, and those of the launcher.
        around: what is done around it.

    Raises:
        UserError, RunFailedError: as `train_trials` does.
    """
    refuse_leading_out(folder, OF_SWEEP)
    overrides = [*common, f"hydra.sweep.dir={_quoted(folder)}"]
    if (folder / POINTS).is_file():
        resumed = [f"hydra.launcher.resume={_quoted(folder)}"]
        overrides += [*resumed, "hydra.launcher.allow_changed_grid=true"]
    with hydra_of(loader):
        request = read_request(loader, overrides)
        request.cases = made_cases(folder / CASES, axes)

        def refuse(points: Sequence[Point]) -> None:
            around.check(points)
            refuse_unpredicted(points)

        return run_request(request, replace(around, check=refuse))


def _common(asked: Mapping[str, Sequence[str]]) -> list[str]:
    """The overrides that all have, and settings taken away, which no case can say.

    Raises:
        UserError: when one alone takes a setting away.
    """
    lists = list(asked.values())
    common = [o for o in lists[0] if all(o in other for other in lists)]
    for name, overrides in asked.items():
        if lone := [o for o in overrides if o.startswith("~") and o not in common]:
            raise UserError(f"{name}: {few(lone)} is not taken away of all: nothing was run")
    return common


def _quoted(folder: Path) -> str:
    return QuotedString(str(folder), Quote.single).with_quotes()


def _ran_before(folder: Path) -> dict[str, Mapping[str, Any]]:
    """The settings of the configurations that the grid already has points of, by name."""
    return {point.case: point.settings for point in read_grid(folder, [])[1]}


def closing_lines(board: Leaderboard) -> list[str]:
    """What became of runs that are no part of a comparison, and where all of them are."""
    lines = failures(board)
    asked = [point for point in board.points if not point.former and point.same_as is None]
    undone = [point for point in asked if board.status(point.num) in UNDONE]
    if undone:
        lines.append(f"{len(undone)} of {len(asked)} runs have no result")
    kept = ((board.folder / p.folder / WANDB).glob("offline-run-*") for p in board.points)
    shown = shlex.quote(shown_path(board.folder))
    if any(next(found, None) for found in kept):
        lines.append(f"wandb  offline; upload with: lrexp sync {shown}")
    lines.append(f"runs   {shown_path(board.folder)}")
    return lines


def problems_only(say: Say) -> Say:
    """Of what a sweep says, what people have to know."""

    def heard(line: str) -> None:
        for one in line.splitlines():
            if one.startswith(("failed", "warning")):
                say(one)

    return heard


def failures(board: Leaderboard) -> list[str]:
    """A line on every run that failed."""
    return [f"failed {point.folder}: {error}" for point, error in board.failed()]
