"""Runs the points of a command line with -m in this program, in a folder of their own."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from command_lines import rows_but_times, summary_of
from grid_points import composing
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import flag_override

from lrexp.grid.launcher import Grid
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point
from lrexp.grid.settings import LauncherSettings
from lrexp.session.points import Points

FAST = ("experiment=smoke", "trainer.device=cpu", "data.leak_check=skip")
Setup = Callable[[Points], None]


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


COMPOSED: dict[tuple[str, ...], bytes] = {}  # points by overrides: several tests ask for the same


def composed_for(sweep: Path, overrides: tuple[str, ...]) -> list[Point]:
    """The points of a grid, which are to run in that folder."""
    if overrides not in COMPOSED:
        with composing() as points:
            COMPOSED[overrides] = pickle.dumps(points(*FAST, *overrides, equal=True))
    found: list[Point] = pickle.loads(COMPOSED[overrides])
    for point in found:
        config = point.config
        with flag_override(config, ["struct", "readonly"], False):
            config.hydra.sweep.dir = str(sweep)
        point.composed = pickle.dumps(config)
    return found


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
    ) -> Ran:
        sweep = folder / f"sweep{next(count)}"
        composed = composed_for(sweep, overrides)
        sweep.mkdir()
        board = Leaderboard(sweep)
        board.points = composed
        context = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
        chosen = LauncherSettings(executor=executor, **(settings or {}))
        task = Points()
        task.asked = list(asked)
        ended = Grid(board, context, task, chosen).run(_once(composed))
        return Ran(composed, ended, sweep, say())

    yield run
    for handler in logging.root.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def _once(points: Sequence[Point]) -> list[Point]:
    return [point for point in points if point.same_as is None]
