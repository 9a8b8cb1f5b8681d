"""Where the pixels of a run come from, step by step: from memory on the device, or streamed.

Both give the same bytes for the same rows, so that all that follows (augmentation, normalisation)
is one code and the batches are the same to the bit.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lrexp.config.errors import UserError
from lrexp.data.images import ImageError
from lrexp.data.source import Source


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

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """(B, C, H, W) uint8 on the device, of the (B,) rows of each part."""
        chosen = placed(np.concatenate(parts), self._images.device)
        for part in chosen.split(list(map(len, parts))):
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
        self._order: list[np.ndarray] = []  # the rows of each batch, filled before every pass
        several: dict[str, Any] = (
            {"prefetch_factor": self.PREFETCHED, "persistent_workers": True} if workers else {}
        )
        self._loader = DataLoader(
            ids,  # type: ignore[arg-type]
            batch_sampler=self._order,  # type: ignore[arg-type]
            collate_fn=functools.partial(_read, source, shape),
            num_workers=workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # it draws when a pass begins, and not what networks draw
            **several,
        )

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """As `InMemory.batches`; one pass at a time."""
        self._order[:] = parts
        for batch in self._loader:
            if isinstance(batch, str):
                raise UserError(batch)
            yield batch.to(self._device, non_blocking=True)


class Computed:
    """What a network made of every image, in memory, or in a file that memory is mapped to.

    Args:
        values: (n, ...) of the images, to be filled.
        device: of the batches.
        file: that holds the values; it is mapped again where this is unpickled.
    """

    in_memory = True

    def __init__(self, values: Tensor, device: torch.device, file: Path | None = None):
        self.values, self.device, self.file = values, device, file
        self.shape: Any = tuple(values.shape[1:])

    @classmethod
    def mapped(cls, file: Path, device: torch.device) -> Computed:
        """Those in a file on this machine, whose name ends in their `form`."""
        _, dtype, sides = file.name.split(".")
        shape = tuple(map(int, sides.split("x")))
        flat = torch.from_file(str(file), size=math.prod(shape), dtype=getattr(torch, dtype))
        return cls(flat.view(shape), device, file)

    @property
    def form(self) -> str:
        """Type and shape, as in `float32.2000x512`."""
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"{dtype}.{'x'.join(map(str, self.values.shape))}"

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return self.values.nbytes

    def batches(self, parts: Sequence[np.ndarray]) -> Iterator[Tensor]:
        """(B, ...) on the device, of the (B,) rows of each part."""
        chosen = placed(np.concatenate(parts), self.values.device)
        for part in chosen.split(list(map(len, parts))):
            batch = self.values.index_select(0, part)
            if batch.device.type != self.device.type:  # through pinned memory, nobody waits
                batch = batch.pin_memory().to(self.device, non_blocking=True)
            yield batch

    def __reduce__(self) -> Any:
        if self.file is not None:
            return Computed.mapped, (self.file, self.device)
        return Computed, (self.values, self.device)


Pixels = InMemory | Streamed | Computed


def _read(source: Source, shape: tuple[int, int, int], ids: list[np.int64]) -> Tensor | str:
    """(B, C, H, W) uint8 of B ids, or what is wrong with one of them.

    An exception of a worker would arrive as a traceback.
    """
    # a new array has the strides of the batches from memory, also along a side of 1: they
    # decide which kernel of a convolution runs
    images = np.empty((len(ids), *shape), np.uint8)
    if isinstance(source.images, np.ndarray):
        images[:] = source.images[ids]
        return torch.from_numpy(images)
    for image, i in zip(images, map(int, ids), strict=True):
        try:
            image[:], _ = pixels_of(source, i, shape)
        except ImageError as error:
            return f"data: {source.name(i)}: {error}"
        except UserError as error:
            return str(error)
    return torch.from_numpy(images)


def shape_of_first(source: Source, ids: np.ndarray) -> tuple[int, int, int]:
    """(C, H, W) of the first image among `ids` that can be read."""
    first = ""
    for i in map(int, ids):
        try:
            c, h, w = source.read(i)[0].shape
        except ImageError as error:
            first = first or f"; the first, {source.name(i)}: {error}{source.elsewhere(i)}"
        else:
            return c, h, w
    raise UserError(f"data: none of its {len(ids):,} images can be read{first}")


def pixels_of(
    source: Source, i: int, shape: tuple[int, int, int]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `Source.read`, of an image that must have the shape of the others.

    Raises:
        ImageError: when it cannot be read.
        UserError: when it has another shape.
    """
    pixels, converted = source.read(i)
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
    """Memory that is free on a device, within the limits of a container or a batch system."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return min([free, *left_by_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def left_by_limits(own: Path, groups: Path) -> list[int]:
    """Bytes that each memory limit leaves which holds for this process (control groups, version 2).

    Args:
        own: says which group this process is in; the limits of those above hold as well.
        groups: where the groups are.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # another system
        return []
    inner = [groups / line.removeprefix("0::/") for line in lines if line.startswith("0::/")]
    left = []
    for group in inner + [above for one in inner for above in one.parents]:
        with suppress(OSError, KeyError, ValueError):  # none of the groups, or no limit: "max"
            limit = int((group / "memory.max").read_text())
            used = int((group / "memory.current").read_text())
            facts = dict(x.split() for x in (group / "memory.stat").read_text().splitlines())
            cached = int(facts["inactive_file"])  # counts as used until somebody needs it
            left.append(max(0, limit - used + cached))
    return left
