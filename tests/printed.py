"""The words of a PDF that Chromium printed: how large they are and where they stand."""

from __future__ import annotations

import math
import re
import zlib
from typing import NamedTuple

Matrix = tuple[float, float, float, float, float, float]


class Words(NamedTuple):
    """A run of letters."""

    points: float  # size of the letters
    x: float  # in points from the left
    y: float  # in points from the bottom of the page


def printed_pages(pdf: bytes) -> list[list[Words]]:
    """Of every page its runs of letters, as its drawing commands place them."""
    bodies = dict(re.findall(rb"(?s)(\d+) 0 obj\s(.*?)endobj", pdf))
    pages = [body for body in bodies.values() if re.search(rb"/Type\s*/Page\b", body)]
    found = []
    for page in pages:
        (drawing,) = re.findall(rb"/Contents\s+(\d+)", page)
        (packed,) = re.findall(rb"(?s)stream\r?\n(.*)endstream", bodies[drawing])
        found.append(_words(zlib.decompress(packed)))
    return found


def _words(commands: bytes) -> list[Words]:
    place: Matrix = (1, 0, 0, 1, 0, 0)
    kept, arguments, size, found = list[Matrix](), list[bytes](), 0.0, list[Words]()
    for token in re.findall(rb"<[^>]*>|\([^)]*\)|\[|\]|/?[^\s\[\]<>()]+", commands):
        match token:
            case b"q":
                kept.append(place)
            case b"Q":
                place = kept.pop()
            case b"cm":
                place = _after(_matrix(arguments), place)
            case b"Tf":
                size = float(arguments[-1])
            case b"Tm":
                a, b, c, d, x, y = _after(_matrix(arguments), place)
                found.append(Words(size * math.sqrt(abs(a * d - b * c)), x, y))
        arguments = [*arguments, token] if re.fullmatch(rb"-?[\d.]+|/\S+", token) else []
    return found


def _matrix(arguments: list[bytes]) -> Matrix:
    a, b, c, d, x, y = map(float, arguments[-6:])
    return a, b, c, d, x, y


def _after(m: Matrix, n: Matrix) -> Matrix:
    """What `m` makes of a place, and then `n`."""
    a, b, c, d, x, y = m
    e, f, g, h, p, q = n
    return (
        *(a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h),
        *(x * e + y * g + p, x * f + y * h + q),
    )
