"""Which runs of one kind train together: a pure function of the batches that they see."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T")


def pack(feeds: Sequence[Hashable], largest: int) -> list[list[int]]:
    """Packs of runs that may all train together, as indices: every run in exactly one.

    As few packs as there can be, of equal sizes but for one run; when there are several, runs of
    one feed stay together where they can. Packs are in order of their first run, and so are the
    runs in each.

    Args:
        feeds: of every run; those with the same see the same batches, which is cheaper.
        largest: members of a pack at most.
    """
    first_seen = {feed: i for i, feed in reversed(list(enumerate(feeds)))}
    order = sorted(range(len(feeds)), key=lambda i: (first_seen[feeds[i]], i))
    return sorted(sorted(part) for part in _parts(order, math.ceil(len(order) / largest)))


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
