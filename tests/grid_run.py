"""Runs the points of a command line with -m in this program, in a folder of their own."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from command_lines import rows_but_times, summary_of
from grid_points import composing
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig

from lrexp.grid.jobs import Session
from lrexp.grid.launcher import run_points
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point
from lrexp.grid.points.resume import UNDONE, make_ready
from lrexp.grid.settings import LauncherSettings
from lrexp.runs.resume import Stopped
from lrexp.session.points import Points

FAST = ("experiment=smoke", "trainer.device=cpu", "data.leak_check=skip")


class Dying(Points):
    """Whoever trains the point with seed 1 for the first time gets a signal in its first epoch.

    Its state is saved by then, unless there is to be none.
    """

    def __init__(self, number: int, marker: Path, saved: bool = True):
        super().__init__()
        self.number, self.marker, self.saved = number, marker, saved

    def __call__(self, composed: DictConfig, *stopped: Stopped) -> float:
        if composed.seed == 1 and not self.marker.exists():
            from lrexp.tasks.train import Training
            from lrexp.train.loop import Trainer

            self.marker.touch()

            def die(*_: Any) -> None:
                os.kill(os.getpid(), self.number)

            if self.saved:
                Training.row = die  # type: ignore[method-assign]
            else:
                Trainer.run = die  # type: ignore[method-assign]
        return super().__call__(composed, *stopped)

    def for_worker(self) -> Points:
        own = copy.copy(self)
        vars(own).update(vars(super().for_worker()))
        return own


@dataclass
class Ran:
    """What came of a grid."""

    points: list[Point]
    ended: dict[int, JobReturn]
    folder: Path
    said: str = ""

    def summary(self, num: int) -> dict[str, Any]:
        """summary.json of a point."""
        return summary_of(self.of(num))

    def rows(self, num: int) -> list[dict[str, Any]]:
        """All rows of a point but how long they took."""
        return rows_but_times(self.of(num))

    def log(self, num: int) -> str:
        """lrexp.log of a point."""
        return (self.of(num) / "lrexp.log").read_text()

    def weights(self, num: int) -> dict[str, torch.Tensor]:
        """Of the last epoch."""
        file = self.of(num) / "checkpoints" / "last.pt"
        return torch.load(file, weights_only=True)["model"]

    def of(self, num: int) -> Path:
        """A point's folder."""
        return self.folder / self.points[num].folder


@contextmanager
def running(folder: Path, say: Callable[[], str]) -> Iterator[Callable[..., Ran]]:
    """A function from an executor and overrides to what came of the grid, run below `folder`."""
    handlers, level = logging.root.handlers[:], logging.root.level
    count = iter(range(1000))

    def run(
        executor: str,
        *overrides: str,
        settings: dict[str, Any] | None = None,
        asked: Sequence[type[BaseException]] = (),
        task: Points | None = None,
    ) -> Ran:
        sweep = folder / f"sweep{next(count)}"
        composed = [_placed(point, sweep) for point in _composed(*overrides)]
        sweep.mkdir()
        board = Leaderboard(sweep)
        board.points = composed
        context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
        chosen = LauncherSettings(executor=executor, **(settings or {}))
        task = task or Points()
        task.asked = list(asked)
        ended = run_points(_once(composed), Session(context, task, chosen, sweep), board)
        return Ran(composed, ended, sweep, say())

    def go_on(executor: str, stopped: Path, *overrides: str, restart: bool = False) -> Ran:
        composed = [_placed(point, stopped) for point in _composed(*overrides)]
        board = Leaderboard(stopped)
        board.points = composed
        board.look_up(composed)
        todo = [point for point in _once(composed) if board.status(point.num) in UNDONE]
        make_ready(stopped, todo, board.status, print, restart)
        context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
        chosen = LauncherSettings(executor=executor)
        ended = run_points(todo, Session(context, Points(), chosen, stopped), board)
        return Ran(composed, ended, stopped, say())

    run.go_on = go_on  # type: ignore[attr-defined]
    yield run
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@cache
def _composed(*overrides: str) -> list[Point]:
    with composing() as points:
        return points(*FAST, "logger=none", *overrides, equal=True)


def _placed(point: Point, sweep: Path) -> Point:
    """A copy of a point, in another sweep's folder."""
    placed = replace(point)
    with placed.changed() as composed:
        composed.hydra.sweep.dir = str(sweep)
    return placed


def _once(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.same_as is None]
