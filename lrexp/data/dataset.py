"""From a source to the splits a run trains on."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrexp.config.errors import UserError, few
from lrexp.data.draws import cut
from lrexp.data.feeding import (
    InMemory,
    Pixels,
    Streamed,
    free_bytes,
    pixels_of,
    placed,
    shape_of_first,
)
from lrexp.data.images import ImageError
from lrexp.data.leaks import find_leaks
from lrexp.data.leaks_found import Leaks
from lrexp.data.preprocessing import Preprocessing
from lrexp.data.signatures import Signatures, pixel_hashes
from lrexp.data.source import Source
from lrexp.data.splits import Chosen, refuse_poor, strata, stratified_sample
from lrexp.data.statistics import channel_statistics, unscaled
from lrexp.data.transforms import Augment, Normalize

log = logging.getLogger(__name__)

READ_TOGETHER = 1024  # images
NORMALIZED = 2**22  # bytes of a split's images that are kept as floats too: more leave the caches


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
    name: Callable[[int], str] = "image {}".format  # what an id is called: its file, or its row

    def __len__(self) -> int:
        return len(self.ids)

    def batches(
        self, parts: Sequence[np.ndarray], epoch: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, C, H, W) float32 of each part and their labels.

        Args:
            parts: (B,) positions in this split of each batch; see `draws.cut`.
            epoch: augment as in that epoch; None: leave the images as they are.
        """
        if not parts:
            return
        sizes, order = list(map(len, parts)), np.concatenate(parts)
        chosen = placed(order, self.labels.device).split(sizes)
        plain, many = self.augment is None or epoch is None, 2 * len(order) >= len(self)
        if plain and many and self._normalized is not None:
            for positions in chosen:
                yield (
                    self._normalized.index_select(0, positions),
                    self.labels.index_select(0, positions),
                )
            return
        batches = self.pixels.batches([self.rows[part] for part in parts])
        drawn = None
        if self.augment is not None and epoch is not None:
            shape, device = self.pixels.shape, self.labels.device
            drawn = self.augment.draw(self.ids[order], epoch, shape, device)
        starts = accumulate(sizes[:-1], initial=0)
        for images, positions, start in zip(batches, chosen, starts, strict=True):
            if drawn is not None:
                images = drawn[start : start + len(images)](images)
            yield self.normalize(images), self.labels.index_select(0, positions)

    def in_order(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches in order, of at most so many images, not augmented."""
        return self.batches(cut(np.arange(len(self)), most))

    @cached_property
    def _normalized(self) -> Tensor | None:
        """All images in order, of few and small ones that are in memory: as batches need them."""
        pixels = self.pixels
        if not isinstance(pixels, InMemory) or 4 * len(self) * math.prod(pixels.shape) > NORMALIZED:
            return None
        return self.normalize(next(pixels.batches([self.rows]))) if len(self) else None

    @property
    def images(self) -> Tensor:
        """All images in order, (n, C, H, W) float32, not augmented."""
        return torch.cat([images for images, _ in self.in_order(1024)])


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
    leaks: Leaks | None = None  # None: not looked for
    left_out: dict[str, str] = field(default_factory=dict)  # image → why it cannot be read
    unlabeled: int = 0  # images left out for want of a label
    converted: dict[str, int] = field(default_factory=dict)  # what to RGB or grey → images

    @property
    def sizes(self) -> dict[str, int]:
        """Images in train, val and, where there is one, test."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: len(split) for name, split in splits.items() if split is not None}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.pixels.shape

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are made what a network sees, for those that are to come."""
        white = self.train.normalize.white
        return Preprocessing(self.image_shape, tuple(self.mean), tuple(self.std), white)


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
    leak_check: bool,
    drop_corrupt: bool,
    device: torch.device,
    eval_sets: Mapping[str, Source] | None = None,
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
        leak_check: look for images that are on two sides of a split.
        drop_corrupt: leave out images that cannot be read, and count them.
        device: of the batches.
        eval_sets: further test sets, with labels of `chosen`; images with -1 are left out.

    Raises:
        UserError: when an image cannot be read and none may be left out.
    """
    stores = {"": _Store(source, np.concatenate(list(chosen.splits.values())))}
    for name, extra in (eval_sets or {}).items():
        ids = np.arange(len(extra.labels))
        stores[name] = _Store(extra, ids if extra.multi_label else ids[extra.labels >= 0])
    shape = shape_of_first(source, stores[""].ids)
    size = sum(len(store.ids) for store in stores.values()) * math.prod(shape)
    free = free_bytes(device)
    in_memory = size <= free / 2 if in_memory is None else in_memory
    log.info(
        "data: images of %s, %s MB of %s MB free, %s",
        "×".join(map(str, shape)),
        f"{size / 2**20:,.1f}",
        f"{free / 2**20:,.0f}",
        "in memory" if in_memory else f"streamed by {workers} workers",
    )
    for store in stores.values():
        store.read(shape, workers, in_memory, leak_check, drop_corrupt, device)
    main = stores[""]
    kept = {name: main.readable(ids) for name, ids in chosen.splits.items()}
    refuse_poor(kept, chosen.labels, chosen.class_names, len(source.labels))
    train = kept["train"]
    mean, std = normalize or channel_statistics(main.pixels, main.row_of[train], source.white)

    def split(ids: np.ndarray, store: _Store = main, labels: np.ndarray = chosen.labels) -> Split:
        groups = store.source.groups
        return Split(
            ids=ids,
            labels=torch.from_numpy(labels[ids]).to(device),
            pixels=store.pixels,
            rows=store.row_of[ids],
            normalize=Normalize(mean, std, store.source.white, device),
            groups=None if groups is None else groups[ids],
            name=store.source.name,
        )

    size = min(len(kept["val"]), len(train), train_eval_limit)
    subset = stratified_sample(strata(chosen.labels[train]), train, size, seed, "train_eval")
    extras = {name: store for name, store in stores.items() if name}
    return Dataset(
        train=replace(split(train), augment=augment),
        train_eval=split(train[subset]),
        val=split(kept["val"]),
        test=split(kept["test"]) if len(kept["test"]) else None,
        class_names=chosen.class_names,
        fingerprint=main.fingerprint(chosen.labels),
        mean=mean,
        std=std,
        eval_sets={n: split(s.readable(s.ids), s, s.source.labels) for n, s in extras.items()},
        notes=(*_notes(chosen, kept, stores), *(() if normalize else unscaled(mean, std))),
        leaks=_find_leaks(chosen, kept, stores) if leak_check else None,
        left_out={s.source.name(i): why for s in stores.values() for i, why in s.reasons.items()},
        unlabeled=chosen.unlabeled,
        converted=dict(sum((store.converted for store in stores.values()), Counter())),
    )


class _Store:
    """Images of one source that a run uses, and what reading them found."""

    def __init__(self, source: Source, ids: np.ndarray):
        self.source, self.ids = source, ids
        self.reasons: dict[int, str] = {}  # id → why it cannot be read, which leaves it out
        self.converted: Counter[str] = Counter()
        self.signatures: Signatures | None = None  # (n,) by row, for the leak check
        self.hashes: np.ndarray | None = None  # (n,) of the pixels, if they have been read
        self.pixels: Pixels
        self.row_of = np.full(len(source.labels), -1)  # id → where in `pixels` it is
        self.row_of[ids] = np.arange(len(ids))

    def readable(self, ids: np.ndarray) -> np.ndarray:
        """Those ids that can be read."""
        return ids[~np.isin(ids, list(self.reasons))]

    def read(
        self,
        shape: tuple[int, int, int],
        workers: int,
        keep: bool,
        sign: bool,
        drop: bool,
        device: torch.device,
    ) -> None:
        """Make `pixels`; where need be read every image once before: sign it, find what is bad."""
        if not (keep or sign or drop):
            self.pixels = Streamed(self.source, self.ids, shape, workers, device)
            return
        signed: list[Any] = []
        kept = np.empty((len(self.ids) if keep else READ_TOGETHER, *shape), np.uint8)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for start in range(0, max(1, len(self.ids)), READ_TOGETHER):
                ids = self.ids[start : start + READ_TOGETHER]
                images = kept[start if keep else 0 :][: len(ids)]
                self._read_into(images, ids, pool, workers)
                signed.append(Signatures.of(images) if sign else pixel_hashes(images))
        if sign:
            self.signatures = Signatures.concatenate(signed)
            self.hashes = self.signatures.hashes
        else:
            self.hashes = np.concatenate(signed)
        if self.reasons and not drop:
            first, *more = [f"{self.source.name(i)}: {why}" for i, why in self.reasons.items()]
            others = f" (and {len(more)} more: {'; '.join(more[:3])})" if more else ""
            hint = "data.on_corrupt=drop leaves out what cannot be read"
            where = self.source.elsewhere(next(iter(self.reasons)))
            raise UserError(f"data: {first}{others}{where}\n  {hint}")
        if keep:
            self.pixels = InMemory(kept, device)
        else:
            self.pixels = Streamed(self.source, self.ids, shape, workers, device)

    def _read_into(
        self, images: np.ndarray, ids: np.ndarray, pool: ThreadPoolExecutor, workers: int
    ) -> None:
        """Fill (b, C, H, W) uint8 with the images of b ids, black where one cannot be read."""
        if isinstance(self.source.images, np.ndarray):
            np.take(self.source.images, ids, axis=0, out=images)
            return

        def read(rows: np.ndarray) -> list[tuple[str, ...] | ImageError]:
            found: list[tuple[str, ...] | ImageError] = []
            for row in rows.tolist():
                try:
                    images[row], converted = pixels_of(self.source, int(ids[row]), images.shape[1:])
                    found.append(converted)
                except ImageError as error:
                    images[row] = 0
                    found.append(error)
            return found

        # Some images to a task, for handing over a task takes as long as decoding a small image.
        parts = np.array_split(np.arange(len(ids)), max(1, 4 * workers))
        results = pool.map(read, parts) if workers else map(read, parts)
        for i, found in zip(ids.tolist(), chain.from_iterable(results), strict=True):
            if isinstance(found, ImageError):
                self.reasons[i] = str(found)
            else:
                self.converted.update(found)

    def fingerprint(self, labels: np.ndarray) -> str:
        """16 hex digits that change with any pixel, label or order.

        `labels-` and digits that change with labels and order when no image was read beforehand.
        """
        digest = hashlib.blake2b(digest_size=8)
        if self.hashes is not None:
            digest.update(self.hashes.tobytes())
        digest.update(np.ascontiguousarray(labels[self.ids]).tobytes())
        return f"{'' if self.hashes is not None else 'labels-'}{digest.hexdigest()}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _notes(
    chosen: Chosen, kept: Mapping[str, np.ndarray], stores: Mapping[str, _Store]
) -> Iterator[str]:
    """What people should know about the images, a sentence each."""
    for store in stores.values():
        yield from store.source.notes
    if chosen.unlabeled:
        yield f"left out {_images(chosen.unlabeled)} without a label"
    for name, store in stores.items():
        where = f" of {name}" if name else ""
        if name and len(store.ids) < len(store.source.labels):
            others = len(store.source.labels) - len(store.ids)
            yield f"left out {_images(others)}{where}: without a label, or of no class trained on"
        if store.reasons:
            reasons = [f"{store.source.name(i)}: {why}" for i, why in store.reasons.items()]
            shown = few(reasons, 5, "; ")
            yield f"left out {_images(len(reasons))}{where} that cannot be read: {shown}"
        if store.converted:
            counts = ", ".join(f"{what} {n:,}" for what, n in store.converted.most_common())
            yield f"converted images{where}: {counts}"
    if chosen.labels.ndim == 1:
        classes = np.arange(len(chosen.class_names))
        missing = np.setdiff1d(classes, chosen.labels[kept["train"]])
        if len(missing):
            named = few([chosen.class_names[c] for c in missing], 5)
            yield f"{len(missing)} of {len(classes)} classes have no training image: {named}"


