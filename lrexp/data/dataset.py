"""From a source to the splits a run trains on."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lrexp.data.feeding import InMemory, Pixels, Streamed, free_bytes, pixels_of
from lrexp.data.source import TEST, TRAIN, VAL, Source, fingerprint
from lrexp.data.splits import grouped_sample, sample_per_class, strata, stratified_sample
from lrexp.data.transforms import Augment, Normalize
from lrexp.errors import ConfigError, UserError, did_you_mean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """Images of one split, ready to train on."""

    ids: np.ndarray  # (n,) position in the source
    labels: Tensor  # (n,) int64, or (n, classes) float32 of 0 and 1; on the device
    pixels: Pixels
    rows: np.ndarray  # (n,) where in `pixels` its images are
    normalize: Normalize
    augment: Augment | None = None
    groups: np.ndarray | None = None  # (n,) codes

    def __len__(self) -> int:
        return len(self.ids)

    def batches(
        self, order: np.ndarray, batch_size: int, epoch: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) float32 and their labels, the last batch smaller.

        Args:
            order: (k,) positions in this split.
            batch_size: B.
            epoch: augment as in that epoch; None: leave the images as they are.
        """
        chosen = torch.from_numpy(order).to(self.labels.device).split(batch_size)
        batches = self.pixels.batches(self.rows[order], batch_size)
        for i, (images, positions) in enumerate(zip(batches, chosen, strict=True)):
            if self.augment is not None and epoch is not None:
                ids = self.ids[order[i * batch_size : (i + 1) * batch_size]]
                images = self.augment(images, ids, epoch)
            yield self.normalize(images), self.labels.index_select(0, positions)

    @property
    def images(self) -> Tensor:
        """All images in order, (n, C, H, W) float32, not augmented."""
        return torch.cat([images for images, _ in self.batches(np.arange(len(self)), 1024)])


