"""Folders of confirmed runs with known predictions, as the grid writes them but untrained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic_sweep import outcome, went_wrong, write_sweep

from lrexp.folder.layout import PREDICTIONS

CLASSES = {
    "uneven": False,
    "majority": {"class": "a", "accuracy": {"train": 0.4, "val": 0.35, "test": 0.3}},
}


def write_predictions(
    file: Path,
    labels: np.ndarray,
    scores: np.ndarray,
    split: str = "test",
    groups: Sequence[int] | None = None,
    first_id: int = 0,
) -> Path:
    """The images of one split, in any order.

    Args:
        file: predictions.parquet.
        labels: (n,), or (n, classes) of 0 and 1.
        scores: (n, classes).
        split: whose images.
        groups: (n,).
        first_id: of the first image.
    """
    n = len(labels)
    columns: dict[str, Any] = {
        "id": np.arange(first_id, first_id + n),
        "item": [f"image {first_id + i}" for i in range(n)],
        "split": [split] * n,
        "label": labels.tolist(),
    }
    columns |= {} if groups is None else {"group": list(groups)}
    columns["scores"] = scores.astype(np.float32).tolist()
    table = pa.table(columns).replace_schema_metadata({"class_names": '["a", "b", "c"]'})
    pq.write_table(table.take(np.random.default_rng(0).permutation(n)), file)
    return file


def made_scores(labels: np.ndarray, right: np.ndarray, sure: float = 0.8) -> np.ndarray:
    """(n, 3) scores that are highest for the label where `right`, else for another class."""
    said = np.where(right, labels, (labels + 1) % 3)
    scores = np.full((len(labels), 3), (1 - sure) / 2)
    scores[np.arange(len(labels)), said] = sure
    return scores


def write_confirmed(
    folder: Path,
    right: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    lost: Mapping[tuple[str, int], str] | None = None,
    split: str = "test",
    groups: Sequence[int] | None = None,
    classes: Mapping[str, Any] = CLASSES,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Runs of configurations on seeds 1000, 1001, ... that are right on given images.

    Args:
        folder: of the runs.
        right: (seeds, n) of booleans by configuration.
        labels: (n,) of three classes.
        lost: how a run ended otherwise, by configuration and seed: diverged, collapsed, failed,
            missing.
        split: that the images are of.
        groups: (n,) of data.group_by.
        classes: `data.classes` of every summary.
        settings: of every point, beside the usual ones.
    """
    lost = lost or {}
    wanted = [
        {"case": name, "lr_policy": name, "optimizer.lr": 0.1, "seed": 1000 + i}
        for name, rows in right.items()
        for i in range(len(rows))
    ]
    names = [(chosen["case"], chosen["seed"]) for chosen in wanted]
    data = {"data": {"classes": dict(classes)}}

    def result(chosen: dict[str, Any]) -> dict[str, Any] | None:
        how = lost.get((chosen["lr_policy"], chosen["seed"]), "")
        if how == "missing":
            return None
        if how in ("diverged", "failed"):
            return went_wrong(how, "it broke" if how == "failed" else None) | data
        kinds = [{"kind": "collapsed", "severity": "error"}] if how == "collapsed" else []
        return outcome(0.5, verdicts=kinds, **data)

    grouped = {} if groups is None else {"data.group_by": "patient"}
    more = {"data.seed": 0, "data.augment": "none", **grouped, **(settings or {})}
    write_sweep(folder, {}, result, points=wanted, more=lambda chosen: more)
    rows = json.loads((folder / "points.json").read_text())["points"]
    for row, (name, seed) in zip(rows, names, strict=True):
        if lost.get((name, seed), "") in ("", "collapsed"):
            scores = made_scores(labels, right[name][seed - 1000])
            write_predictions(folder / row["folder"] / PREDICTIONS, labels, scores, split, groups)
    return folder
