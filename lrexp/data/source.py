"""What a data set is before anything is chosen from it: images, labels, names, its own splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from lrexp.data.images import read_image, resized

TRAIN, VAL, TEST = 0, 1, 2  # codes of a data set's own splits


class Images(Protocol):
    """Images that are made when they are asked for."""

    @property
    def channels(self) -> int:
        """1 or 3, of every image."""
        ...

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What messages call image i."""
        ...

    def read(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """(C, H, W) uint8, and what had to be converted, in a word each.

        Raises:
            ImageError: when it cannot be used; the message says why.
        """
        ...


@dataclass(frozen=True)
class EncodedImages:
    """Image files, or their bytes in a table."""

    encoded: Callable[[int], bytes | str]  # the bytes of image i, or the file that holds them
    called: Callable[[int], str]  # the name of image i in messages
    count: int
    channels: int  # 1 or 3, which every image is converted to
    size: int | None  # every image becomes size × size; None: they are so already

    def __len__(self) -> int:
        return self.count

    def name(self, i: int) -> str:
        """As called."""
        return self.called(i)

    def read(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Decoded (C, H, W) uint8."""
        return read_image(self.encoded(i), self.channels, self.size)


@dataclass(frozen=True)
class ResizedImages:
    """An array's images, each brought to size × size."""

    array: np.ndarray  # (N, C, H, W) uint8
    size: int

    @property
    def channels(self) -> int:
        """Those of the array."""
        return self.array.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    def name(self, i: int) -> str:
        """Its position."""
        return f"image {i}"

    def read(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Resized (C, size, size) uint8."""
        return resized(self.array[i], self.size), ()


@dataclass(frozen=True)
class Source:
    """Every image of a data set, before any split."""

    images: np.ndarray | Images  # (N, C, H, W) uint8, or made when asked for
    labels: np.ndarray  # (N,) int64, -1 where there is none; (N, classes) float32 of 0 and 1
    class_names: tuple[str, ...]
    split: np.ndarray | None = None  # (N,) TRAIN, VAL or TEST, if the data set has splits
    groups: np.ndarray | None = None  # (N,) int64 codes: what belongs together
    group_names: Sequence[str] = ()  # of the codes
    white: int = 255  # the largest pixel value, which becomes 1.0

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.labels.ndim == 2

    @property
    def channels(self) -> int:
        """1 or 3, of every image."""
        return self.images.shape[1] if isinstance(self.images, np.ndarray) else self.images.channels

    def name(self, i: int) -> str:
        """What messages call image i."""
        return f"image {i}" if isinstance(self.images, np.ndarray) else self.images.name(i)

    def has(self, code: int) -> bool:
        """Whether the data set has a split of that code of its own."""
        return self.split is not None and bool((self.split == code).any())

    def of_size(self, size: int) -> Source:
        """The same with every image brought to size × size."""
        if isinstance(self.images, EncodedImages):
            return replace(self, images=replace(self.images, size=size))
        if not isinstance(self.images, np.ndarray) or self.images.shape[2:] == (size, size):
            return self
        brighter = 255 // self.white  # so that interpolated values have levels to fall on
        images = ResizedImages(self.images * np.uint8(brighter), size)
        return replace(self, images=images, white=self.white * brighter)
