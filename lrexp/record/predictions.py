"""What the best weights say of the images they are tested on: scores, mix-ups, the most wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrexp.data.dataset import Split
from lrexp.folder.files import csv_text, replacing, write_atomically
from lrexp.runs.predictions import judged

MOST_WRONG = 24  # images that are kept
IMAGES_AT_ONCE = 1024  # whose scores are worked out together
SIDE = 64  # pixels, of the longer side


def write_predictions(
    file: Path,
    splits: dict[str, Split],
    logits: dict[str, Tensor],
    class_names: Sequence[str],
    form: str = "all",
) -> None:
    """Columns id (position in the source), item (its file or row), split, label, scores per class.

    Scores are softmax and a label is a number; where images have several labels, scores are the
    sigmoid of each class and a label is a list of 0 and 1. Where data.group_by is set there is a
    column `group` before the scores: a number for images that are alike, the same in every run on
    these data, empty in splits without groups.

    In place of the scores of all classes the leaner forms have what runs are compared by, `loss`
    and `right` as `runs.predictions.judged` says them, and `predicted`: of `top5` the classes of
    the five highest scores, which are `top_scores`; of `labels` the class of the highest, or where
    images have several labels those above 0.5.

    Args:
        file: written whole or not at all.
        splits: by name.
        logits: (n, classes) per split.
        class_names: what labels and scores are of; in the file's metadata as `class_names`, JSON.
        form: `all`, `top5` or `labels`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    multi_label = next(iter(splits.values())).labels.ndim == 2
    labels = np.concatenate([split.labels.cpu().numpy() for split in splits.values()])
    columns: dict[str, Any] = {
        "id": np.concatenate([split.ids for split in splits.values()]),
        "item": [split.name(int(i)) for split in splits.values() for i in split.ids],
        "split": [name for name, split in splits.items() for _ in range(len(split))],
        "label": list(labels.astype(np.int8)) if multi_label else labels,
    }
    if any(split.groups is not None for split in splits.values()):
        columns["group"] = pa.array(
            [
                code
                for split in splits.values()
                for code in ([None] * len(split) if split.groups is None else split.groups.tolist())
            ],
            pa.int64(),
        )
    if form == "all":
        columns["scores"] = list(np.concatenate([_scores(x, multi_label) for x in logits.values()]))
    else:
        columns |= _in_short(labels, logits.values(), form)
    table = pa.table(columns)
    table = table.replace_schema_metadata({"class_names": json.dumps(list(class_names))})
    with replacing(file) as fresh:
        pq.write_table(table, fresh)


def _scores(logits: Tensor, multi_label: bool) -> np.ndarray:
    """(n, classes) float32."""
    logits = logits.float()
    scores = torch.sigmoid(logits) if multi_label else torch.softmax(logits, 1)
    return scores.cpu().numpy()


def _in_short(labels: np.ndarray, logits: Iterable[Tensor], form: str) -> dict[str, Any]:
    """Columns in place of the scores, a part of the images at a time: they may be gigabytes."""
    multi_label, start = labels.ndim == 2, 0
    found: dict[str, list[Any]] = {name: [] for name in ("loss", "right", "predicted")}
    found |= {"top_scores": []} if form == "top5" else {}
    for part in (part for of_split in logits for part in of_split.split(IMAGES_AT_ONCE)):
        scores = _scores(part, multi_label)
        losses, right = judged(labels[start : start + len(part)], scores.astype(np.float64))
        start += len(part)
        found["loss"] += losses.tolist()
        found["right"] += right.tolist()
        if form == "top5":
            top, at = torch.from_numpy(scores).topk(min(5, scores.shape[1]), 1)
            found["predicted"] += list(at.numpy().astype(np.int32))
            found["top_scores"] += list(top.numpy())
        elif multi_label:
            found["predicted"] += [np.flatnonzero(row).astype(np.int32) for row in scores > 0.5]
        else:
            found["predicted"] += scores.argmax(1).tolist()
    return found


