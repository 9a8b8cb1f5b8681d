"""Means over every two numbers that were swept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lrexp.judge.ranking import Configuration, are_numbers
from lrexp.runs.sweep import RATE, REPEATED, Sweep, finite, swept_keys

MOST_CELLS = 40_000


@dataclass(frozen=True)
class CrossTable:
    """Means over two swept numbers, for one group."""

    group: str
    x_key: str
    y_key: str
    xs: tuple[float, ...]  # ascending
    ys: tuple[float, ...]  # ascending
    cells: tuple[tuple[Configuration | None, ...], ...]  # (ys, xs), the best where there are more
    several: bool  # whether any cell stands for more than one configuration


def cross_tables(sweep: Sweep, ranked: Sequence[Configuration], most: int = 8) -> list[CrossTable]:
    """One per group over two swept numbers, where the group has at least two values of both.

    The pair is the rate (or the first number) with each other number in turn; groups come best
    first, and there are at most `most` tables. Numbers that were drawn at random make none, where
    it would be of more than MOST_CELLS cells, nearly all of them empty.
    """
    points = sweep.tried
    axes = [key for key in swept_keys(points) if key not in REPEATED and are_numbers(points, key)]
    axes.sort(key=lambda key: key != RATE)
    pairs = list(combinations(axes, 2))
    if axes[:1] == [RATE]:
        pairs = [pair for pair in pairs if RATE in pair]
    names = list(dict.fromkeys(c.group for c in ranked))
    made = [_cross_table(ranked, name, x, y) for x, y in pairs for name in names]
    return [one for one in made if one is not None][:most]


def _cross_table(
    ranked: Sequence[Configuration], group: str, x_key: str, y_key: str
) -> CrossTable | None:
    cells: dict[tuple[float, float], Configuration] = {}
    several = False
    for one in ranked:
        settings = one.points[0].settings
        x, y = finite(settings.get(x_key)), finite(settings.get(y_key))
        if one.group == group and x is not None and y is not None:
            several |= (x, y) in cells
            cells.setdefault((x, y), one)  # the best comes first
    xs, ys = (tuple(sorted({place[i] for place in cells})) for i in (0, 1))
    if len(xs) < 2 or len(ys) < 2 or len(xs) * len(ys) > MOST_CELLS:
        return None
    table = tuple(tuple(cells.get((x, y)) for x in xs) for y in ys)
    return CrossTable(group, x_key, y_key, xs, ys, table, several)
