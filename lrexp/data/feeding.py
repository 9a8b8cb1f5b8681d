"""Where the pixels of a run come from, step by step: from memory on the device, or streamed.

Both give the same bytes for the same rows, so that all that follows (augmentation, normalisation)
is one code and the batches are the same to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrexp.config.errors import UserError
from lrexp.data.images import ImageError
from lrexp.data.source import Source


class Pixels(Protocol):
    """Images by row."""

    shape: tuple[int, int, int]
    in_memory: bool

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """(B, C, H, W) uint8 on the device for (n,) rows in their order, the last one smaller."""
        ...


class InMemory:
    """All images in one tensor on the device.

    Args:
        images: (n, C, H, W) uint8.
        device: where the tensor lives.
    """

    in_memory = True

    def __init__(self, images: np.ndarray, device: torch.device):
        self._images = torch.from_numpy(images).to(device)
        _, c, h, w = images.shape
        self.shape = (c, h, w)

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """(B, C, H, W) uint8 on the device."""
        chosen = placed(rows, self._images.device)
        for part in chosen.split(batch_size):
            yield self._images.index_select(0, part)


class Streamed:
    """Images read and decoded by worker processes while the device computes.

    Args:
        source: where the images are.
        ids: (n,) position in the source of every row.
        shape: (C, H, W) of every image.
        workers: worker processes; 0 reads in this one.
        device: where batches go, through pinned memory when it is a GPU.
    """

    in_memory = False
    PREFETCHED = 4  # batches in flight per worker

    def __init__(
        self,
        source: Source,
        ids: np.ndarray,
        shape: tuple[int, int, int],
        workers: int,
        device: torch.device,
    ):
        self.shape, self._device = shape, device
        self._order: list[np.ndarray] = []
        several: dict[str, Any] = (
            {"prefetch_factor": self.PREFETCHED, "persistent_workers": True} if workers else {}
        )
        self._loader = DataLoader(
            _Rows(source, ids, shape),  # type: ignore[arg-type]
            batch_sampler=_Given(self._order),  # type: ignore[arg-type]
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            **several,
        )

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """(B, C, H, W) uint8 on the device."""
        self._order[:] = np.split(rows, range(batch_size, len(rows), batch_size))
        for batch in self._loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch.to(self._device, non_blocking=True)


class _Given:
    """A batch sampler that gives the batches of a list that somebody else fills."""

    def __init__(self, batches: list[np.ndarray]):
        self._batches = batches

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(list(self._batches))

    def __len__(self) -> int:
        return len(self._batches)


class _Rows:
    """Rows of a source as torch's DataLoader reads them."""

    def __init__(self, source: Source, ids: np.ndarray, shape: tuple[int, int, int]):
        self._source, self._ids, self._shape = source, ids, shape

    def __len__(self) -> int:
        return len(self._ids)

    def __getitems__(self, rows: np.ndarray) -> Tensor | str:
        """(B, C, H, W) uint8 of (B,) rows, or what is wrong with one of them.

        An exception of a worker would arrive as a traceback.
        """
        ids = self._ids[rows]
        # a new array has the strides of the batches from memory, also along a side of 1: they
        # decide which kernel of a convolution runs
        images = np.empty((len(ids), *self._shape), np.uint8)
        if isinstance(self._source.images, np.ndarray):
            images[:] = self._source.images[ids]
            return torch.from_numpy(images)
        for image, i in zip(images, ids.tolist(), strict=True):
            try:
                image[:], _ = pixels_of(self._source, i, self._shape)
            except ImageError as error:
                return f"data: {self._source.name(i)}: {error}"
            except UserError as error:
                return str(error)
        return torch.from_numpy(images)


def _as_it_is(batch: Any) -> Tensor | str:
    """What `_Rows` makes is a batch already."""
    return batch


def read_pixels(source: Source, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(C, H, W) uint8 of one image, and what had to be converted.

    Raises:
        ImageError: when it cannot be read.
    """
    if isinstance(source.images, np.ndarray):
        return source.images[i], ()
    return source.images.read(i)


def shape_of_first(source: Source, ids: np.ndarray) -> tuple[int, int, int]:
    """(C, H, W) of the first image among `ids` that can be read."""
    for i in ids:
        try:
            c, h, w = read_pixels(source, int(i))[0].shape
        except ImageError:
            continue
        return c, h, w
    raise UserError("data: none of its images can be read")


def pixels_of(
    source: Source, i: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `read_pixels`, of an image that must have the shape of the others.

    Raises:
        ImageError: when it cannot be read.
        UserError: when it has another shape.
    """
    pixels, converted = read_pixels(source, i)
    if pixels.shape != shape:
        sides, others = ("×".join(map(str, s[1:])) for s in (pixels.shape, shape))
        raise UserError(
            f"data: {source.name(i)} is {sides}, other images are {others}\n"
            "  data.image_size=N brings all images to N×N"
        )
    return pixels, converted


def placed(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on the device; nobody waits for what a GPU has still to do."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
