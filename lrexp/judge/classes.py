"""How many images the classes have, and what that means before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrexp.config.errors import few

UNEVEN = 1.5  # the largest class has at least so many times the images of the smallest,
ROUNDING = 3  # and more images than that on top: test, val and limit may each take one more
FEW = 5  # validation images that a class is judged by at least
MOST_COUNTED = 1000  # classes whose counts are kept one by one
MOST_SHOWN = 8  # classes in a sentence: the largest, and the smallest three


def class_facts(splits: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Any]:
    """What is known of the classes of a run's data, as strict JSON can hold it.

    Classes are uneven when, in train or in val, the largest has at least 1.5 times the images of
    the smallest and over 3 more, which is more than splitting balanced classes rounds. Of several
    labels per image each one's images with and without it are compared so.

    Args:
        splits: train, val and perhaps others → (n,) classes, or (n, classes) of 0 and 1.
        names: of the classes.

    Returns:
        `uneven`; how many there are in `total`; `counts` by split and class, None for more than
        1000 classes; `sizes`, the largest and smallest classes as [class, images in train, in val];
        `empty`, classes that train has no image of (or, of several labels, none without);
        `few_in_val`, classes that val has fewer than 5 images of (or without); and `majority`: the
        `class` that train has most of (the `labels` on more than half of its images), and by split
        the `accuracy` of saying so of every image (and the `label_accuracy`).
    """
    several = splits["train"].ndim == 2
    have = {name: _images_of(labels, len(names)) for name, labels in splits.items()}
    lack = {name: len(splits[name]) - counts for name, counts in have.items()}
    if several:
        judged = {split: np.minimum(have[split], lack[split]) for split in have}
        uneven = any(_uneven(np.stack([have[s], lack[s]])).any() for s in ("train", "val"))
    else:
        judged, uneven = have, any(bool(_uneven(have[s])) for s in ("train", "val"))
    order = np.lexsort((-have["val"], -have["train"]))  # the largest first
    shown = order if len(names) <= MOST_SHOWN else [*order[: MOST_SHOWN - 3], *order[-3:]]
    return {
        "uneven": uneven,
        "counts": {s: dict(zip(names, c.tolist(), strict=True)) for s, c in have.items()}
        if len(names) <= MOST_COUNTED
        else None,
        "total": len(names),
        "sizes": [[names[c], int(have["train"][c]), int(have["val"][c])] for c in shown],
        "empty": _named(names, judged["train"] < 1),
        "few_in_val": _named(names, judged["val"] < FEW),
        "majority": _constant_labels(splits, have["train"], names)
        if several
        else _constant_class(have, int(order[0]), names),
    }


def _images_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """(classes,) images of each class."""
    if labels.ndim == 2:
        return (labels > 0.5).sum(0)
    return np.bincount(labels, minlength=classes)


def _uneven(counts: np.ndarray) -> np.ndarray:
    """Whether counts along the first axis are."""
    high, low = counts.max(0), counts.min(0)
    return (high >= UNEVEN * low) & (high - low > ROUNDING)


def _named(names: Sequence[str], which: np.ndarray) -> list[str]:
    return [name for name, chosen in zip(names, which.tolist(), strict=True) if chosen]


def _constant_class(
    have: Mapping[str, np.ndarray], largest: int, names: Sequence[str]
) -> dict[str, Any]:
    shares = {s: float(n[largest] / n.sum()) for s, n in have.items() if n.sum()}
    return {"class": names[largest], "accuracy": shares}


def _constant_labels(
    splits: Mapping[str, np.ndarray], counts: np.ndarray, names: Sequence[str]
) -> dict[str, Any]:
    said = counts > len(splits["train"]) / 2
    right = {s: (labels > 0.5) == said for s, labels in splits.items() if len(labels)}
    return {
        "labels": _named(names, said),
        "accuracy": {s: float(found.all(1).mean()) for s, found in right.items()},
        "label_accuracy": {s: float(found.mean()) for s, found in right.items()},
    }


def classes_in_words(facts: Mapping[str, Any], loss: Mapping[str, Any]) -> list[str]:
    """What to know of the classes before believing an accuracy; nothing where they are even.

    Args:
        facts: of `class_facts`.
        loss: the settings of the loss, one of which weighs classes.
    """
    lines, majority = [], facts["majority"]
    several = "labels" in majority
    what, images = ("labels", "images with it") if several else ("classes", "images")
    if facts["uneven"]:
        sizes = [f"{name} {train:,}/{val:,}" for name, train, val in facts["sizes"]]
        if facts["total"] > len(sizes):
            left = facts["total"] - len(sizes)
            sizes[-3:-3] = [f"... ({left:,} more)"]
        lines.append(f"{what} are uneven, {images} in train/val: {', '.join(sizes)}")
        lines.append("; ".join([_constant_in_words(majority), *_weighing(facts, loss)]))
    if rare := facts["few_in_val"]:
        than = f"fewer than {FEW} val images"
        than += " with it or without" * several
        of = f"{len(rare):,} of {facts['total']:,} {what}"
        lines.append(f"too few to judge by themselves, {than}: {of} ({few(rare, 5)})")
    return lines


def _constant_in_words(majority: Mapping[str, Any]) -> str:
    """What an answer that looks at no image comes to."""
    share = f"{100 * majority['accuracy']['val']:.1f}% of val"
    if "class" in majority:
        return f"always saying {majority['class']} is right on {share}"
    said = " and ".join(majority["labels"][:5]) or "no label"
    labels = f"{100 * majority['label_accuracy']['val']:.1f}% of its labels"
    return f"always saying {said} is right on {share}, and on {labels}"


def _weighing(facts: Mapping[str, Any], loss: Mapping[str, Any]) -> list[str]:
    """The setting that makes rare classes count as much as others, where it can and does not."""
    free = [key for key in ("class_weights", "pos_weight") if loss.get(key, "") is None]
    return [f"loss.{key}=balanced weighs rare ones up" for key in free if not facts["empty"]]
