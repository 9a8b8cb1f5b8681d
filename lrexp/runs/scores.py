"""What configurations scored that were trained on shared seeds, image by image, read back.

They are the cases of a sweep; every one of its runs is a try of its case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import UserError, few
from lrexp.folder.layout import PLAN, POINTS, PREDICTIONS
from lrexp.plan.plan import read_plan
from lrexp.runs.predictions import Predictions, read_predictions
from lrexp.runs.run import content, read_summary
from lrexp.runs.sweep import DIVERGED, FINISHED, SweepPoint, read_sweep

if TYPE_CHECKING:
    import numpy as np

COLLAPSED = "collapsed"  # of the kinds of verdicts


@dataclass(frozen=True)
class Try:
    """A run of a configuration that came to its end."""

    seed: int
    folder: str  # below the sweep's
    status: str  # finished or diverged
    kinds: tuple[str, ...]  # of its verdicts
    took_s: float
    right: np.ndarray | None  # (n,) 0 or 1; None of one that diverged
    losses: np.ndarray | None  # (n,)

    @property
    def lost(self) -> str:
        """`diverged` or `collapsed`: it counts as one that guesses; empty for neither."""
        if self.status == DIVERGED:
            return DIVERGED
        return COLLAPSED if COLLAPSED in self.kinds else ""


@dataclass(frozen=True)
class Tried:
    """Configurations by name, with their tries by seed, on the n images of one split."""

    folder: Path
    split: str  # test, or val where there is no test split
    monitor: str  # what chose the epoch of every run
    images: tuple[tuple[int, str], ...]  # id and item
    labels: np.ndarray  # (n,) classes, or (n, classes) of 0 and 1
    groups: np.ndarray | None  # (n,) codes of data.group_by
    classes: Mapping[str, Any]  # `data.classes` of a summary, see judge.classes.class_facts
    tries: Mapping[str, Mapping[int, Try]]
    undone: tuple[SweepPoint, ...]  # have no result: never began, were stopped, failed
    settings: Mapping[str, Any]  # of one of its points
    fresh: int | None  # tensors whose first values a seed draws; None: not known

    def seeds(self, names: Sequence[str]) -> tuple[int, ...]:
        """Those that every one of these configurations has, ascending."""
        shared = [set(self.tries.get(name, ())) for name in names]
        return tuple(sorted(set.intersection(*shared))) if shared else ()


def read_tried(folder: Path, split: str = "test") -> Tried:
    """What the runs of a sweep made of cases predicted of the images they are compared on.

    These are the test images, or those of val where no run has test images.

    Args:
        folder: of the sweep.
        split: `val`: its images, whether or not there are test images.

    Raises:
        UserError: when a file cannot be read, no run has finished, or runs were not measured on the
            same images, labels and groups.
    """
    sweep = read_sweep(folder)
    points = [point for point in sweep.points if not point.former]
    by_num = {point.num: point for point in sweep.points}
    tries: dict[str, dict[int, Try]] = {}
    undone: list[SweepPoint] = []
    first: Predictions | None = None
    at = ""
    for point in points:
        ran = by_num[point.same_as] if point.same_as is not None else point
        if ran.status not in (FINISHED, DIVERGED):
            if point is ran or ran.former:
                undone.append(point)
            continue
        found = None
        if ran.status == FINISHED:
            file = folder / ran.folder / PREDICTIONS
            found = read_predictions(file, split)
            if found is None and first is None:
                split = "val"
                found = read_predictions(file, split)
            if found is None:
                raise UserError(
                    f"{file} is missing, or says nothing of the {split} images: remove the folder"
                    " around it and go on, which trains the run again"
                )
            if first is None:
                first, at = found, ran.folder
            _refuse_others(folder, (at, first), (ran.folder, found))
        right, losses = (found.right, found.losses) if found else (None, None)
        if type(point.seed) is not int:
            raise UserError(f"{folder / POINTS}: point {point.num} has no seed: {point.seed!r}")
        tries.setdefault(point.case, {})[point.seed] = Try(
            point.seed, ran.folder, ran.status, ran.kinds, ran.took_s, right, losses
        )
    if first is None:
        raise UserError(f"{folder}: none of its runs has finished, there is nothing to compare")
    if first.groups is None and points[0].settings.get("data.group_by"):
        raise UserError(
            f"{folder / at / PREDICTIONS} does not say which images belong together, and"
            " data.group_by is set: it was written by an older lrexp"
        )
    classes = read_summary(folder / at, [])["data"].get("classes")
    return Tried(
        folder,
        split,
        sweep.monitor,
        tuple(first.images),
        first.labels,
        first.groups,
        classes if isinstance(classes, Mapping) else {},
        tries,
        tuple(undone),
        points[0].settings,
        _fresh(folder / at / PLAN),
    )


def _fresh(file: Path) -> int | None:
    """How many tensors a plan has that came from no weights."""
    plan = content(file, read_plan, None, [])
    return None if plan is None else sum(row.source == "fresh" for row in plan.rows)


def _refuse_others(
    folder: Path, one: tuple[str, Predictions], other: tuple[str, Predictions]
) -> None:
    """Raise UserError unless two runs were measured on the same images, by the same labels."""
    (a, first), (b, second) = one, other
    ours, theirs = set(first.images), set(second.images)
    said = ""
    if ours != theirs:
        lone = [item for _, item in sorted(ours ^ theirs)]
        said = f"{len(lone)} images are in one alone: {few(lone, 3)}"
    elif first.classes != second.classes or first.labels.shape != second.labels.shape:
        said = "their classes differ"
    elif (first.labels != second.labels).any():
        changed = (first.labels != second.labels).reshape(len(first.images), -1).any(1).nonzero()[0]
        lone = [first.images[i][1] for i in changed.tolist()]
        said = f"{len(lone)} images have another label: {few(lone, 3)}"
    elif (first.groups is None) != (second.groups is None) or (
        first.groups is not None and (first.groups != second.groups).any()
    ):
        said = "their images are grouped otherwise"
    if said:
        raise UserError(f"{folder}: {a} and {b} were not measured on the same images: {said}")
