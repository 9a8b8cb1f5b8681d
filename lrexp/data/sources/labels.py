"""Words for splits, and class names and labels from the values that files hold."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrexp.config.errors import UserError, few
from lrexp.data.images import extensions
from lrexp.data.source import TEST, TRAIN, VAL, Source

log = logging.getLogger(__name__)

SPLIT_WORDS = {
    "train": TRAIN, "training": TRAIN,
    "val": VAL, "valid": VAL, "validation": VAL, "dev": VAL,
    "test": TEST, "testing": TEST,
}  # fmt: skip

LABEL_COLUMNS = ("label", "labels", "class", "classes", "category", "target", "fine_label")
# What labels that are no classes are for, and what to use instead.
OTHER_TASKS = {
    "amounts": (
        "lrexp tells classes apart. To predict amounts (regression), write a class for each range"
        " of them, say with pandas.qcut(amounts, 3, labels=['low', 'middle', 'high']), or train"
        " with Lightning or plain torch and nn.MSELoss"
    ),
    "boxes": (
        "lrexp tells whole images apart. Boxes are for object detection, which torchvision's"
        " references/detection and ultralytics train; or cut the boxes out, and give each its label"
    ),
    "masks": (
        "lrexp tells whole images apart. Masks are for segmentation, which torchvision's"
        " references/segmentation and segmentation_models_pytorch train; or give every image a"
        " label, or several with loss=bce"
    ),
}


def refuse_amounts(values: Iterable[str], where: str) -> None:
    """Refuse labels that are numbers throughout, not all of them whole: amounts, and no classes.

    Raises:
        UserError: which says what to do with them.
    """
    fractions = []
    for value in dict.fromkeys(values):
        try:
            number = float(value)
        except ValueError:
            return
        if math.isfinite(number) and not number.is_integer():
            fractions.append(value)
    if fractions:
        problem = f"{where} holds numbers with fractions ({few(fractions, 3)}), no classes"
        raise UserError(f"{problem}\n  {OTHER_TASKS['amounts']}")


BOX = re.compile(r"[xy][_ ]?(min|max|[12])|b?box(es)?|bndbox")  # names of columns of boxes


def refuse_masks(values: Iterable[str], where: str) -> None:
    """Refuse labels that are names of images throughout: masks.

    Raises:
        UserError: which says what to do with them.
    """
    endings = {Path(value).suffix.lower() for value in values}
    if endings and endings <= extensions():
        raise UserError(f"{where} names images, no classes\n  {OTHER_TASKS['masks']}")


def refuse_boxes(columns: Iterable[str], items: Sequence[str], where: str) -> None:
    """Refuse a table with columns of boxes that lists an image more than once, for each its boxes.

    Raises:
        UserError: which says what to do with them.
    """
    boxes = [name for name in columns if BOX.fullmatch(name.lower())]
    if boxes and len(set(items)) < len(items):
        problem = f"{where} lists images several times, with boxes ({few(boxes, 4)})"
        raise UserError(f"{problem}\n  {OTHER_TASKS['boxes']}")


def class_labels(values: Sequence[Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of values, whose distinct ones in rising order are the classes.

    Args:
        values: one per image: whole numbers or text; None where the label is missing.

    Returns:
        (N,) int64, -1 for None, and the names of the classes.
    """
    distinct = _in_order({value for value in values if value is not None})
    code = {value: i for i, value in enumerate(distinct)} | {None: -1}
    return np.array([code[value] for value in values], np.int64), tuple(map(str, distinct))


def label_sets(
    values: Sequence[Sequence[Any]], names: Sequence[Any] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of images that may have several, or none.

    Args:
        values: the labels of each image.
        names: all there are, in order; None: the distinct ones in rising order.

    Returns:
        (N, classes) float32 of 0 and 1, and the names of the classes.
    """
    distinct = _in_order({v for several in values for v in several}) if names is None else names
    code = {value: i for i, value in enumerate(distinct)}
    labels = np.zeros((len(values), len(distinct)), np.float32)
    for row, several in zip(labels, values, strict=True):
        row[[code[value] for value in several]] = 1
    return labels, tuple(map(str, distinct))


def checked(source: Source, place: str) -> Source:
    """The source, if there is anything to learn from it; warns of classes without images.

    Args:
        source: to look at.
        place: what messages call it.

    Raises:
        UserError: when it has no images, or fewer than two classes.
    """
    names, labels = source.class_names, source.labels
    if not len(labels):
        raise UserError(f"{place} holds no images")
    if len(names) < 2:
        problem = f"one class only ({names[0]})" if names else "no labels"
        raise UserError(f"{place} holds {problem}: there is nothing to tell apart")
    train = labels if source.split is None else labels[source.split == TRAIN]
    if source.multi_label:
        counts = train.sum(0)
    else:
        counts = np.bincount(train[train >= 0], minlength=len(names))
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if len(names) >= 10 and len(names) > len(labels) / 2:
        said = "%s: %d classes for %d images: is that the column of classes?"
        log.warning(said, place, len(names), len(labels))
    if empty:
        said = "%s: %d of %d classes have no image to train on: %s"
        log.warning(said, place, len(empty), len(names), few(empty))
    return source


def _in_order(distinct: set[Any]) -> list[Any]:
    """Sorted; text that is whole numbers throughout sorts as numbers do."""
    numbers = all(str(value).isdecimal() for value in distinct)
    return sorted(distinct, key=lambda value: (int(value), str(value)) if numbers else value)
