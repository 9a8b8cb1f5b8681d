"""From a source to the tensors a run trains on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lrexp.data.sources import Source
from lrexp.data.splits import stratified_sample
from lrexp.errors import ConfigError


@dataclass(frozen=True)
class Split:
    """Images of one split, ready to train on."""

    ids: np.ndarray  # (n,) position in the source
    images: Tensor  # (n, C, H, W) float32 on the device, (pixel - mean) / std
    labels: Tensor  # (n,) int64 on the device; (n, classes) float32 of 0 and 1 for multi-label
    groups: np.ndarray | None = None  # (n,) int64 codes: images of one group are alike

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Dataset:
    """The splits of a run. `train_eval` is the part of `train` that the gap is measured on."""

    train: Split
    train_eval: Split
    val: Split
    test: Split | None
    class_names: tuple[str, ...]
    fingerprint: str
    eval_sets: dict[str, Split] = field(default_factory=dict)  # further test sets

    @property
    def sizes(self) -> dict[str, int]:
        """Images in train, val and, where there is one, test."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        c, h, w = self.train.images.shape[1:]
        return c, h, w


def make_dataset(
    source: Source,
    *,
    seed: int,
    classes: list[int] | None,
    limit: int | None,
    val_fraction: float,
    test_fraction: float,
    mean: list[float],
    std: list[float],
    train_eval_limit: int,
    device: torch.device,
) -> Dataset:
    """Choose classes, split by class shares, limit the training set, normalise, place on a device.

    Args:
        source: all images. Its own test part, when it has one, is the test split.
        seed: moves the splits and the train_eval subset.
        classes: labels to keep, renumbered in this order; all when None.
        limit: at most this many training images, counted after splitting.
        val_fraction: of the images that are not in the source's own test part.
        test_fraction: likewise; unused when the source has a test part.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        train_eval_limit: train_eval is as large as val, but at most this.
        device: where the tensors live.

    Raises:
        ConfigError: when a class does not exist or a split would be empty.
    """
    labels, ids = source.labels, np.arange(len(source.labels))
    names = source.class_names
    if classes is not None:
        unknown = [c for c in classes if c >= len(names)]
        if unknown:
            allowed = f"allowed: 0 to {len(names) - 1}"
            raise ConfigError("data.classes", f"there is no class {unknown[0]}", allowed, classes)
        ids = ids[np.isin(labels, classes)]
        renumbered = np.full(len(names), -1)
        renumbered[classes] = np.arange(len(classes))
        labels, names = renumbered[labels], tuple(names[c] for c in classes)

    def take(pool: np.ndarray, size: int, purpose: str) -> np.ndarray:
        return pool[stratified_sample(labels[pool], pool, size, seed, purpose)]

    if source.in_test is not None:
        test, pool = ids[source.in_test[ids]], ids[~source.in_test[ids]]
    else:
        test = take(ids, round(test_fraction * len(ids)), "split test")
        pool = np.setdiff1d(ids, test)
    splittable = ids if source.in_test is None else pool
    val = take(pool, round(val_fraction * len(splittable)), "split val")
    train = np.setdiff1d(pool, val)
    if limit is not None and limit < len(train):
        train = take(train, limit, "limit")
    for name, split in (("training", train), ("validation", val)):
        if len(split) < 2:
            problem = f"the {name} split has {len(split)} of {len(ids)} images; it needs 2 or more"
            raise ConfigError("data", problem)
    train_eval = take(train, min(len(val), len(train), train_eval_limit), "train_eval")

    scale = 1 / (source.white * np.asarray(std, np.float32))[:, None, None]
    shift = (np.asarray(mean, np.float32) / np.asarray(std, np.float32))[:, None, None]

    def place(split: np.ndarray) -> Split:
        images = torch.from_numpy(source.images[split] * scale - shift)
        return Split(split, images.float().to(device), torch.from_numpy(labels[split]).to(device))

    return Dataset(
        train=place(train),
        train_eval=place(train_eval),
        val=place(val),
        test=place(test) if len(test) else None,
        class_names=names,
        fingerprint=source.fingerprint,
    )