def write_per_class(file: Path, rows: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """A line per split and class; a cell is empty where a number is undefined.

    Args:
        file: CSV, replaced as a whole.
        rows: by split, those of `judge.evaluate.class_rows`.
    """
    heading = ["split", *next(iter(rows.values()))[0]]
    lines = [[split, *row.values()] for split, of_split in rows.items() for row in of_split]
    write_atomically(file, csv_text([heading, *lines]))


def write_confusion(
    file: Path, counts: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> None:
    """Counts of images: a line per split and true class, a column per predicted class.

    Args:
        file: CSV, replaced as a whole.
        counts: (classes, classes) by split, true classes as rows.
        class_names: (classes,).
    """
    lines = [
        [split, name, *row]
        for split, of_split in counts.items()
        for name, row in zip(class_names, of_split.tolist(), strict=True)
    ]
    write_atomically(file, csv_text([["split", "true", *class_names], *lines]))


def write_wrong_images(
    file: Path,
    name: str,
    split: Split,
    logits: Tensor,
    losses: np.ndarray,
    correct: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Wrongly predicted images with the highest loss, worst first, as compressed arrays.

    Arrays, k of them at most 24: `images` (k, H, W, 1 or 3) uint8, at most 64 pixels high and wide;
    `item`, `true`, `predicted` (k,) text; `score` and `true_score` (k,) probabilities of the
    predicted and the true class (with several labels per image: NaN); `loss` (k,); `split` text.

    Args:
        file: written whole or not at all; nothing is written when no image is wrong.
        name: of the split.
        split: whose images they are.
        logits: (n, classes).
        losses: (n,) per image.
        correct: (n,) 1 where every label of the image is right.
        class_names: (classes,).
    """
    wrong = np.flatnonzero(correct == 0)
    chosen = wrong[np.argsort(-losses[wrong], kind="stable")][:MOST_WRONG]
    if not len(chosen):
        return
    order = torch.from_numpy(chosen).to(split.labels.device)
    labels, scores = split.labels[order].cpu(), logits[order].float().cpu()
    if labels.ndim == 2:
        said, truly = scores > 0, labels > 0
        predicted, true = ([_named(row, class_names) for row in rows] for rows in (said, truly))
        score = true_score = np.full(len(chosen), np.nan)
    else:
        scores = torch.softmax(scores, 1)
        best = scores.argmax(1)
        predicted, true = ([class_names[i] for i in found.tolist()] for found in (best, labels))
        score, true_score = (scores.gather(1, i[:, None])[:, 0].numpy() for i in (best, labels))
    (images,) = split.pixels.batches([split.rows[chosen]])
    pixels = images.cpu()
    with replacing(file) as fresh:
        np.savez_compressed(
            fresh,
            images=_small(pixels, split.normalize.white).permute(0, 2, 3, 1).numpy(),
            item=np.array([split.name(int(i)) for i in split.ids[chosen]]),
            true=np.array(true),
            predicted=np.array(predicted),
            score=score,
            true_score=true_score,
            loss=losses[chosen],
            split=np.array(name),
        )


def _named(row: Tensor, class_names: Sequence[str]) -> str:
    """The classes of a row of booleans."""
    places: list[int] = row.nonzero()[:, 0].tolist()
    return ", ".join(class_names[i] for i in places) or "none"


def _small(pixels: Tensor, white: int) -> Tensor:
    """(k, 1 or 3, h, w) uint8 of (k, C, H, W) uint8; of other channels the first or first three.

    Args:
        pixels: of the images.
        white: the pixel value that becomes 255.
    """
    pixels = pixels[:, : 3 if pixels.shape[1] >= 3 else 1]
    if white != 255:
        pixels = (pixels.float() * (255 / white)).round().clamp(0, 255).to(torch.uint8)
    height, width = pixels.shape[-2:]
    if max(height, width) <= SIDE:
        return pixels
    shrink = SIDE / max(height, width)
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    smaller = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(torch.uint8)
