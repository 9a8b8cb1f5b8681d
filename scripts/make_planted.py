"""Training sets with a known fault, for scripts/verdict_table.py: digits, split and spoiled.

    python scripts/make_planted.py OUT [--draw 0]

OUT gets a folder of train, validation and test.parquet for every problem, once and always the same
for a draw; another draw has other images in every split. The images are those that ship with
lrexp (1,797 of 8×8); whatever neither trains nor validates is the test set, which is never spoiled:
it says what is so.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from lrexp.data.sources.digits import digits

SPLITS = ("train", "validation", "test")
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # (n, 8, 8) in [0, 1], (n,) labels, (n,) tracks
Parts = dict[str, Part]
FLIPPED = 0.3  # of the training labels
COPIED = 0.5  # of the validation images
RARE, MINORITY = 8, 0.1  # the digit that is to be told from all others, and its share
BLURRED = 0.35  # standard deviation of the noise on training images


def plain(parts: Parts, rng: np.random.Generator) -> Parts:
    """As they are."""
    return parts


def flipped(parts: Parts, rng: np.random.Generator) -> Parts:
    """A share of the training labels becomes another class, drawn evenly."""
    images, labels, tracks = parts["train"]
    kinds = np.unique(labels)
    wrong = rng.permutation(len(labels))[: round(FLIPPED * len(labels))]
    labels = labels.copy()
    for i in wrong:
        labels[i] = rng.choice(kinds[kinds != labels[i]])
    return parts | {"train": (images, labels, tracks)}


def copied(parts: Parts, rng: np.random.Generator) -> Parts:
    """A share of the validation images becomes copies of training images."""
    images, labels, tracks = (column.copy() for column in parts["validation"])
    there = rng.permutation(len(labels))[: round(COPIED * len(labels))]
    of = rng.permutation(len(parts["train"][1]))[: len(there)]
    for column, train in zip((images, labels, tracks), parts["train"], strict=True):
        column[there[: len(of)]] = train[of]
    return parts | {"validation": (images, labels, tracks)}


def tracked(parts: Parts, rng: np.random.Generator) -> Parts:
    """Training and validation images are noisy takes of the same few digits, split at random.

    Of every second training image there are four; the column `track` says which belong together.
    """
    images, labels, tracks = parts["train"]
    half = len(labels) // 2
    takes = np.repeat(np.arange(half), 4)
    noisy = np.clip(images[takes] + rng.normal(scale=0.15, size=(len(takes), 8, 8)), 0, 1)
    order = rng.permutation(len(takes))
    found = dict(parts)
    for name, at in (("train", order[: len(labels)]), ("validation", order[len(labels) :])):
        found[name] = (noisy[at], labels[takes[at]], tracks[takes[at]])
    return found


def rare(parts: Parts, rng: np.random.Generator) -> Parts:
    """One digit against all others: one image in ten, in every split."""
    return {
        name: (images, (labels == RARE).astype(np.int64), tracks)
        for name, (images, labels, tracks) in parts.items()
    }


def harder(parts: Parts, rng: np.random.Generator) -> Parts:
    """Training images get noise, the others none."""
    images, labels, tracks = parts["train"]
    noisy = np.clip(images + rng.normal(scale=BLURRED, size=images.shape), 0, 1)
    return parts | {"train": (noisy, labels, tracks)}


THREE, BOTH = ("uniform", "layerwise_decay", "freeze_backbone"), ("uniform", "layerwise_decay")


@dataclass(frozen=True)
class Problem:
    """A training set, and how long it trains."""

    title: str
    train: int  # images
    val: int
    epochs: int
    spoil: Callable[[Parts, np.random.Generator], Parts] = plain
    planted: tuple[str, ...] = ()  # kinds of verdicts that are right by construction
    finetuned: bool = False  # digits 5-9 by a network that knows 0-4; else all ten from scratch
    overrides: tuple[str, ...] = ()
    policies: tuple[str, ...] = THREE


PROBLEMS = {
    "plain": Problem("digits 5-9, 200 images, weights of 0-4", 200, 150, 12, finetuned=True),
    "small": Problem(
        "digits 5-9, 30 images, weights of 0-4", 30, 150, 40, finetuned=True, policies=BOTH
    ),
    "scratch": Problem("ten digits, 300 images", 300, 200, 12),
    "noisy": Problem(
        "ten digits, 300 images, 30 % of labels wrong",
        *(300, 200, 30, flipped, ("noisy_labels",)),
        policies=BOTH,
    ),
    "imbalanced": Problem(
        "eights among all digits, one in ten, 200 images",
        *(200, 200, 12, rare),
        policies=("uniform", "freeze_backbone"),
    ),
    "leaking": Problem(
        "ten digits, 150 images, half of validation copied from them",
        *(150, 200, 25, copied, ("leak",)),
        policies=("uniform", "freeze_backbone"),
    ),
    "tracks": Problem(
        "ten digits, 150 takes of 75 images, validation other takes of these",
        *(150, 150, 20, tracked, ("leak",)),
        overrides=("data.group_by=track",),
        policies=("uniform",),
    ),
    "harder": Problem(
        "ten digits, 200 images with noise, none on validation's",
        *(200, 200, 20, harder, ("easier_validation",)),
        policies=("uniform",),
    ),
    "narrow": Problem(
        "ten digits, 300 images, 2 channels and 4 hidden units, rates lowered to zero",
        *(300, 200, 20),
        overrides=("model.channels=2", "model.hidden=4", "scheduler=cosine"),
        policies=("uniform",),
    ),
}


def parts_of(name: str, draw: int) -> Parts:
    """The splits of a problem."""
    problem, source = PROBLEMS[name], digits()
    rng = np.random.default_rng([draw, *name.encode()])
    assert isinstance(source.images, np.ndarray)
    images, labels = source.images[:, 0] / source.white, source.labels
    at = rng.permutation(len(labels))
    if problem.finetuned:
        at = at[labels[at] >= 5]
    ends = (problem.train, problem.train + problem.val)
    split = zip(SPLITS, np.split(at, ends), strict=True)
    return problem.spoil({part: (images[i], labels[i], i) for part, i in split}, rng)


def named(name: str, labels: np.ndarray) -> list[str]:
    """The names of classes; a network that knows other names gets a new head."""
    called = ("other", "eight") if name == "imbalanced" else tuple("0123456789")
    return [called[c] for c in labels.tolist()]


def png(pixels: np.ndarray) -> bytes:
    """(H, W) in [0, 1] as a grey PNG."""
    out = io.BytesIO()
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def make(name: str, folder: Path, draw: int) -> None:
    """The folder of a problem, unless it is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.is_dir():
        return
    unfinished = folder.with_suffix(".part")
    unfinished.mkdir(parents=True, exist_ok=True)
    for part, (images, labels, tracks) in parts_of(name, draw).items():
        columns = {"image": [{"bytes": png(one)} for one in images], "label": named(name, labels)}
        table = pa.table(columns | {"track": tracks.tolist()})
        pq.write_table(table, unfinished / f"{part}.parquet")
    unfinished.rename(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--draw", type=int, default=0)
    asked = parser.parse_args()
    for each in PROBLEMS:
        make(each, asked.out / each, asked.draw)