def _find_leaks(
    chosen: Chosen, kept: Mapping[str, np.ndarray], stores: Mapping[str, _Store]
) -> Leaks:
    """The leak check over all splits and further test sets; positions count images as read."""
    main, *extras = stores.values()
    splits = {name: main.row_of[ids] for name, ids in kept.items() if len(ids)}
    start = 0
    for name, store in stores.items():
        if name:
            splits[name] = start + store.row_of[store.readable(store.ids)]
        start += len(store.ids)
    labels = [chosen.labels[main.ids], *(store.source.labels[store.ids] for store in extras)]
    groups = None
    if main.source.groups is not None:  # further test sets have none: each image is its own
        codes, names = main.source.groups[main.ids], main.source.group_names
        known = np.asarray(names)[codes] if len(names) else codes.astype(str)
        others = [f"{name} {i}" for name, store in stores.items() if name for i in store.ids]
        groups = np.concatenate([known, np.asarray(others, dtype=str)])
    leaks = find_leaks(
        Signatures.concatenate(s.signatures for s in stores.values() if s.signatures),
        np.concatenate(labels),
        splits,
        groups,
        class_names=chosen.class_names,
    )
    if not leaks:
        return leaks
    names = [store.source.name(int(i)) for store in stores.values() for i in store.ids]
    folder = os.path.commonprefix(names).rpartition("/")[0]  # noqa: RUF071 (not all are paths)
    return replace(leaks, names=[n.removeprefix(f"{folder}/") if folder else n for n in names])
