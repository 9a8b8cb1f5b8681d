"""Charts as data: what `report.js` draws as SVG, and bars that need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lrexp.report.html.page import Html, element, embedded_json

COLOURS = 8  # --c0 … --c7 in report.css, for light and dark pages
DASHES = 4
MARKERS = 6
MOST_POINTS = 1000  # of one line
MOST_COLUMNS = 200  # of a heat map over epochs
MOST_CELLS = 12_000

Values = Sequence[float | None]


@dataclass(frozen=True)
class Series:
    """What belongs to one entry of a legend: a line, steps, dots, or an area between two lines.

    Colour, dash and marker are numbers of a style; those left out follow the place of its `name`
    among the chart's names. Series of one name share a legend entry and a style.
    """

    name: str
    x: Sequence[float]
    y: Values = ()  # None, NaN and infinities are gaps; of an area nothing
    kind: Literal["line", "step", "dots", "area"] = "line"
    low: Values = ()  # a band around the line, or the area's lower edge
    high: Values = ()
    labels: Sequence[str] = ()  # per point: what it is, when the pointer is near
    links: Sequence[str] = ()  # per point: relative path that a click opens
    colour: int | None = None
    dash: int | None = None
    marker: int | None = None
    faint: bool = False  # one of many: thin and pale
    hidden: bool = False  # shown only when its legend entry is switched on
    quiet: bool = False  # drawn, but not listed at the cursor
    shift: float = 0.0  # places to the right: keeps dots of several series at one x apart
    edge: Literal["", "top", "bottom"] = (
        ""  # dots pile up beyond that end of the y axis, whatever their y
    )
    shape: Literal["marker", "ring", "cross", "arrow"] = (
        "marker"  # of dots; an arrow is for an edge
    )
    texts: Sequence[str] = ()  # per dot: what is written beside it


@dataclass(frozen=True)
class Mark:
    """A vertical line with a label: an event at a place of the x axis."""

    x: float
    label: str
    kind: Literal["note", "bad"] = "note"


@dataclass(frozen=True)
class Rule:
    """A horizontal line with a label: a level to compare with."""

    y: float
    label: str = ""


def xy_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "",
    y_label: str = "",
    x_log: bool = False,
    y_log: bool = False,
    y_zero: bool = False,
    y_percent: bool = False,
    x_ticks: Sequence[float] = (),
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    log_button: bool = False,
    hover: Literal["x", "nearest"] = "x",
    cursor: str = "",
    marks: Sequence[Mark] = (),
    rules: Sequence[Rule] = (),
    shapes: Mapping[str, str] | None = None,
    note: str = "",
    height: int = 260,
    legend: bool = True,
    compact: bool = False,
) -> Html:
    """Lines, steps, dots and areas over two numeric axes.

    Args:
        title: of the figure.
        series: drawn in order, so that later ones lie on top.
        x_label: what is on the axis, with its unit.
        y_label: likewise.
        x_log: logarithmic; points that are not positive are left out.
        y_log: likewise, from the start.
        y_zero: the axis holds 0.
        y_percent: shares as percentages.
        x_ticks: where the axis has labels; round numbers otherwise.
        x_range: from and to, where the data should not decide (charts side by side).
        y_range: likewise.
        log_button: offer to switch the y axis.
        hover: `x` lists every series at one x; `nearest` names the one point next to the pointer.
        cursor: charts with the same word share their cursor; only with `hover="x"`.
        marks: vertical lines.
        rules: horizontal lines.
        shapes: what a cross or an arrow stands for, in words for the legend.
        note: under the figure.
        height: pixels of the plot.
        legend: with buttons that switch series off and on.
        compact: a small multiple.
    """
    xs: list[list[float]] = []
    places: dict[tuple[float, ...], int] = {}
    names = list(dict.fromkeys(one.name for one in series))
    used = {one.shape for one in series}
    drawn = []
    for one in series:
        kept = _thinned(len(one.x), MOST_POINTS) if one.kind != "dots" else range(len(one.x))
        x = [float(one.x[i]) for i in kept]
        place = places.setdefault(tuple(x), len(xs))
        if place == len(xs):
            xs.append(x)
        style = names.index(one.name)
        spec: dict[str, Any] = {
            "name": one.name,
            "kind": one.kind,
            "x": place,
            "y": [one.y[i] for i in kept] if one.y else [],
            "colour": (style if one.colour is None else one.colour) % COLOURS,
            "dash": ((style + style // COLOURS) if one.dash is None else one.dash) % DASHES,
            "marker": ((style + style // COLOURS) if one.marker is None else one.marker) % MARKERS,
        }
        for key in ("low", "high", "labels", "links", "texts"):
            if values := getattr(one, key):
                spec[key] = [values[i] for i in kept]
        spec |= {key: True for key in ("faint", "hidden", "quiet") if getattr(one, key)}
        spec |= {key: getattr(one, key) for key in ("shift", "edge") if getattr(one, key)}
        if one.shape != "marker":
            spec["shape"] = one.shape
        drawn.append(spec)
    return _figure(
        title,
        {
            "kind": "xy",
            "title": title,
            "x": {"label": x_label, "log": x_log, "range": x_range, "ticks": x_ticks},
            "y": {
                "label": y_label,
                "log": y_log,
                "zero": y_zero,
                "percent": y_percent,
                "range": y_range,
                "button": log_button,
            },
            "xs": xs,
            "series": drawn,
            "hover": hover,
            "cursor": cursor,
            "marks": [vars(mark) for mark in marks],
            "rules": [vars(rule) for rule in rules],
            "shapes": {one: words for one, words in (shapes or {}).items() if one in used},
            "height": height,
            "legend": legend,
            "compact": compact,
        },
        note,
        compact,
    )


def heat_map(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str | float],
    values: Sequence[Values],
    *,
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    log: bool = False,
    percent: bool = False,
    numbers: bool = False,
    reverse: bool = False,
    square: bool = False,
    cursor: str = "",
    between: tuple[float, float] | None = None,
    labels: Sequence[Sequence[str]] = (),
    links: Sequence[Sequence[str]] = (),
    note: str = "",
) -> Html:
    """Values as colours, light to strong.

    Args:
        title: of the figure.
        rows: their names, from the top.
        columns: their names, or numbers such as epochs.
        values: (rows, columns); what is missing or not finite is hatched.
        x_label: what the columns are.
        y_label: what the rows are.
        value_label: what the colour says.
        log: colours by the logarithm; values that are not positive count as missing.
        percent: values are shares.
        numbers: write them into the cells where they fit.
        reverse: the lowest value gets the strongest colour (where less is better).
        square: cells as high as wide, for a confusion matrix.
        cursor: charts with the same word share their cursor; columns are then numbers.
        between: the values of the lightest and the strongest colour, for maps side by side.
        labels: (rows, columns) texts that stand for the value at the pointer.
        links: (rows, columns) relative paths that a click opens.
        note: under the figure.
    """
    most = min(MOST_COLUMNS, max(20, MOST_CELLS // max(1, len(rows))))
    kept = _thinned(len(columns), most) if cursor else range(len(columns))
    spec: dict[str, Any] = {
        "kind": "heat",
        "title": title,
        "rows": list(rows),
        "columns": [columns[i] for i in kept],
        "values": [[row[i] for i in kept] for row in values],
        "x": {"label": x_label},
        "y": {"label": y_label},
        "label": value_label,
        "log": log,
        "percent": percent,
        "numbers": numbers,
        "reverse": reverse,
        "square": square,
        "cursor": cursor,
        "between": between,
    }
    for key, texts in (("labels", labels), ("links", links)):
        if texts:
            spec[key] = [[row[i] for i in kept] for row in texts]
    return _figure(title, spec, note, False)


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
                    class_="off" if bar.hatched else f"c{bar.colour % COLOURS}",
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


def _figure(title: str, spec: dict[str, Any], note: str, compact: bool) -> Html:
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
