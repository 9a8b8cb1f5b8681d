"""W&B runs of the best points of a grid that has ended: logger.points=best."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from lrexp.folder.layout import HYDRA, HYDRA_CONFIG
from lrexp.grid.leaderboard import Leaderboard
from lrexp.grid.points.point import Point
from lrexp.record.wandb.saved import has_run, record_saved
from lrexp.runs.run import read_yaml
from lrexp.runs.sweep import FINISHED
from lrexp.session.points import point_title

log = logging.getLogger(__name__)


def record_best(board: Leaderboard, say: Callable[[str], object]) -> None:
    """Record every finished seed of each policy's best configuration, unless it has a run.

    `say` is told how many there are.
    """
    todo = [point for point in best_points(board) if _has_none(board.folder / point.folder)]
    if todo:
        runs = "1 run" if len(todo) == 1 else f"{len(todo)} runs"
        say(f"wandb  records the best of each policy: {runs}")
    for point in todo:
        folder = board.folder / point.folder
        record_saved(folder, board.folder.name, _title(folder))


def _has_none(folder: Path) -> bool:
    """Whether a point has no W&B run; one that is damaged is left as it is, with a warning."""
    try:
        return not has_run(folder)
    except ValueError as error:
        log.warning("the W&B run of %s cannot be read: %s", folder, error)
        return False


def best_points(board: Leaderboard) -> list[Point]:
    """By the leaderboard the best configuration of each policy: its points that finished.

    Of cases each has its own best. Points alone whose own settings ask for it.
    """
    asked = {
        point.num: point
        for point in board.points
        if point.settings.get("logger.points") == "best" and point.settings["task.name"] == "train"
    }
    if not asked:
        return []
    found: dict[tuple[str, str], list[Point]] = {}
    for row in board.board()["configurations"]:  # best first
        ended = [num for num in row["points"] if board.status(num) == FINISHED]
        points = [asked[num] for num in ended if num in asked]
        if points and not row["former"]:
            found.setdefault((row["case"], points[0].settings["lr_policy.name"]), points)
    return [point for points in found.values() for point in points]


def _title(folder: Path) -> str:
    """What its run would have been called; empty where the folder does not say."""
    try:
        return point_title(OmegaConf.create(read_yaml(folder / HYDRA / HYDRA_CONFIG)).hydra)
    except Exception:  # whatever the file holds
        return ""
