"""Maps of a sweep: who at which rate, and every two numbers that were swept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from lrexp.judge.cross_tables import CrossTable, cross_tables
from lrexp.judge.ranking import Configuration
from lrexp.judge.words import best_is, is_share
from lrexp.report.figure import HeatMap
from lrexp.report.sweep.styles import MANY, line_names
from lrexp.report.sweep.words import counted, mean_label
from lrexp.runs.sweep import RATE, Sweep

MOST_RATES = 30  # columns that can be read
MOST_LINES = 200  # rows
MOST_CELLS = 12_000  # of all maps over two settings, of more than MANY points
BEST_OF_THOSE = "Each cell is the best of those at its rate."
HATCHED = "Hatched: no point finished or none was tried."


def heat_lead(sweep: Sweep) -> str:
    strongest = best_is(sweep.monitor)
    return f"Mean of the best {sweep.monitor} over seeds; the strongest colour is the {strongest}."


def heat_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> list[HeatMap]:
    """A map per group over two swept numbers, all on one scale of colours.

    Of more than MANY points as many maps as have MOST_CELLS in all.
    """
    tables = cross_tables(sweep, ranked)
    if len(sweep.tried) > MANY:
        sizes = accumulate(len(one.xs) * len(one.ys) for one in tables)
        tables = [one for one, size in zip(tables, sizes, strict=True) if size <= MOST_CELLS]
    values = [c.worth.mean for t in tables for row in t.cells for c in row if c and c.worth.n]
    if not values:
        return []
    return [_heat_figure(sweep, one, (min(values), max(values))) for one in tables]


def rate_map(sweep: Sweep, ranked: Sequence[Configuration]) -> HeatMap | None:
    """Every line of the figure over the rate as a row: the best that it was at each rate.

    The best MOST_LINES lines; None where there is one line or one rate, and where there are too
    many rates to read.
    """
    names = line_names(sweep, ranked)
    rows = list(dict.fromkeys(names[one.rank] for one in ranked))[:MOST_LINES]
    rates = sorted({one.rate for one in ranked if one.rate is not None})
    if len(rows) < 2 or not 1 < len(rates) <= MOST_RATES:
        return None
    cells: dict[tuple[str, float], Configuration] = {}
    several = False
    for one in ranked:  # the best comes first
        if one.rate is not None:
            several |= (names[one.rank], one.rate) in cells
            cells.setdefault((names[one.rank], one.rate), one)
    known = [one.worth.mean for one in cells.values() if one.worth.n]
    if not known:
        return None
    share = is_share(sweep.monitor)
    found = [[cells.get((row, rate)) for rate in rates] for row in rows]
    hatched = any(not (c and c.worth.n) for row in found for c in row)
    return HeatMap(
        f"Mean of the best {sweep.monitor} by rate",
        rows,
        [f"{rate:.3g}" for rate in rates],
        [[c.worth.mean if c and c.worth.n else None for c in row] for row in found],
        x_label="learning rate",
        value_label=sweep.monitor,
        log=not share and 0 < 10 * min(known) < max(known),
        percent=share,
        numbers=True,
        reverse=sweep.sign == 1,
        labels=[[_cell_label(sweep, c) for c in row] for row in found],
        note=" ".join(filter(None, (HATCHED * hatched, BEST_OF_THOSE * several))),
    )


def _cell_label(sweep: Sweep, cell: Configuration | None) -> str:
    if cell is None:
        return "not tried"
    if not cell.worth.n:
        return f"{cell.name}: {counted(cell.counts)}"
    return mean_label(cell, cell.worth, is_share(sweep.monitor))


def _heat_figure(sweep: Sweep, one: CrossTable, bounds: tuple[float, float]) -> HeatMap:
    share = is_share(sweep.monitor)
    rows = one.cells[::-1]
    values = [[c.worth.mean if c and c.worth.n else None for c in row] for row in rows]
    hatched = any(None in row for row in values)
    notes = [
        HATCHED if hatched else "",
        "Each cell is the best of those that share its two settings." if one.several else "",
    ]
    return HeatMap(
        one.group,
        [f"{y:.3g}" for y in one.ys[::-1]],
        [f"{x:.3g}" for x in one.xs],
        values,
        x_label=_axis_name(one.x_key),
        y_label=_axis_name(one.y_key),
        value_label=sweep.monitor,
        log=not share and 0 < 10 * bounds[0] < bounds[1],
        percent=share,
        numbers=True,
        reverse=sweep.sign == 1,
        between=bounds,
        labels=[[_cell_label(sweep, c) for c in row] for row in rows],
        note=" ".join(filter(None, notes)),
    )


def _axis_name(key: str) -> str:
    return "learning rate" if key == RATE else key.rpartition(".")[2].replace("_", " ")
