"""A chart over two numeric axes as a still picture."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from lrexp.report.figure import Chart, Series, Values, evenly
from lrexp.report.html.page import is_finite
from lrexp.report.html.scales import Scale, ends, scale, text_width, ticks
from lrexp.report.html.strokes import dot, legend, line, svg, text, upright_label

WIDTH, SMALL = 480, 280  # pixels, of what a page may stretch by a quarter
MOST_POINTS, ALL_POINTS, LEAST_POINTS = 240, 3600, 24  # of one line, of all, of one of very many
Styled = tuple[Series, tuple[int, int, int]]  # with colour, dash and marker


def xy_picture(chart: Chart) -> Markup:
    """Its legend and an SVG, without what is hidden at first."""
    return _XyPicture(chart).made()


class _XyPicture:
    """A chart over two numeric axes: where everything lies, and its strokes."""

    def __init__(self, chart: Chart):
        styled = [
            (one, style)
            for one, style in zip(chart.series, chart.styles(), strict=True)
            if not one.hidden
        ]
        self.chart = chart
        self.width = SMALL if chart.compact else WIDTH
        self.height = chart.height + (22 if chart.compact else 40)
        most = max(LEAST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, len(styled))))
        self.styled = sorted(((_thin(one, most), style) for one, style in styled), key=_pale_first)
        self.piled = Counter[tuple[str, float]]()
        edged = [one for one, _ in self.styled if one.edge]
        pile = max(Counter((one.edge, x) for one in edged for x in one.x).values(), default=1)
        self.apart = min(10.0, 80 / pile)
        self.x: Scale
        self.y: Scale

    def made(self) -> Markup:
        """The legend and the picture."""
        chart = self.chart
        self.top = 20.0 if any(mark.label for mark in chart.marks) else 8.0
        self.bottom = self.height - (40.0 if chart.x.label else 22.0)
        strip: dict[str, float] = {"top": 0.0, "bottom": 0.0}
        counts = Counter((one.edge, x) for one, _ in self.styled if one.edge for x in one.x)
        for (edge, _), count in counts.items():
            strip[edge] = max(strip[edge], self.apart * (count - 1) + 16)
        ceiling, floor = self.top + strip["top"], self.bottom - strip["bottom"]
        between = ends(self._heights(), chart.y, 0.06)
        count = max(2, round((floor - ceiling) / 52))
        y_ticks = ticks(between, count + chart.y.log, chart.y)
        label = "" if chart.compact else chart.y.label
        widest = max((text_width(said) + 10 for _, said in y_ticks), default=0.0)
        self.left = max(26.0 if chart.compact else 46.0, widest) + (20 if label else 0)
        self.right = self.width - 12.0
        dotted = any(one.kind == "dots" for one, _ in self.styled)
        places = [x for one, _ in self.styled for x in one.x] + [mark.x for mark in chart.marks]
        across = ends(places, chart.x, 0.05 if dotted else 0.012)
        self.x = scale(across, self.left, self.right, chart.x.log)
        self.y = scale(between, floor, ceiling, chart.y.log)
        parts = [
            part
            for value, said in y_ticks
            for part in (
                line(self.left, self.y(value), self.right, self.y(value), "gridline"),
                text(self.left - 8, self.y(value) + 4, said, "end"),
            )
        ]
        parts.append(line(self.left, self.bottom, self.right, self.bottom, "axis"))
        for edge, y in (("top", ceiling), ("bottom", floor)):
            if strip[edge]:
                parts.append(line(self.left, y, self.right, y, "divide"))
        parts += self._x_labels(across)
        if label:
            parts.append(upright_label(label, (self.top + self.bottom) / 2))
        frame = self.left, self.top - 4, self.right - self.left + 6, self.bottom - self.top + 5
        box = " ".join(f"{value:.1f}" for value in frame)
        x, y, width, height = box.split()
        place = f'x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}"'
        parts += [f"<svg {place}>", *self._drawn(), "</svg>", *self._words()]
        return _keys(chart, self.styled) + svg(parts, self.width, self.height, chart.title)

    def _heights(self) -> list[float | None]:
        """All that the y axis spans; a band that reaches down to zero does not stretch it."""
        found = [v for one, _ in self.styled if not one.edge for v in (*one.y, *one.low, *one.high)]
        found += [rule.y for rule in self.chart.rules]
        if not self.chart.y.log:
            return found
        drawn = [v for one, _ in self.styled if not one.edge for v in one.y]
        least = min((v for v in drawn if is_finite(v) and v > 0), default=0.0) / 2
        return [max(v, least) if is_finite(v) and v > 0 else None for v in found]

    def _x_labels(self, between: tuple[float, float]) -> list[str]:
        axis, taken = self.chart.x, -math.inf
        given = [(v, f"{v:.4g}") for v in axis.ticks if between[0] <= v <= between[1]]
        whole = not axis.log and all(x == round(x) for one, _ in self.styled for x in one.x)
        count = max(2, int((self.right - self.left) / (46 if self.chart.compact else 64)))
        parts = []
        for value, said in given or ticks(between, count, axis, whole):
            x, half = self.x(value), text_width(said) / 2
            parts.append(line(x, self.bottom, x, self.bottom + 4, "axis"))
            if x - half >= taken + 6:
                taken = x + half
                parts.append(text(min(x, self.width - half), self.bottom + 17, said))
        if axis.label:
            parts.append(text((self.left + self.right) / 2, self.height - 4, axis.label))
        return parts

    def _drawn(self) -> list[str]:
        """What lies within the axes: levels, bands, lines, dots."""
        rules = self.chart.rules
        parts = [line(self.left, self.y(r.y), self.right, self.y(r.y), "rule") for r in rules]
        for one, (colour, _, _) in self.styled:
            if one.low:
                kind = "area" if one.kind == "area" else "band"
                parts.append(f'<path d="{self._band(one)}" class="{kind} s s{colour}"/>')
        for one, (colour, dash, _) in self.styled:
            if one.kind in ("line", "step"):
                path, alone = self._path(one)
                pale = " faint" * one.faint
                parts.append(f'<path d="{path}" class="line s s{colour} d{dash}{pale}"/>')
                if alone:
                    parts.append(f'<path d="{alone}" class="dot s s{colour}"/>')
        for one, (colour, _, marker) in self.styled:
            if one.kind == "dots":
                parts += self._dots(one, colour, marker)
        return parts

    def _words(self) -> list[str]:
        """Labels of levels and events."""
        parts, taken = [], -math.inf
        for rule in self.chart.rules:
            parts.append(text(self.right, self.y(rule.y) - 5, rule.label, "end", "mark halo"))
        for mark in sorted(self.chart.marks, key=lambda mark: mark.x):
            x, bad = self.x(mark.x), " bad" * (mark.kind == "bad")
            parts.append(line(x, self.top - 4, x, self.bottom, f"markline{bad}"))
            half = text_width(mark.label) / 2
            middle = min(max(x, self.left + half), max(self.left + half, self.width - half - 2))
            if mark.label and middle - half >= taken + 6:
                taken = middle + half
                parts.append(text(middle, self.top - 8, mark.label, kind=f"mark{bad} halo"))
        return parts

    def _place(self, one: Series, i: int, values: Values) -> tuple[float, float] | None:
        x, y = one.x[i], values[i] if i < len(values) else None
        if not is_finite(x) or (self.chart.x.log and x <= 0) or not is_finite(y):
            return None
        if self.chart.y.log and y <= 0:
            return None if values is one.y else (self.x(x), self.bottom + 4)
        return self.x(x), self.y(y)

    def _path(self, one: Series) -> tuple[str, str]:
        """A line with its gaps, and dots for what stands alone between two."""
        path, alone, before = "", "", False
        places = [self._place(one, i, one.y) for i in range(len(one.x))]
        for i, at in enumerate(places):
            if at is None:
                before = False
                continue
            x, y = f"{at[0]:.1f}", f"{at[1]:.1f}"
            if before:
                path += f"H{x}V{y}" if one.kind == "step" else f"L{x},{y}"
            else:
                path += f"M{x},{y}"
                if i + 1 == len(places) or places[i + 1] is None:
                    alone += dot(*at, one, 0, 4)
            before = True
        return path, alone

    def _band(self, one: Series) -> str:
        path, run = "", list[tuple[tuple[float, float], tuple[float, float]]]()
        for i in range(len(one.x) + 1):
            at = i < len(one.x) and (self._place(one, i, one.low), self._place(one, i, one.high))
            if at and at[0] and at[1]:
                run.append((at[0], at[1]))
                continue
            if len(run) > 1:
                around = [high for _, high in run] + [low for low, _ in reversed(run)]
                path += "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in around) + "Z"
            elif run:  # no band, but its height
                (x, low), (_, high) = run[0]
                path += f"M{x - 2:.1f},{high:.1f}h4V{low:.1f}h-4Z"
            run = []
        return path

    def _dots(self, one: Series, colour: int, marker: int) -> list[str]:
        radius = 2.6 if one.faint else 3 if self.chart.compact else 4
        pale, path, parts = " faint" * one.faint, "", []
        for i, x in enumerate(one.x):
            at = self._place(one, i, one.y)
            if one.edge and is_finite(x) and (x > 0 or not self.chart.x.log):
                below = self.apart * self.piled[one.edge, x]
                self.piled[one.edge, x] += 1
                up = one.edge == "top"
                at = self.x(x), self.top + 4 + below if up else self.bottom - 8 - below
            if at is None:
                continue
            if one.shape != "ring":
                path += dot(*at, one, marker, radius)
                continue
            parts.append(
                f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="9" class="ring s s{colour}"/>'
            )
            if i < len(one.texts) and one.texts[i]:
                half = 0.55 * text_width(one.texts[i])
                middle = min(max(at[0], self.left + half), self.right - half)
                y = at[1] + 25 if at[1] + 28 < self.bottom else at[1] - 16
                parts.append(text(middle, y, one.texts[i], kind="mark halo strong"))
        kind = "cross" if one.shape == "cross" else "dot"
        return [*parts, *([f'<path d="{path}" class="{kind} s s{colour}{pale}"/>'] if path else [])]


def _pale_first(styled: Styled) -> bool:
    return not styled[0].faint


def _thin(one: Series, most: int) -> Series:
    """A line of at most so many points."""
    if one.kind == "dots" or len(one.x) <= most:
        return one
    kept = evenly(range(len(one.x)), most)
    x, y, low, high = ([v[i] for i in kept] if v else () for v in (one.x, one.y, one.low, one.high))
    return replace(one, x=x, y=y, low=low, high=high)


def _keys(chart: Chart, styled: Sequence[Styled]) -> Markup:
    """The legend of what is drawn."""
    entries = dict[str, str]()
    for one, (colour, dash, marker) in styled:
        mark = ""
        if one.kind == "area" or (one.low and one.kind != "dots"):
            kind = "area" if one.kind == "area" else "band"
            mark += f'<rect x="1" y="1" width="20" height="10" class="{kind} s s{colour}"/>'
        if one.kind in ("line", "step"):
            mark += f'<path d="M1,6H21" class="line s s{colour} d{dash}"/>'
        if one.kind == "dots" and not one.shape:
            mark += f'<path d="{dot(11, 6, one, marker, 4)}" class="dot s s{colour}"/>'
        if mark not in entries.setdefault(one.name, ""):
            entries[one.name] += mark
    if not chart.legend or (len(entries) < 2 and not any(one.low for one, _ in styled)):
        entries = {}
    shapes = []
    for shape, words in chart.shapes.items():
        found = next((one for one, _ in styled if one.shape == shape), None)
        if found is not None:
            kind = "cross" if shape == "cross" else "dot"
            mark = f'<path d="{dot(11, 6, found, 0, 4)}" class="{kind} s s6"/>'
            shapes.append((words, mark))
    named = [entry for entry in chart.series if not entry.hidden]
    order = {one.name: i for i, one in reversed(list(enumerate(named)))}
    return legend([*sorted(entries.items(), key=lambda entry: order[entry[0]]), *shapes])
