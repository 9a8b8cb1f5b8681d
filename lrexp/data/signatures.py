"""What is kept of every image to find it again: a hash of its pixels and a small thumbnail."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

SIDE = 8  # height and width of a thumbnail
FLAT = 0.5  # grey levels; a thumbnail with a smaller standard deviation shows nothing to compare
IMAGES_PER_BLOCK = 1024


@dataclass(frozen=True)
class Signatures:
    """What is kept of every image: 16 bytes that change with any pixel, and a small thumbnail."""

    hashes: np.ndarray  # (N,) S16: blake2b of shape and pixels
    thumbnails: np.ndarray  # (N, C * 64) float16, centred per channel, length 1; 0 where flat

    def __len__(self) -> int:
        return len(self.hashes)

    @staticmethod
    def of(images: np.ndarray) -> Signatures:
        """Signatures of a block of images; an image has the same one in every block.

        Args:
            images: (n, C, H, W) uint8.
        """
        starts = range(0, max(len(images), 1), IMAGES_PER_BLOCK)
        blocks = [_thumbnails(images[start : start + IMAGES_PER_BLOCK]) for start in starts]
        return Signatures(pixel_hashes(images), np.concatenate(blocks))

    @staticmethod
    def concatenate(parts: Iterable[Signatures]) -> Signatures:
        """One after the other; images may differ in height and width, not in channels."""
        parts = list(parts)
        return Signatures(
            np.concatenate([part.hashes for part in parts]),
            np.concatenate([part.thumbnails for part in parts]),
        )


def pixel_hashes(images: np.ndarray) -> np.ndarray:
    """(n, C, H, W) uint8 → (n,) S16: blake2b of shape and pixels."""
    shape = hashlib.blake2b(str(images.shape[1:]).encode(), digest_size=16)
    digests = []
    for image in np.ascontiguousarray(images):
        digest = shape.copy()
        digest.update(image)
        digests.append(digest.digest())
    return np.array(digests, "S16")


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Area means on 8×8 cells, centred per channel (a tint is no content) and scaled to length 1.

    Cell i of 8 covers rows floor(i H / 8) to ceil((i + 1) H / 8), so cells overlap where 8 does not
    divide H, and images below 8×8 repeat pixels. Sums are integers: no rounding, in any block.
    """
    n, channels, height, width = images.shape
    rows = [(i * height // SIDE, -(-(i + 1) * height // SIDE)) for i in range(SIDE)]
    columns = [(i * width // SIDE, -(-(i + 1) * width // SIDE)) for i in range(SIDE)]
    if height % SIDE == width % SIDE == 0:
        cells = _sums_of_whole_cells(images)
    else:
        bands = np.stack([images[:, :, a:b].sum(2, dtype=np.uint32) for a, b in rows], 2)
        cells = np.stack([bands[..., a:b].sum(-1, dtype=np.uint32) for a, b in columns], -1)
    area = np.outer([b - a for a, b in rows], [b - a for a, b in columns])
    means = (cells / area).reshape(n, channels, SIDE * SIDE)
    means -= means.mean(2, keepdims=True)
    centred = means.reshape(n, channels * SIDE * SIDE)  # float64
    norm = np.sqrt((centred * centred).sum(1, keepdims=True))
    flat = norm < FLAT * math.sqrt(centred.shape[1])
    return np.where(flat, 0, centred / np.where(flat, 1, norm)).astype(np.float16)


def _sums_of_whole_cells(images: np.ndarray) -> np.ndarray:
    """(n, C, 8, 8) uint32 sums over cells that tile images (n, C, H, W), in a fifth of the time."""
    n, channels, height, width = images.shape
    tall, wide = height // SIDE, width // SIDE
    of_band = np.uint16 if tall * 255 <= np.iinfo(np.uint16).max else np.uint32
    lines = images.reshape(n, channels, SIDE, tall, width)
    bands = lines[:, :, :, 0].astype(of_band)
    for i in range(1, tall):
        bands += lines[:, :, :, i]
    parts = bands.reshape(n, channels, SIDE, SIDE, wide)
    cells = parts[..., 0].astype(np.uint32)
    for i in range(1, wide):
        cells += parts[..., i]
    return cells
