"""What may be told of two runs that round differently."""

from __future__ import annotations

import math
from typing import Any

from lrexp.runs.rounding import FLOOR, MULTIPLE, SURELY, compare_rows, weights_allowed

ROW = {"val/loss": 0.5, "train_eval/loss": 0.4, "gap/loss": 0.1, "val/accuracy": 0.9}
ROW |= {"drift/all": 0.01, "lr/all": 1e-3, "perf/epoch_s": 1.0}


def rows(epochs: int = 3, **moved: float) -> list[dict[str, Any]]:
    """Rows with the metrics of `ROW`; what is given, `_` for `/`, is added in the last one."""
    made: list[dict[str, Any]] = [{"epoch": e + 1, **ROW} for e in range(epochs)]
    for metric, by in moved.items():
        made[-1][metric.replace("_", "/", 1)] += by
    return made


def test_what_is_within_a_multiple_of_the_twins_deviation_is_allowed() -> None:
    twin = rows(val_loss=1e-5)
    allowed = FLOOR + MULTIPLE * 1e-5
    within = compare_rows(rows(val_loss=0.9 * allowed), rows(), twin, 1000)
    assert (within.differ, within.doubtful, within.untold) == ((), (), None)
    assert math.isclose(within.allowed, allowed, rel_tol=1e-6)
    near = compare_rows(rows(val_loss=2 * allowed), rows(), twin, 1000)
    assert (near.differ, near.doubtful) == ((), ("val/loss",))
    far = compare_rows(rows(val_loss=1.1 * SURELY * allowed), rows(), twin, 1000)
    assert (far.differ, far.doubtful) == (("val/loss",), ())


def test_small_sizes_are_told_in_their_own_units() -> None:
    for metric in ("drift_all", "lr_all"):
        by = 1e-3 * ROW[metric.replace("_", "/", 1)]
        assert compare_rows(rows(**{metric: by}), rows(), rows(), 1000).differ
    assert not compare_rows(rows(gap_loss=5e-6), rows(), rows(), 1000).doubtful  # as losses round


def test_a_twin_that_goes_elsewhere_ends_what_can_be_told_and_not_what_was_before() -> None:
    twin = rows(val_loss=0.05)
    assert compare_rows(rows(val_loss=0.3), rows(), twin, 1000).untold == 3
    early = rows()
    early[0]["val/loss"] += 0.01
    found = compare_rows(early, rows(), twin, 1000)
    assert (found.differ, found.untold) == (("val/loss",), 3)
    assert compare_rows(rows(), rows(), rows(2), 1000).untold == 3  # it ended earlier
    assert compare_rows(rows(val_loss=math.nan), rows(), rows(), 1000).differ == ("val/loss",)


def test_shares_of_images_change_by_whole_images() -> None:
    for images, by, told in ((1000, 0.009, True), (36, 2 / 36, True), (1000, 0.06, False)):
        found = compare_rows(rows(val_accuracy=-by), rows(), rows(), images)
        assert (not found.differ and not found.doubtful) == told


def test_weights_are_told_against_how_far_they_went() -> None:
    assert weights_allowed(1e-7, rows()) == FLOOR + MULTIPLE * 1e-7
    assert weights_allowed(5e-4, rows()) is None  # a tenth of the drift of 0.01 is less
    assert weights_allowed(None, rows()) is None
