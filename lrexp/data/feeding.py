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

from lrexp.data.images import ImageError
from lrexp.data.source import Source
from lrexp.errors import UserError


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
        chosen = torch.from_numpy(rows).to(self._images.device)
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
        self._order: list[list[int]] = []
        several: dict[str, Any] = (
            {"prefetch_factor": self.PREFETCHED, "persistent_workers": True} if workers else {}
        )
        self._loader = DataLoader(
            _Rows(source, ids, shape),  # type: ignore[arg-type]
            batch_sampler=_Given(self._order),
            collate_fn=torch.stack,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            **several,
        )

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Tensor]:
        """(B, C, H, W) uint8 on the device."""
        self._order[:] = [
            part.tolist() for part in np.split(rows, range(batch_size, len(rows), batch_size))
        ]
        for batch in self._loader:
            yield batch.to(self._device, non_blocking=True)


class _Given:
    """A batch sampler that gives the batches of a list that somebody else fills."""

    def __init__(self, batches: list[list[int]]):
        self._batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(list(self._batches))

    def __len__(self) -> int:
        return len(self._batches)


class _Rows:
    """Rows of a source as torch's DataLoader reads them."""

    def __init__(self, source: Source, ids: np.ndarray, shape: tuple[int, int, int]):
        self._source, self._ids, self._shape = source, ids, shape

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, row: int) -> Tensor:
        i = int(self._ids[row])
        try:
            pixels, _ = pixels_of(self._source, i, self._shape)
        except ImageError as error:
            raise UserError(f"data: {self._source.name(i)}: {error}") from error
        return torch.from_numpy(pixels)


def read_pixels(source: Source, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """(C, H, W) uint8 of one image, and what had to be converted.

    Raises:
        ImageError: when it cannot be read.
    """
    if isinstance(source.images, np.ndarray):
        return source.images[i], ()
    return source.images.read(i)


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
