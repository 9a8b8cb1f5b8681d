"""Charts as still pictures: what a page shows where no script runs, in the page's own style.

They are drawn by the same rules as those of `report.js`, which takes their place.
"""

from __future__ import annotations

import math

from markupsafe import Markup

from lrexp.report.figure import Figure, HeatMap, Parallel, evenly
from lrexp.report.html.page import is_finite, number, percent
from lrexp.report.html.scales import scale, shortened, text_width
from lrexp.report.html.static_xy import WIDTH, xy_picture
from lrexp.report.html.strokes import legend, line, svg, text, upright_label

MOST_CELLS = 2000  # over epochs
HATCH = 8.5  # pixels from line to line


def still(figure: Figure | Parallel) -> Markup:
    """A legend and an SVG of a figure."""
    if isinstance(figure, HeatMap):
        return _heat_map(figure)
    return _parallel(figure) if isinstance(figure, Parallel) else xy_picture(figure)


def _heat_map(heat: HeatMap) -> Markup:
    rows = len(heat.rows)
    most = max(20, MOST_CELLS // max(1, rows)) if heat.cursor else len(heat.columns)
    columns = evenly(range(len(heat.columns)), most)
    labels = [shortened(str(row), 22) for row in heat.rows]
    names = [f"{c:.4g}" if isinstance(c, float | int) else shortened(c, 14) for c in heat.columns]
    left = max([24.0, *(1.12 * text_width(label) + 12 for label in labels)])
    left += 20 if heat.y_label else 0
    across = (WIDTH - 4 - left) / max(1, len(columns))
    down = min(30.0, max(9.0, 190 / max(1, rows)))
    if heat.square:
        across = min(across, 46.0)
        down = max(0.86 * across, 4.0)
    top, bottom = 4.0, 4.0 + down * rows
    height = bottom + (40 if heat.x_label else 22)
    flat = [v for row in heat.values for v in row if is_finite(v) and (v > 0 or not heat.log)]
    low, high = heat.between or (min(flat, default=0.0), max(flat, default=1.0))
    strong = scale((low, high), 0.0, 1.0, heat.log) if flat and low < high else lambda _: 0.5
    said = percent if heat.percent else number
    seam = 1.0 if across > 9 and down > 9 else -0.4
    cells, missing, parts = dict[int, str](), "", list[str]()
    written = heat.numbers and down >= 14
    if written and not heat.square:  # all or none
        written = all(text_width(said(v)) <= across - 2 for v in flat)
    for r in range(rows):
        last = None
        for c, column in enumerate(columns):
            x, y, value = left + c * across, top + r * down, heat.values[r][column]
            w, h = across - seam, down - seam
            if not is_finite(value) or (heat.log and value <= 0):
                missing, last = missing + _hatched(x, y, w, h), None
                continue
            part = min(1.0, max(0.0, strong(value)))
            level = round(40 * (1 - part if heat.reverse else part))
            if seam < 0 and level == last:  # small ones of one colour are one stroke
                cells[level] += f"h{across:.1f}"
            else:
                cells[level] = cells.get(level, "") + f"M{x:.1f},{y + h / 2:.1f}h{w:.1f}"
            last = level
            if not written or (heat.square and value == 0):
                continue
            if text_width(said(value)) <= across - 2:
                ink = "var(--heat-ink)" if level > 22 else "var(--ink)"
                place = f'x="{x + w / 2:.1f}" y="{y + h / 2 + 4:.1f}"'
                parts.append(
                    f'<text {place} text-anchor="middle" style="fill:{ink}">{said(value)}</text>'
                )
    thick = f"stroke-width:{down - seam:.1f}"
    painted = [
        f'<path d="{path}" style="stroke:{_heat(lvl)};{thick}"/>' for lvl, path in cells.items()
    ]
    parts = [*painted, f'<path d="{missing}" class="hatch"/>' if missing else "", *parts]
    for r in range(0, rows, max(1, math.ceil(12 / down))):
        parts.append(text(left - 8, top + (r + 0.5) * down + 4, labels[r], "end"))
    widest = max((text_width(names[c]) + 8 for c in columns), default=1.0)
    for c in range(0, len(columns), max(1, math.ceil(widest / across))):
        parts.append(text(left + (c + 0.5) * across, bottom + 16, names[columns[c]]))
    if heat.x_label:
        parts.append(text(left + across * len(columns) / 2, height - 4, heat.x_label))
    if heat.y_label:
        parts.append(upright_label(heat.y_label, (top + bottom) / 2))
    ramp = Markup('<i class="reverse"></i>' if heat.reverse else "<i></i>")
    words = [heat.value_label, said(low), ramp, said(high), "log scale" if heat.log else ""]
    shown = Markup().join(
        w if w is ramp else Markup("<span>{}</span>").format(w) for w in words if w
    )
    key = Markup('<div class="legend"><span class="ramp">{}</span></div>').format(shown)
    return (key if flat else Markup()) + svg(parts, WIDTH, height, heat.title)


def _hatched(x: float, y: float, width: float, height: float) -> str:
    """Slanting lines within a cell, as far apart as the pattern of `report.js` has them."""
    path, start = "", x + HATCH - height
    while start < x + width:  # where a line would leave the cell's lower edge
        left, right = max(x, start), min(x + width, start + height)
        if right > left:
            low, high = y + height - (left - start), y + height - (right - start)
            path += f"M{left:.1f},{low:.1f}L{right:.1f},{high:.1f}"
        start += HATCH
    return path


def _heat(level: int) -> str:
    """The colour of a strength from 0 to 40."""
    lower, upper, share = (0, 1, 5 * level) if level <= 20 else (1, 2, 5 * level - 100)
    return f"color-mix(in oklab,var(--heat{upper}) {share}%,var(--heat{lower}))"


def _parallel(figure: Parallel) -> Markup:
    axes, lines = figure.axes, figure.lines
    left, widest = 16.0, max(text_width(said) for _, said in axes[-1].ticks)
    right = WIDTH - min(80.0, widest + 12)
    apart = (right - left) / max(1, len(axes) - 1)
    rows = min(3, max(1, math.ceil(max(text_width(a.label) + 8 for a in axes) / apart)))
    top, bottom = 10.0 + 16 * rows, 10.0 + 16 * rows + figure.height
    parts = []
    for one in reversed(lines):
        places = (f"{left + i * apart:.1f},{_at(p, top, bottom)}" for i, p in enumerate(one.places))
        pale = "" if one.best else " faint"
        kind = f"line strand s s{one.colour} d{one.dash}{pale}"
        parts.append(f'<path d="M{"L".join(places)}" class="{kind}"/>')
    for i, axis in enumerate(axes):
        x, half = left + i * apart, text_width(axis.label) / 2
        middle = min(max(x, half), WIDTH - half)
        parts.append(line(x, top - 4, x, bottom + 4, "axis"))
        parts.append(text(middle, 12 + 16 * (i % rows), axis.label, kind="mark halo"))
        room, taken = int(((80 if axis is axes[-1] else apart) - 8) / 6.7), math.inf
        for place, said in axis.ticks:
            y = top + (1 - place) * (bottom - top)
            if taken - y >= 14:
                taken = y
                parts.append(text(x + 5, y + 4, shortened(said, max(2, room)), "start", "halo"))
    marks = {
        one.name: f'<path d="M1,6H21" class="line s s{one.colour} d{one.dash}"/>' for one in lines
    }
    keys = legend(list(marks.items()) if len(marks) > 1 else [])
    return keys + svg(parts, WIDTH, bottom + 10, figure.title)


def _at(place: float, top: float, bottom: float) -> str:
    return f"{top + (1 - place) * (bottom - top):.1f}"
