"""PNG from an array of pixels, with the standard library alone."""

from __future__ import annotations

import struct
import zlib
from typing import Any


def png(image: Any) -> bytes:
    """A PNG file of a (H, W, 1 or 3) uint8 array, grey or RGB."""
    height, width, channels = image.shape
    kind = {1: 0, 3: 2}[channels]  # PNG's colour types
    lines = b"".join(b"\0" + image[y].tobytes() for y in range(height))  # no filter per line
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
