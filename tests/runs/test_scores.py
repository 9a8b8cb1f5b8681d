"""What confirmed runs scored, image by image, and what cannot be compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from confirmed_runs import CLASSES, made_scores, write_confirmed, write_predictions

from lrexp.config.errors import UserError
from lrexp.folder.layout import POINTS, PREDICTIONS
from lrexp.runs.predictions import read_predictions
from lrexp.runs.scores import read_tried

LABELS = np.arange(12) % 3


def right(seeds: int = 2, n: int = 12) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: draw.random((seeds, n)) < 0.7 for name in ("uniform", "lp_ft")}


def run(folder: Path, name: str, seed: int) -> Path:
    (found,) = folder.glob(f"*{name}*{seed}")
    return found


def test_tries_are_by_name_and_seed_and_images_by_their_id(tmp_path: Path) -> None:
    wanted = right()
    tried = read_tried(write_confirmed(tmp_path / "c", wanted, LABELS))
    assert tried.split == "test"
    assert tried.images == tuple((i, f"image {i}") for i in range(12))
    assert tried.labels.tolist() == LABELS.tolist()
    assert tried.groups is None
    assert tried.seeds(["uniform", "lp_ft"]) == (1000, 1001)
    for name, rows in wanted.items():
        for i, row in enumerate(rows):
            one = tried.tries[name][1000 + i]
            assert one.right is not None
            assert one.losses is not None
            assert one.right.tolist() == row.tolist()
            expected = np.where(row, -math.log(0.8), -math.log(0.1))
            assert one.losses == pytest.approx(expected, rel=1e-6)


def test_what_was_lost_and_what_is_undone_is_told_apart(tmp_path: Path) -> None:
    ends = {
        ("uniform", 1000): "diverged",
        ("uniform", 1001): "collapsed",
        ("lp_ft", 1001): "missing",
        ("lp_ft", 1002): "failed",
    }
    tried = read_tried(write_confirmed(tmp_path / "c", right(3), LABELS, lost=ends))
    of_uniform = tried.tries["uniform"]
    assert [of_uniform[seed].lost for seed in (1000, 1001, 1002)] == ["diverged", "collapsed", ""]
    assert of_uniform[1000].right is None
    assert of_uniform[1001].right is not None
    assert [point.status for point in tried.undone] == ["missing", "failed"]
    assert tried.seeds(["uniform", "lp_ft"]) == (1000,)


def test_a_point_that_trains_as_a_former_one_has_its_result(tmp_path: Path) -> None:
    folder = write_confirmed(tmp_path / "c", right(), LABELS)
    grid = json.loads((folder / POINTS).read_text())
    grid["points"][0]["former"] = True
    grid["points"][1]["same_as"] = 0
    (folder / POINTS).write_text(json.dumps(grid))
    tried = read_tried(folder)
    assert tried.tries["uniform"][1001].folder == grid["points"][0]["folder"]


@pytest.mark.parametrize("seed", [None, [1000], "many"])
def test_a_point_without_a_seed_is_refused_by_its_file(tmp_path: Path, seed: object) -> None:
    folder = write_confirmed(tmp_path / "c", right(), LABELS)
    grid = json.loads((folder / POINTS).read_text())
    grid["points"][1]["differs"]["seed"] = seed
    (folder / POINTS).write_text(json.dumps(grid))
    with pytest.raises(UserError, match=r"points\.json: point 1 has no seed"):
        read_tried(folder)


def test_without_test_images_val_is_used(tmp_path: Path) -> None:
    assert read_tried(write_confirmed(tmp_path / "c", right(), LABELS, split="val")).split == "val"


def test_groups_of_images_are_read_and_missing_ones_refused(tmp_path: Path) -> None:
    groups = [i // 4 for i in range(12)]
    folder = write_confirmed(tmp_path / "c", right(), LABELS, groups=groups)
    found = read_tried(folder).groups
    assert found is not None
    assert found.tolist() == groups
    older = write_confirmed(tmp_path / "o", right(), LABELS, settings={"data.group_by": "patient"})
    with pytest.raises(UserError, match=r"data\.group_by is set"):
        read_tried(older)


def test_a_file_without_groups_is_read_as_before(tmp_path: Path) -> None:
    scores = made_scores(LABELS, LABELS > 0)
    plain = read_predictions(write_predictions(tmp_path / "a.parquet", LABELS, scores), "test")
    file = write_predictions(tmp_path / "b.parquet", LABELS, scores, groups=range(12))
    grouped = read_predictions(file, "test")
    assert plain is not None
    assert grouped is not None
    assert plain.groups is None
    assert plain.losses.tolist() == grouped.losses.tolist()
    assert read_predictions(file, "test", most_scores=36) is not None  # its last column counts
    assert read_predictions(file, "test", most_scores=35) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"first_id": 1}, r"2 images are in one alone: image 0, image 12"),
        ({"labels": (LABELS + (LABELS > 1)) % 3}, "4 images have another label: image 2"),
        ({"groups": [0] * 12}, "grouped otherwise"),
    ],
)
def test_runs_on_other_images_are_not_paired(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    folder = write_confirmed(tmp_path / "c", right(), LABELS)
    labels = change.pop("labels", LABELS)
    file = run(folder, "lp_ft", 1001) / PREDICTIONS
    write_predictions(file, labels, made_scores(LABELS, LABELS > 0), **change)  # type: ignore
    with pytest.raises(UserError, match=said):
        read_tried(folder)


def test_a_finished_run_without_predictions_is_no_score(tmp_path: Path) -> None:
    folder = write_confirmed(tmp_path / "c", right(), LABELS)
    (run(folder, "lp_ft", 1001) / PREDICTIONS).unlink()
    with pytest.raises(UserError, match="is missing, or says nothing of the test images"):
        read_tried(folder)


def test_nothing_but_diverged_runs_compares_nothing(tmp_path: Path) -> None:
    ends = {(name, 1000 + i): "diverged" for name in ("uniform", "lp_ft") for i in range(2)}
    with pytest.raises(UserError, match="none of its runs has finished"):
        read_tried(write_confirmed(tmp_path / "c", right(), LABELS, lost=ends, classes=CLASSES))
