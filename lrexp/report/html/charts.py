"""Figures on a page: data that `report.js` draws, pictures until it does, and plain bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from lrexp.report.figure import Chart, Figure, HeatMap, Parallel, evenly
from lrexp.report.html.page import embedded_json, tags
from lrexp.report.html.static import still

MOST_POINTS = 1000  # of one line
MOST_COLUMNS = 200  # of a heat map over epochs
MOST_CELLS = 12_000
PER_POINT = ("y", "low", "high", "labels", "links", "texts")


def drawn(figure: Figure | Parallel) -> Markup:
    """A figure as an element of a page: a picture that the script replaces by what can be used."""
    if isinstance(figure, Parallel):
        return parallel(figure)
    return heat_map(figure) if isinstance(figure, HeatMap) else xy_chart(figure)


def xy_chart(chart: Chart) -> Markup:
    """Lines, steps, dots and areas; a line of very many points is thinned."""
    places: dict[tuple[float, ...], int] = {}  # series over the same x share it
    series = []
    for one, style in zip(chart.series, chart.styles(), strict=True):
        kept = evenly(range(len(one.x)), MOST_POINTS) if one.kind != "dots" else range(len(one.x))
        x = tuple(float(one.x[i]) for i in kept)
        spec: dict[str, Any] = {"y": []} | {
            key: [value[i] for i in kept] if key in PER_POINT else value
            for key, value in vars(one).items()
            if value
        }
        spec |= zip(("colour", "dash", "marker"), style, strict=True)
        series.append(spec | {"x": places.setdefault(x, len(places))})
    used = {one.shape for one in chart.series}
    spec = vars(chart) | {
        "kind": "xy",
        "x": vars(chart.x),
        "y": vars(chart.y) | ({"label": ""} if chart.compact else {}),  # small: the text says it
        "xs": list(places),
        "series": series,
        "marks": [vars(mark) for mark in chart.marks],
        "rules": [vars(rule) for rule in chart.rules],
        "shapes": {shape: words for shape, words in chart.shapes.items() if shape in used},
    }
    return tags.chart(chart, embedded_json(spec), still(chart))


def heat_map(heat: HeatMap) -> Markup:
    """Values as colours; of very many columns over epochs some are left out."""
    most = min(MOST_COLUMNS, max(20, MOST_CELLS // max(1, len(heat.rows))))
    kept = evenly(range(len(heat.columns)), most) if heat.cursor else range(len(heat.columns))
    spec = vars(heat) | {
        "kind": "heat",
        "columns": [heat.columns[i] for i in kept],
        "values": [[row[i] for i in kept] for row in heat.values],
        "x": {"label": heat.x_label},
        "y": {"label": heat.y_label},
        "label": heat.value_label,
        "labels": [[row[i] for i in kept] for row in heat.labels] or None,
    }
    return tags.chart(heat, embedded_json(spec), still(heat))


def parallel(figure: Parallel) -> Markup:
    """Upright axes and lines between them."""
    spec = vars(figure) | {
        "kind": "parallel",
        "axes": [vars(axis) for axis in figure.axes],
        "series": [vars(line) | {"kind": "line"} for line in figure.lines],
        "legend": True,
    }
    del spec["lines"]
    return tags.chart(figure, embedded_json(spec), still(figure))


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart."""

    name: str
    value: float | None  # None: what is switched off, the whole width hatched
    text: str  # what stands at the bar's end
    detail: str = ""  # what stands under the name


def bar_chart(title: str, bars: Sequence[Bar]) -> Markup:
    """Horizontal bars from the top, with their values as text; needs no script.

    Lengths that differ by more than a factor of 50 go by the logarithm, from a bit below the
    smallest.
    """
    known = [bar.value for bar in bars if bar.value]
    top, bottom = max(known, default=1.0), min(known, default=1.0)
    log = top > 50 * bottom

    def length(value: float | None) -> float:
        if not value:
            return 100 if value is None else 0
        return 100 * (math.log(2 * value / bottom, 2 * top / bottom) if log else value / top)

    note = "Bar lengths are logarithmic." if log else ""
    return tags.bars(title, [(bar, length(bar.value)) for bar in bars], note)
