"""What a data set is before anything is chosen from it: images, labels, names, its own splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lrexp.data.images import read_image

TRAIN, VAL, TEST = 0, 1, 2  # codes of a data set's own splits


@dataclass(frozen=True)
class EncodedImages:
    """Images that are made when they are asked for."""

    encoded: Callable[[int], bytes | str | np.ndarray]  # image i as `read_image` takes it
    name: Callable[[int], str]  # what messages call image i
    channels: int  # 1 or 3, which every image is converted to
    size: int | None  # every image becomes size × size; None: they are so already
    elsewhere: Callable[[int], str] | None = None  # where an image seems to be that is not there


@dataclass(frozen=True)
class Source:
    """Every image of a data set, before any split."""

    images: np.ndarray | EncodedImages  # (N, C, H, W) uint8, or made when asked for
    labels: np.ndarray  # (N,) int64, -1 where there is none; (N, classes) float32 of 0 and 1
    class_names: tuple[str, ...]
    split: np.ndarray | None = None  # (N,) TRAIN, VAL or TEST, if the data set has splits
    groups: np.ndarray | None = None  # (N,) int64 codes: what belongs together
    group_names: Sequence[str] = ()  # of the codes
    white: int = 255  # the largest pixel value, which becomes 1.0
    notes: tuple[str, ...] = ()  # how it was read and what was not, a sentence each

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

    def elsewhere(self, i: int) -> str:
        """A line on where image i seems to be; empty when it is there, or nobody knows."""
        known = isinstance(self.images, EncodedImages) and self.images.elsewhere
        found = known(i) if known else ""
        return f"\n  {found}" if found else ""

    def read(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """(C, H, W) uint8 of image i, and what had to be converted, in a word each.

        Raises:
            ImageError: when it cannot be used; the message says why.
        """
        if isinstance(self.images, np.ndarray):
            return self.images[i], ()
        return read_image(self.images.encoded(i), self.images.channels, self.images.size)

    def has(self, code: int) -> bool:
        """Whether the data set has a split of that code of its own."""
        return self.split is not None and bool((self.split == code).any())

    def of_size(self, size: int) -> Source:
        """The same with every image brought to size × size."""
        if isinstance(self.images, EncodedImages):
            return replace(self, images=replace(self.images, size=size))
        if self.images.shape[2:] == (size, size):
            return self
        brighter = 255 // self.white  # so that interpolated values have levels to fall on
        array = self.images * np.uint8(brighter)
        images = EncodedImages(array.__getitem__, "image {}".format, self.channels, size)
        return replace(self, images=images, white=self.white * brighter)
