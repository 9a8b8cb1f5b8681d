"""Decoding: from the bytes of an image file to uint8 pixels.

Imports nothing of ours: an exported network has this file beside it.
"""

from __future__ import annotations

import functools
import io
import os
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Formats that are read. Others (EPS, PDF) would start programs or are no photographs.
_WANTED = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
# What several frames of a format are called; those of others (MPO) are previews.
_FRAMES = {**dict.fromkeys(("GIF", "WEBP", "PNG", "AVIF"), "animated"), "TIFF": "several pages"}
_ORIENTATION = 0x0112  # the EXIF tag that says how the camera was held
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY = ("1", "L", "LA", "La")
# Notes on odd metadata and on images above 89 megapixels; above 179 Pillow refuses by itself.
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """An image that cannot be used, and why."""


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in _WANTED if name in Image.OPEN)


@functools.cache
def extensions() -> frozenset[str]:
    """How names of image files end: `.jpg`, `.png` and so on, in small letters."""
    return frozenset(e for e, name in Image.registered_extensions().items() if name in formats())


def read_image(
    encoded: bytes | str | np.ndarray, channels: int, size: int | tuple[int, int] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode an image.

    Transparent pixels are laid on white. 16 bits become 8 as v / 257, float values are taken as
    lying in [0, 1]. Of several frames or pages the first is taken. Pixels are turned upright as
    EXIF says.

    Args:
        encoded: the file's bytes, or its path; or (C, H, W) uint8 that are resized alone.
        channels: 1 (grey) or 3 (RGB).
        size: resize the short side to this and cut out the middle square; (height, width): the
            same for an oblong; None: leave it.

    Returns:
        (C, H, W) uint8 pixels, and a word for everything that had to be converted.

    Raises:
        ImageError: when it cannot be decoded, or its values have no known meaning.
    """
    if isinstance(encoded, np.ndarray):
        fitted = [np.array(_fitted(Image.fromarray(channel), size)) for channel in encoded]
        return np.stack(fitted), ()
    if not len(encoded):
        raise ImageError("is empty (0 bytes)")
    there = isinstance(encoded, str) and os.path.exists(encoded)
    if there and not (os.path.isfile(encoded) or os.path.isdir(encoded)):
        raise ImageError("is a pipe or a device")  # reading one may wait for ever
    source = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    try:
        with Image.open(source, formats=formats()) as image:
            return pixels_of_image(image, channels, size)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError and others
        raise ImageError(_why(encoded, error)) from error


def pixels_of_image(
    image: Image.Image, channels: int, size: int | tuple[int, int] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """As `read_image`, of an image of Pillow's."""
    notes = _frames_and_depth(image)
    image.load()  # here, for a second attempt would take a damaged image for a whole one
    upright = _UPRIGHT.get(_orientation(image) or 1)
    converted, words = _eight_bit(image, channels)
    notes += words
    if upright is not None:
        converted, notes = converted.transpose(upright), [*notes, "rotated by EXIF"]
    pixels = np.array(_fitted(converted, size), np.uint8)
    return (pixels[None] if channels == 1 else np.moveaxis(pixels, 2, 0).copy()), tuple(notes)


def _fitted(image: Image.Image, size: int | tuple[int, int] | None) -> Image.Image:
    """The middle of an image, in the sides wanted, by bilinear interpolation with antialias."""
    if size is None:
        return image
    height, width = (size, size) if isinstance(size, int) else size
    return ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)


def _frames_and_depth(image: Any) -> list[str]:
    """Of an image just opened, for colour of 16 bits per channel is decoded as 8."""
    words = []
    if getattr(image, "is_animated", False):
        words = [_FRAMES[image.format]] if image.format in _FRAMES else []
    if image.mode == "F":
        return [*words, "float"]
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return [*words, "16-bit"] if deep or image.mode.startswith("I") else words


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata beside pixels that may be whole
        return None


def _eight_bit(image: Image.Image, channels: int) -> tuple[Image.Image, list[str]]:
    """As mode L or RGB, and what had to be converted."""
    words: list[str] = []
    mode = image.mode
    if mode.startswith(("I", "F")):
        image, grey = Image.fromarray(_scaled(image)), True
    else:
        grey = mode in _GREY
        named = {"P": "palette", "PA": "palette", "1": "1-bit"}.get(mode, mode)
        if mode not in ("L", "RGB", "LA", "La", "RGBA", "RGBa", "RGBX"):
            words.append(named)
        if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image, transparent = _on_white(image)
            words += ["alpha"] if transparent else []
    wanted = "L" if channels == 1 else "RGB"
    if grey and channels == 3:
        words.append("grey to RGB")
    if not grey and channels == 1:
        words.append("colour to grey")
    return image.convert(wanted), words


def _scaled(image: Image.Image) -> np.ndarray:
    """(H, W) uint8 of 16-bit, 32-bit or float grey values."""
    values = np.asarray(image)
    if image.mode == "F":
        if not np.isfinite(values).all():
            count = values.size - int(np.isfinite(values).sum())
            raise ImageError(f"has {count} pixels that are NaN or infinite")
        white, meaning = 1.0, "float values in [0, 1]"
    else:
        white, meaning = 65535.0, "integers from 0 to 65535"
    low, high = values.min(), values.max()
    if low < 0 or high > white:
        raise ImageError(f"has values from {low:g} to {high:g}, which are no {meaning}")
    return np.round(values * (255 / white)).astype(np.uint8)


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """Laid on white, and whether any pixel let the white through."""
    layered = image.convert("RGBA")
    alpha = layered.getchannel("A")
    low: Any = alpha.getextrema()
    if low[0] == 255:
        return layered.convert("RGB"), False
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB"), True


def _why(encoded: bytes | str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no file {encoded}"
    if isinstance(error, Image.UnidentifiedImageError):
        empty = isinstance(encoded, str) and not os.path.getsize(encoded)
        return "is empty (0 bytes)" if empty else "is no image that can be read"
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"cannot be decoded ({said[:300].rstrip(':. ')})"
