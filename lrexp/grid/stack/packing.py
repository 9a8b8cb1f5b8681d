"""Which points of a grid train together: a pure function of what is known of each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Point:
    """What packing must know of a point."""

    shared: Hashable | None  # points with the same may train together; None: only by itself
    bytes: int  # memory that it takes as a member while it trains
    feed: Hashable = None  # points with the same see the same batches, which is cheaper


def pack(points: Sequence[Point], capacity: int, largest: int) -> list[list[int]]:
    """Packs of points that train together, as indices: every point in exactly one.

    Points that may train together make as few packs as fit, of equal sizes but for one point; when
    there are several, points of one feed stay together where they can. Packs are in order of their
    first point, and so are the points in each.

    Args:
        points: of the grid.
        capacity: bytes that the members of a pack may take together; a point that alone takes more
            is a pack of its own.
        largest: members of a pack at most.
    """
    alike: dict[Hashable, list[int]] = {}
    for i, point in enumerate(points):
        key = ("alone", i) if point.shared is None else ("shared", point.shared)
        alike.setdefault(key, []).append(i)
    packs = []
    for members in alike.values():
        heaviest = max(points[i].bytes for i in members)
        fit = max(1, min(largest, capacity // max(1, heaviest)))
        first_seen = {points[i].feed: i for i in reversed(members)}
        members.sort(key=lambda i: (first_seen[points[i].feed], i))
        packs += [sorted(part) for part in _parts(members, math.ceil(len(members) / fit))]
    return sorted(packs)


def halves(members: Sequence[T]) -> tuple[list[T], list[T]]:
    """Two packs out of one that did not fit, of equal sizes but for one member.

    Raises:
        ValueError: for fewer than two members, which cannot be divided.
    """
    if len(members) < 2:
        raise ValueError(f"a pack of {len(members)} cannot be halved")
    first, second = _parts(members, 2)
    return first, second


def _parts(members: Sequence[T], count: int) -> list[list[T]]:
    """So many stretches of a list, the first ones longer by one where it does not divide evenly."""
    size, rest = divmod(len(members), count)
    ends = [i * size + min(i, rest) for i in range(count + 1)]
    return [list(members[a:b]) for a, b in itertools.pairwise(ends)]
