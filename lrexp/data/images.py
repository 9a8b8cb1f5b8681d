"""Decoding: from the bytes of an image file to uint8 pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np


class ImageError(Exception):
    """An image that cannot be used, and why."""


def read_image(
    encoded: bytes | str, channels: int, size: int | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an image.

    Args:
        encoded: the file's bytes, or its path.
        channels: 1 (grey) or 3 (RGB).
        size: resize the short side to this and cut out the middle square; None: leave it.

    Returns:
        (C, H, W) uint8 pixels, and a word for everything that had to be converted.

    Raises:
        ImageError: when it cannot be decoded.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            converted = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
    except Exception as error:
        raise ImageError(str(error)) from error
    pixels = np.array(converted if size is None else _fitted(converted, size), np.uint8)
    return (pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0).copy()), ()


def resized(pixels: np.ndarray, size: int) -> np.ndarray:
    """(C, H, W) uint8 → (C, size, size), as `read_image` resizes."""
    from PIL import Image

    return np.stack([np.array(_fitted(Image.fromarray(channel), size)) for channel in pixels])


def _fitted(image: Any, size: int) -> Any:
    """The middle square of a PIL image, size × size, by bilinear interpolation with antialias."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
