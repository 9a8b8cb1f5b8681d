"""Whether two runs that round differently are one run: judged by what rounding does to that run.

That is measured with a twin (`lrexp.tasks.twin`): the run itself but for its weights, moved in the
seventh digit. How far the twin gets from the run, times `MULTIPLE`, is allowed to the other one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrexp.runs.differences import number

# Honest reruns were seen to get up to 3 times as far as their twins do. So many times is allowed;
# what is beyond `SURELY` times that is another run, and of what lies between nothing is said.
MULTIPLE, SURELY = 10.0, 5.0
UNCOMPARED = ("perf/", "guessing")  # a clock, and a yes or no that the others decide
FLOOR = 1e-5  # allowed besides: a twin may come close by chance
# Where more than this would be allowed, nothing can be told. Of a metric relative to its scale, see
# `_apart`; of all weights relative to their norm, and to how far training has moved them.
MOST_METRIC, MOST_WEIGHTS, MOST_OF_DRIFT = 1e-2, 1e-2, 0.1
# Shares of images change by whole images, however small the cause: that many of them, or this much.
IMAGES, COUNTED = 3, 1e-2
SIZES = ("drift/", "lr", "update_ratio/", "grad_norm")  # in units of their own, however small

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """What was found in the epochs that can be told."""

    differ: tuple[str, ...] = ()  # metrics that surely are others, worst first
    doubtful: tuple[str, ...] = ()  # metrics that are farther apart than allowed, worst first
    largest: float = 0.0  # deviation of a metric that is no share of images
    allowed: float = 0.0  # at most, in the same unit
    untold: int | None = None  # the first epoch of which nothing can be told


def compare_rows(
    was: Sequence[Row], now: Sequence[Row], twin: Sequence[Row], images: int | None
) -> Found:
    """Compare the metrics of the epochs that both have, as far as they can be told.

    Args:
        was: rows of the run.
        now: rows of its rerun.
        twin: rows of the rerun's twin.
        images: of the smallest set that shares are taken over; None where it is not known.
    """
    theirs, twins = ({row["epoch"]: row for row in rows} for rows in (now, twin))
    shares = max(COUNTED, IMAGES / images) if images else COUNTED
    beyond: dict[str, float] = {}  # largest deviation of each metric over what is allowed
    largest = most = 0.0
    rounding = {True: 0.0, False: 0.0}  # of sizes and of all else, so far
    for row in was:
        epoch = row["epoch"]
        if epoch not in theirs:
            continue
        here, beside = theirs[epoch], twins.get(epoch)
        names = [m for m in dict.fromkeys([*row, *here]) if not m.startswith(UNCOMPARED)]
        for metric in names:
            if not _counted(metric):
                apart = _apart(metric, here, beside) if beside else math.inf
                size = metric.startswith(SIZES)
                rounding[size] = max(rounding[size], apart)
        allowed = {size: FLOOR + MULTIPLE * apart for size, apart in rounding.items()}
        if max(allowed.values()) > MOST_METRIC:
            break
        most = max(most, *allowed.values())
        for metric in names:
            apart = _apart(metric, here, row)
            limit = allowed[metric.startswith(SIZES)]
            if _counted(metric):
                limit = max(limit, shares)
            else:
                largest = max(largest, apart)
            beyond[metric] = max(apart / limit, beyond.get(metric, 0.0))
    else:
        epoch = None
    worst = sorted(beyond, key=lambda metric: -beyond[metric])
    differ = tuple(metric for metric in worst if beyond[metric] > SURELY)
    doubtful = tuple(metric for metric in worst if 1 < beyond[metric] <= SURELY)
    return Found(differ, doubtful, largest, most, epoch)


def weights_allowed(twin_apart: float | None, rows: Sequence[Row]) -> float | None:
    """How far apart final weights may be, of their norm; None where it cannot be told.

    Args:
        twin_apart: how far the twin's are; None where that is not known.
        rows: of the run.
    """
    drifts = [number(v) for k, v in (rows[-1] if rows else {}).items() if k.startswith("drift/")]
    moved = max((drift for drift in drifts if math.isfinite(drift)), default=math.inf)
    most = min(MOST_WEIGHTS, max(FLOOR, MOST_OF_DRIFT * moved))
    allowed = math.inf if twin_apart is None else FLOOR + MULTIPLE * twin_apart
    return allowed if allowed <= most else None


def _counted(metric: str) -> bool:
    """Whether a metric is made of numbers of images that are right."""
    return "accuracy" in metric or "f1" in metric


def _apart(metric: str, row: Row, other: Row) -> float:
    """How far a metric of two rows is apart, of its value or of the losses where they are larger.

    What is a difference of losses, such as the gap, rounds as they do, however small it is.
    """
    a, b = number(row.get(metric)), number(other.get(metric))
    if repr(a) == repr(b):
        return 0.0
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    scale = max(abs(a), abs(b))
    if not metric.startswith(SIZES):
        losses = [number(row.get(f"{split}/loss")) for split in ("train_eval", "val")]
        scale = max([1.0, scale, *(abs(loss) for loss in losses if math.isfinite(loss))])
    return abs(b - a) / scale
