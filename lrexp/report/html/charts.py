"""Figures on a page: data that `report.js` draws as SVG, and bars that need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrexp.report.figure import COLOURS, Chart, Figure, HeatMap
from lrexp.report.html.page import Html, element, embedded_json

MOST_POINTS = 1000  # of one line
MOST_COLUMNS = 200  # of a heat map over epochs
MOST_CELLS = 12_000
# of a series, where they are set
PER_POINT = ("low", "high", "labels", "links", "texts")
FLAGS = ("faint", "hidden", "quiet", "shift", "edge")


def drawn(figure: Figure) -> Html:
    """A figure as an element of a page."""
    return heat_map(figure) if isinstance(figure, HeatMap) else xy_chart(figure)


def xy_chart(chart: Chart) -> Html:
    """Lines, steps, dots and areas; a line of very many points is thinned."""
    places: dict[tuple[float, ...], int] = {}  # series over the same x share it
    series = []
    for one, style in zip(chart.series, chart.styles(), strict=True):
        kept = _thinned(len(one.x), MOST_POINTS) if one.kind != "dots" else range(len(one.x))
        x = tuple(float(one.x[i]) for i in kept)
        spec: dict[str, Any] = {
            "name": one.name,
            "kind": one.kind,
            "x": places.setdefault(x, len(places)),
            "y": [one.y[i] for i in kept] if one.y else [],
            **dict(zip(("colour", "dash", "marker"), style, strict=True)),
        }
        found = {key: getattr(one, key) for key in (*PER_POINT, *FLAGS)}
        spec |= {key: [found[key][i] for i in kept] for key in PER_POINT if found[key]}
        spec |= {key: found[key] for key in FLAGS if found[key]}
        if one.shape != "marker":
            spec["shape"] = one.shape
        series.append(spec)
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
    return _figure(spec, chart.compact)


def heat_map(heat: HeatMap) -> Html:
    """Values as colours; of very many columns over epochs some are left out."""
    most = min(MOST_COLUMNS, max(20, MOST_CELLS // max(1, len(heat.rows))))
    kept = _thinned(len(heat.columns), most) if heat.cursor else range(len(heat.columns))
    spec = vars(heat) | {
        "kind": "heat",
        "columns": [heat.columns[i] for i in kept],
        "values": [[row[i] for i in kept] for row in heat.values],
        "x": {"label": heat.x_label},
        "y": {"label": heat.y_label},
        "label": heat.value_label,
        "labels": [[row[i] for i in kept] for row in heat.labels] or None,
    }
    return _figure(spec, False)


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart."""

    name: str
    value: float | None  # None: no bar, the text alone
    text: str  # what stands at the bar's end
    detail: str = ""  # what stands under the name
    hatched: bool = False  # the whole width, hatched: what is switched off
    colour: int = 0


def bar_chart(title: str, bars: Sequence[Bar], *, log: bool = False, note: str = "") -> Html:
    """Horizontal bars with their values as text; needs no script.

    Args:
        title: of the figure.
        bars: from the top.
        log: lengths by the logarithm, from a bit below the smallest value.
        note: under the figure.
    """
    values = [bar.value for bar in bars if bar.value is not None and math.isfinite(bar.value)]
    top = max(values, default=0.0)
    positive = [value for value in values if value > 0]
    bottom = min(positive, default=1.0) / 2

    def length(value: float | None) -> float:
        if value is None or not value > 0 or not math.isfinite(value):
            return 0.0
        if log:
            return 100 * math.log(value / bottom) / math.log(top / bottom)
        return 100 * value / top

    lines = [
        element(
            "li",
            element(
                "span",
                element("span", bar.name, title=bar.name),
                element("small", bar.detail) if bar.detail else None,
                class_="name",
            ),
            element(
                "span",
                element(
                    "i",
                    class_="off" if bar.hatched else f"c{bar.colour % len(COLOURS)}",
                    style=f"width:{100 if bar.hatched else length(bar.value):.2f}%",
                ),
                class_="track",
            ),
            element("span", bar.text, class_="value"),
        )
        for bar in bars
    ]
    return element(
        "figure",
        element("figcaption", title),
        element("ol", *lines, class_="bars"),
        element("p", note, class_="under") if note else None,
    )


def _figure(spec: dict[str, Any], compact: bool) -> Html:
    title, note = spec["title"], spec.pop("note")
    data = element("script", embedded_json(spec), type="application/json")
    return element(
        "figure",
        element("figcaption", title),
        element("div", class_="plot"),
        element("p", note, class_="under") if note else None,
        data,
        class_="chart compact" if compact else "chart",
    )


def _thinned(count: int, most: int) -> Sequence[int]:
    """Every index, or of too many evenly spaced ones with the first and the last."""
    if count <= most:
        return range(count)
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
