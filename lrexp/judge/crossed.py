"""Two swept numbers against each other: a table of configurations per group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrexp.judge.ranking import Configuration, are_numbers
from lrexp.runs.sweep import RATE, SEED, Sweep, finite, swept_keys


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


def numeric_axes(sweep: Sweep) -> list[str]:
    """The swept keys that have at least two numbers as values, the rate first."""
    points = sweep.tried
    found = [k for k in swept_keys(points) if k != SEED and are_numbers(points, k)]
    return sorted(found, key=lambda key: key != RATE)


def cross_tables(sweep: Sweep, ranked: Sequence[Configuration], most: int = 8) -> list[CrossTable]:
    """One per group over two swept numbers, where the group has at least two values of both.

    The pair is the rate (or the first number) with each other number in turn; groups come best
    first, and there are at most `most` tables.
    """
    axes = numeric_axes(sweep)
    pairs = [(axes[0], other) for other in axes[1:]]
    if len(axes) > 2 and axes[0] != RATE:
        pairs += [(x, y) for i, x in enumerate(axes[1:], 1) for y in axes[i + 1 :]]
    names = list(dict.fromkeys(c.group for c in ranked))
    made = [_cross_table(ranked, name, x, y) for x, y in pairs for name in names]
    return [one for one in made if one is not None][:most]


def _cross_table(
    ranked: Sequence[Configuration], group: str, x_key: str, y_key: str
) -> CrossTable | None:
    cells: dict[tuple[float, float], Configuration] = {}
    several = False
    for one in ranked:
        if one.group != group:
            continue
        settings = one.points[0].settings
        x, y = finite(settings.get(x_key)), finite(settings.get(y_key))
        if x is None or y is None:
            continue
        several |= (x, y) in cells
        cells.setdefault((x, y), one)  # the best comes first
    xs, ys = (tuple(sorted({place[i] for place in cells})) for i in (0, 1))
    if len(xs) < 2 or len(ys) < 2:
        return None
    table = tuple(tuple(cells.get((x, y)) for x in xs) for y in ys)
    return CrossTable(group, x_key, y_key, xs, ys, table, several)
