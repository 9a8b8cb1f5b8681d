"""Made-up images of any shape, for benchmarks."""

from __future__ import annotations

import numpy as np

from lrexp.data.draws import draw, draw_each
from lrexp.data.source import Source

_GRID = 4  # a prototype's random values per side, before they are interpolated
_PART = 2**24  # bytes of noise drawn at once


def synthetic(image_shape: list[int], num_classes: int, train_size: int, noise: float) -> Source:
    """Images of classes that can be learnt: a smooth random pattern per class, plus noise.

    image = clip(prototype[class] + noise × t), t triangular with mean 0 and standard deviation 1,
    pixel values in [0, 1]. Classes take turns. Nothing depends on a seed: equal settings give
    equal images, and a larger set begins with a smaller one.

    Args:
        image_shape: channels, height and width.
        num_classes: of them.
        train_size: images, before any are split off.
        noise: standard deviation of the noise; prototypes span [0, 1].
    """
    labels = np.arange(train_size, dtype=np.int64) % num_classes
    prototypes = _prototypes(num_classes, *image_shape).reshape(num_classes, -1)
    pixels = prototypes.shape[1]
    # The sum of two uniform bytes is triangular on 0..510 with variance (256² - 1) / 6.
    scaled = np.round(255 * noise * (np.arange(511) - 255) / np.sqrt((256**2 - 1) / 6))
    table = scaled.clip(-255, 255).astype(np.int16)
    images = np.empty((train_size, pixels), np.uint8)
    # Raw words of a counter-based generator, which never change between versions of NumPy.
    words = np.random.Philox(key=draw(0, "synthetic noise"))
    per_part = 4 * max(1, _PART // pixels // 4)  # 4 images: whole words, so that parts join
    for start in range(0, train_size, per_part):
        part = slice(start, min(start + per_part, train_size))
        size = (part.stop - start) * pixels
        raw = words.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")[:size]
        sums = (raw & 255) + (raw >> 8)
        values = prototypes[labels[part]] + table[sums].reshape(-1, pixels)
        images[part] = values.clip(0, 255, out=values)
    names = tuple(map(str, range(num_classes)))
    return Source(images.reshape(train_size, *image_shape), labels, names)


def _prototypes(classes: int, channels: int, height: int, width: int) -> np.ndarray:
    """(classes, channels, height, width) int16 in 0..255: random grids, interpolated linearly."""
    ids = np.arange(classes * channels * _GRID * _GRID)
    grid = draw_each(0, "synthetic prototypes", ids) / 2.0**64
    grid = grid.reshape(classes * channels, _GRID, _GRID)
    grid = _weights(height) @ grid @ _weights(width).T
    low, high = grid.min((1, 2), keepdims=True), grid.max((1, 2), keepdims=True)
    spread = np.where(high > low, high - low, 1)
    full = np.round(255 * (grid - low) / spread).astype(np.int16)
    return full.reshape(classes, channels, height, width)


def _weights(size: int) -> np.ndarray:
    """(size, _GRID) weights of linear interpolation from the grid, ends on its ends."""
    at = np.linspace(0, _GRID - 1, size)
    return np.maximum(0, 1 - abs(at[:, None] - np.arange(_GRID)))