@dataclass(frozen=True)
class Dataset:
    """The splits of a run. `train_eval` is the part of `train` that the gap is measured on."""

    train: Split
    train_eval: Split
    val: Split
    test: Split | None
    class_names: tuple[str, ...]
    fingerprint: str
    mean: list[float]  # that images were normalised with, of pixels in [0, 1]
    std: list[float]
    eval_sets: dict[str, Split] = field(default_factory=dict)  # further test sets by name
    notes: tuple[str, ...] = ()  # what people should know about it, a sentence each

    @property
    def sizes(self) -> dict[str, int]:
        """Images in train, val and, where there is one, test."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.pixels.shape


@dataclass(frozen=True)
class Chosen:
    """Which images of a source are in which split, before any pixel is read."""

    labels: np.ndarray  # (N,) int64 or (N, classes) float32, of the kept classes
    class_names: tuple[str, ...]
    splits: dict[str, np.ndarray]  # train, val and test: ascending positions in the source


def choose(
    source: Source,
    *,
    seed: int,
    classes: list[int | str] | None,
    limit: int | None,
    limit_per_class: int | None,
    val_fraction: float,
    test_fraction: float,
) -> Chosen:
    """Choose classes, split, and limit the training set.

    The source's own val and test splits stay what they are. What it does not have is split off:
    whole groups where the source has groups, else every class in its share.

    Args:
        source: all images.
        seed: moves the splits.
        classes: labels or names to keep, renumbered in this order; all when None.
        limit: at most this many training images, counted after splitting.
        limit_per_class: at most this many training images of a class, likewise.
        val_fraction: of the images that are in no split of the source's own but train.
        test_fraction: likewise.

    Raises:
        ConfigError: when a class does not exist or a split would be empty.
    """
    labels, ids, names = source.labels, np.arange(len(source.labels)), source.class_names
    if classes is not None:
        kept = [_class_index(c, names, classes) for c in classes]
        names = tuple(names[c] for c in kept)
        if source.multi_label:
            labels = np.ascontiguousarray(labels[:, kept])
        else:
            renumbered = np.full(len(source.class_names), -1)
            renumbered[kept] = np.arange(len(kept))
            ids = ids[np.isin(labels, kept)]
            labels = renumbered[labels]
    stratum = strata(labels)

    def split_off(pool: np.ndarray, fraction: float, name: str, whole: int) -> np.ndarray:
        if not fraction or not len(pool):
            return pool[:0]
        if source.groups is not None:
            share, purpose = fraction * whole / len(pool), f"split {name} by group"
            return pool[grouped_sample(stratum[pool], source.groups[pool], share, seed, purpose)]
        size = min(round(fraction * whole), len(pool))
        return pool[stratified_sample(stratum[pool], pool, size, seed, f"split {name}")]

    own = np.zeros(len(source.labels), np.int8) if source.split is None else source.split
    pool, val, test = (ids[own[ids] == code] for code in (TRAIN, VAL, TEST))
    whole = len(pool)
    if not source.has(TEST):
        test = split_off(pool, test_fraction, "test", whole)
        pool = np.setdiff1d(pool, test)
    if not source.has(VAL):
        val = split_off(pool, val_fraction, "val", whole)
        pool = np.setdiff1d(pool, val)
    train = pool
    if limit_per_class is not None:
        train = train[sample_per_class(stratum[train], train, limit_per_class, seed, "limit")]
    if limit is not None and limit < len(train):
        train = train[stratified_sample(stratum[train], train, limit, seed, "limit")]
    for name, split in (("training", train), ("validation", val)):
        if len(split) < 2:
            problem = f"the {name} split has {len(split)} of {len(ids)} images; it needs 2 or more"
            raise ConfigError("data", problem)
    return Chosen(labels, names, {"train": train, "val": val, "test": test})


def _class_index(c: int | str, names: tuple[str, ...], given: list[int | str]) -> int:
    if isinstance(c, str) and c in names:
        return names.index(c)
    if isinstance(c, int) and c < len(names):
        return c
    hint = did_you_mean(c, names) if isinstance(c, str) else f"allowed: 0 to {len(names) - 1}"
    raise ConfigError("data.classes", f"there is no class {c}", hint, given)


def make_dataset(
    source: Source,
    chosen: Chosen,
    *,
    seed: int,
    normalize: tuple[list[float], list[float]] | None,
    augment: Augment | None,
    train_eval_limit: int,
    in_memory: bool | None,
    workers: int,
    device: torch.device,
) -> Dataset:
    """Read what was chosen, normalise it, and place it where batches are taken from.

    Args:
        source: all images.
        chosen: which of them.
        seed: moves the train_eval subset.
        normalize: mean and std per channel, of pixels in [0, 1]; None: those of the training
            images.
        augment: of training batches.
        train_eval_limit: train_eval is as large as val, but at most this.
        in_memory: keep all pixels on the device; None: if they take at most half of what is free.
        workers: processes that read and decode when streaming, threads when reading at once.
        device: of the batches.

    Raises:
        UserError: when an image cannot be read.
    """
    used = np.concatenate(list(chosen.splits.values()))
    first, _ = pixels_of(source, int(used[0]))
    shape = (int(first.shape[0]), int(first.shape[1]), int(first.shape[2]))
    size, free = len(used) * first.nbytes, free_bytes(device)
    if in_memory is None:
        in_memory = size <= free / 2
    if in_memory:
        images, converted = _read_all(source, used, shape, workers)
        pixels: Pixels = InMemory(images, device)
        marks = fingerprint(images, chosen.labels[used])
    else:
        pixels = Streamed(source, used, shape, workers, device)
        converted = Counter()
        marks = ""
    log.info(
        "data: %s images of %s, %s MB of %s MB free, %s",
        f"{len(used):,}",
        "×".join(map(str, shape)),
        f"{size / 2**20:,.1f}",
        f"{free / 2**20:,.0f}",
        "in memory" if in_memory else f"streamed by {workers} workers",
    )
    notes = [f"{count} images converted: {what}" for what, count in converted.most_common()]
    rows = np.split(np.arange(len(used)), np.cumsum([len(s) for s in chosen.splits.values()])[:-1])
    row_of = dict(zip(chosen.splits, rows, strict=True))
    mean, std = normalize or channel_statistics(pixels, row_of["train"], source.white)
    normalizing = Normalize(mean, std, source.white, device)

    def place(name: str, positions: np.ndarray | None = None) -> Split:
        ids, at = chosen.splits[name], row_of[name]
        if positions is not None:
            ids, at = ids[positions], at[positions]
        labels = torch.from_numpy(chosen.labels[ids]).to(device)
        groups = None if source.groups is None else source.groups[ids]
        changes = augment if name == "train" and positions is None else None
        return Split(ids, labels, pixels, at, normalizing, changes, groups)

    train = chosen.splits["train"]
    size = min(len(chosen.splits["val"]), len(train), train_eval_limit)
    kept = stratified_sample(strata(chosen.labels[train]), train, size, seed, "train_eval")
    return Dataset(
        train=place("train"),
        train_eval=place("train", kept),
        val=place("val"),
        test=place("test") if len(chosen.splits["test"]) else None,
        class_names=chosen.class_names,
        fingerprint=marks,
        mean=mean,
        std=std,
        notes=tuple(notes),
    )


def channel_statistics(
    pixels: Pixels, rows: np.ndarray, white: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel over all pixels of the rows, white being 1."""
    sums, count = 0.0, 0
    for images in pixels.batches(rows, 1024):
        values = images.double() / white if images.device.type != "mps" else images.float() / white
        sums = (
            sums + torch.stack([values.sum((0, 2, 3)), (values**2).sum((0, 2, 3))]).cpu().double()
        )
        count += values.numel() // values.shape[1]
    mean, square = (sums / count).tolist()  # type: ignore[union-attr]
    std = [max(0.0, s - m * m) ** 0.5 for m, s in zip(mean, square, strict=True)]
    if not all(std):
        raise UserError("data: every training image is of one and the same colour")
    return [round(m, 6) for m in mean], [round(s, 6) for s in std]


def _read_all(
    source: Source, ids: np.ndarray, shape: tuple[int, int, int], workers: int
) -> tuple[np.ndarray, Counter[str]]:
    """(n, C, H, W) uint8, and how often what was converted."""
    if isinstance(source.images, np.ndarray):
        return source.images[ids], Counter()
    images, converted = np.empty((len(ids), *shape), np.uint8), Counter[str]()

    def read(row: int) -> tuple[str, ...]:
        images[row], notes = pixels_of(source, int(ids[row]), shape)
        return notes

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for notes in pool.map(read, range(len(ids))):
            converted.update(notes)
    return images, converted
