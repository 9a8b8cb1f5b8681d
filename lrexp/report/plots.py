"""Figures on paper: the same values that a page shows, as PNG and SVG drawn with matplotlib."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.folder.files import refuse_foreign
from lrexp.folder.layout import PLOTS
from lrexp.report.figure import (
    COLOURS,
    HEAT,
    Axis,
    Chart,
    Figure,
    HeatMap,
    Intervals,
    Series,
    Values,
)
from lrexp.runs.reading import refuse_links

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLUMN, PAGE = 3.5, 6.8  # inches: a column of a two-column paper, and both
DPI = 300
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")
PILE = 0.035  # of the height, between dots that pile up at an edge
HIGHEST_PILE = 12
BAND = "± 1 standard error"
LONGEST = 30  # letters of a row's name
MOST_NUMBERS = 16  # columns of cells that numbers fit into
MARK = "drawn by lrexp"  # in every file: what has it may be drawn anew
MARKED: dict[str, Any] = {"png": {"Software": MARK}, "svg": {"Date": None, "Creator": MARK}}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "hatch.linewidth": 0.4,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lrexp",  # the same figure, the same file
    "savefig.dpi": DPI,
}


def write_plots(
    folder: Path, pictures: Mapping[str, Sequence[Figure]], width: float = COLUMN
) -> list[Path]:
    """Draw figures into a folder's plots/, each name as PNG and SVG.

    Args:
        folder: of a run or a sweep.
        pictures: by name: figures that share a picture, and their axes where these are alike.
        width: in inches.

    Returns:
        The files.

    Raises:
        OSError: when they cannot be written.
    """
    from matplotlib import rc_context

    files = []
    with rc_context(STYLE):
        for name, figures in pictures.items():
            picture = draw(figures, width)
            picture.draw_without_rendering()
            picture.set_layout_engine("none")  # laid out once, for both files
            (folder / PLOTS).mkdir(exist_ok=True)
            refuse_links(folder / PLOTS, folder)
            for ending, metadata in MARKED.items():
                files.append(folder / PLOTS / f"{name}.{ending}")
                refuse_foreign(files[-1], MARK)
                picture.savefig(files[-1], metadata=metadata)
    return files


def draw(figures: Sequence[Figure], width: float) -> Picture:
    """One figure, or small ones of one kind in a grid, drawn without a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    first, several = figures[0], len(figures) > 1
    if isinstance(first, Intervals):
        return _draw_intervals(first, width)
    maps = [one for one in figures if isinstance(one, HeatMap)]
    columns = min(3 if maps else 4, len(figures))
    rows = -(-len(figures) // columns)
    picture = Picture(figsize=(width, _height(figures, width, rows)), layout="constrained")
    FigureCanvasAgg(picture)
    shared = not maps
    places = picture.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared).ravel()
    for axes, figure in zip(places, figures, strict=False):
        labels = {"xlabel": "", "ylabel": ""}
        if isinstance(figure, HeatMap):
            _draw_heat_map(axes, figure, columns)
            labels = {"xlabel": figure.x_label, "ylabel": figure.y_label}
        elif isinstance(figure, Chart):
            _draw_chart(axes, figure)
            labels = {"xlabel": figure.x.label, "ylabel": figure.y.label}
        if several:
            axes.set_title(figure.title, parse_math=False)  # a name may hold `$`
            picture.supxlabel(labels["xlabel"], fontsize=8)
            picture.supylabel(labels["ylabel"], fontsize=8)
        else:
            axes.set_xlabel(labels["xlabel"], parse_math=False)
            axes.set_ylabel(labels["ylabel"], parse_math=False)
    for spare in places[len(figures) :]:
        spare.set_visible(False)
    if maps and not maps[0].square:
        _colour_bar(picture, list(places[: len(figures)]), maps)
    elif isinstance(first, Chart) and first.legend:
        _legend(picture, places[0], first, width)
    return picture


def _draw_intervals(figure: Intervals, width: float) -> Picture:
    """Rows from the top, their names at the left and their words at the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    rows = figure.rows
    picture = Picture(figsize=(width, 0.7 + 0.36 * len(rows)), layout="constrained")
    FigureCanvasAgg(picture)
    axes, (low, high) = picture.subplots(), figure.ends()
    axes.axvspan(-figure.band, figure.band, color="0.92", linewidth=0)
    axes.axvline(0, color="0.4", linewidth=0.6)
    for place, row in enumerate(rows):
        ink: Any = COLOURS[row.colour]
        if row.known:
            ends = [max(low, row.low), min(high, row.high)]
            axes.plot(ends, [place, place], color=ink, linewidth=1.3)
            beyond = [(low, "<")] * (row.low < low) + [(high, ">")] * (row.high > high)
            for end, arrow in beyond:
                axes.plot([end], [place], marker=arrow, color=ink, markersize=4.5, clip_on=False)
            if low <= row.value <= high:
                axes.plot([row.value], [place], marker="D" if row.shape == "diamond" else "o",
                          markerfacecolor="white" if row.shape == "open" else ink,
                          markeredgecolor=ink, markersize=4.5)  # fmt: skip
        said = f"{row.verdict}: {row.advice}" if row.advice else row.verdict
        axes.annotate("\n".join(filter(None, (said, row.text))), (1.02, place), fontsize=7,
                      xycoords=axes.get_yaxis_transform(), va="center",
                      parse_math=False)  # fmt: skip
    names = [f"{row.name[:LONGEST]}…" if len(row.name) > LONGEST else row.name for row in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
    axes.set_xlabel(figure.label, parse_math=False)
    axes.set_title(figure.title, loc="left", parse_math=False)
    return picture


def _height(figures: Sequence[Figure], width: float, rows: int) -> float:
    """In inches."""
    first = figures[0]
    if not isinstance(first, HeatMap):
        return 0.4 + 1.5 * rows if len(figures) > 1 else 2.5 if width == COLUMN else 3.4
    most = max(len(one.rows) for one in figures if isinstance(one, HeatMap))
    each = 0.6 + 0.28 * most if first.numbers else 0.4 + 0.16 * most
    return width if first.square else min(8.0, max(2.0, 0.5 + rows * each))


def _draw_chart(axes: Axes, chart: Chart) -> None:
    from matplotlib import colormaps

    names = list(dict.fromkeys(one.name for one in chart.series))
    # from the first, dark, to the last, light, where colours of their own do not tell them apart
    many = len(names) > len(COLOURS) and chart.legend and chart.series[0].colour is None
    piled = Counter[tuple[str, float]]()  # at an edge and an x
    for one, (colour, dash, marker) in zip(chart.series, chart.styles(), strict=True):
        if one.hidden or not (one.kind == "area" or any(v is not None for v in (*one.y, *one.x))):
            continue
        ink: Any = COLOURS[colour]
        if many:
            ink = colormaps["viridis"](0.9 * (names.index(one.name) / (len(names) - 1)))
            dash = 0
        _draw_series(axes, one, ink, dash, marker, piled)
    for rule in chart.rules:
        axes.axhline(rule.y, color="0.4", linewidth=0.6)
    for mark in chart.marks:
        ink = "0.5" if mark.kind == "note" else COLOURS[1]
        axes.axvline(mark.x, color=ink, linewidth=0.7, linestyle=(0, (1, 2)))
    _scale(axes.xaxis, axes.set_xscale, chart.x)
    _scale(axes.yaxis, axes.set_yscale, chart.y)
    if chart.x.range:
        axes.set_xlim(chart.x.range)
    if chart.y.range:
        axes.set_ylim(chart.y.range)
    elif chart.y.zero and not chart.y.log and axes.get_ylim()[0] > 0:
        axes.set_ylim(bottom=0)


def _draw_series(
    axes: Axes, one: Series, ink: Any, dash: int, marker: int, piled: Counter[tuple[str, float]]
) -> None:
    name = f"_{one.name}" if one.faint else one.name  # no legend lists what begins so
    pale = 0.3 if one.faint else 1.0
    if one.low or one.high:
        area = one.kind == "area"
        axes.fill_between(
            one.x, _gaps(one.low), _gaps(one.high), color=ink, linewidth=0,
            alpha=0.1 if area else 0.2, label=name if area else BAND,
        )  # fmt: skip
        if area:
            return
    if one.kind == "dots":
        _draw_dots(axes, one, ink, marker, name, pale, piled)
        return
    axes.plot(
        one.x, _gaps(one.y), color=ink, linestyle=LINES[dash], label=name, alpha=pale,
        linewidth=0.6 if one.faint else 1.3, marker="." if len(one.x) < 3 else None,
        drawstyle="steps-post" if one.kind == "step" else "default",
    )  # fmt: skip


def _draw_dots(
    axes: Axes, one: Series, ink: Any, marker: int, name: str, pale: float,
    piled: Counter[tuple[str, float]],
) -> None:  # fmt: skip
    """Open, so that those below show, in their places; or piled up at an edge of the axes."""
    from matplotlib.colors import to_rgba

    up = one.edge == "top"
    shape = {"cross": "x", "arrow": "^" if up else "v", "ring": "o"}.get(one.shape, MARKERS[marker])
    size = {"ring": 8.0, "": 2.2 if one.faint else 4.0}.get(one.shape, 4.5)
    y = _gaps(one.y)
    if one.edge:
        levels = []
        for x in one.x:
            levels.append(PILE * min(HIGHEST_PILE, piled[one.edge, x]))
            piled[one.edge, x] += 1
        y = [0.98 - level if up else 0.02 + level for level in levels]
    axes.plot(
        one.x, y, color=ink, linestyle="none", marker=shape, markersize=size,
        clip_on=not one.edge, label=None if one.shape else name,
        markerfacecolor=to_rgba(ink, 0.0 if one.shape == "ring" else 0.3 * pale),
        markeredgecolor=to_rgba(ink, pale), markeredgewidth=0.9,
        transform=axes.get_xaxis_transform() if one.edge else axes.transData,
    )  # fmt: skip


def _scale(axis: Any, set_scale: Any, wanted: Axis) -> None:
    """Linear or logarithmic, and labels where they are asked for."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

    if wanted.log:
        set_scale("log", nonpositive="mask")
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
    elif axis.axis_name == "x":
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if wanted.percent:
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    if wanted.ticks:
        axis.set_major_locator(FixedLocator(wanted.ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _legend(picture: Picture, axes: Axes, chart: Chart, width: float) -> None:
    """An entry per name, its dots and its line together; of very many the first, middle, last."""
    handles, names = axes.get_legend_handles_labels()
    entries: dict[str, list[Any]] = {}
    for name, handle in zip(names, handles, strict=True):
        entries.setdefault(name, []).append(handle)
    listed = list(entries)
    if len(listed) > len(COLOURS) and all(one.kind != "dots" for one in chart.series):
        listed = [listed[0], listed[len(listed) // 2], listed[-1]]
    found: list[Any] = [(entries[name][0], entries[name][-1]) for name in listed]
    for shape, words in chart.shapes.items():
        there = [one for one in chart.series if one.shape == shape and not one.hidden]
        kinds = {"x" if shape == "cross" else "^" if one.edge == "top" else "v" for one in there}
        for kind in sorted(kinds, reverse=True):
            found += axes.plot([], [], linestyle="none", marker=kind, color="0.35", markersize=4.5)
            listed.append(words)
    if width == COLUMN and len(listed) > 1:
        axes.legend(found, listed)
    elif len(listed) > 1:
        picture.legend(found, listed, loc="outside upper center", ncols=4)


def _draw_heat_map(axes: Axes, heat: HeatMap, beside: int) -> None:
    """Cells with the first row at the top; what is missing is hatched."""
    import numpy as np

    colours, norm = _colours([heat])
    values = np.array([[math.nan if v is None else v for v in row] for row in heat.values], float)
    shown = np.ma.masked_invalid(np.where(values > 0, values, math.nan) if heat.log else values)
    axes.patch.set(hatch="/////", edgecolor="0.8", facecolor="white")
    axes.grid(visible=False)
    axes.imshow(
        shown, aspect="equal" if heat.square else "auto", cmap=colours, norm=norm,
        interpolation="nearest",
    )  # fmt: skip
    if heat.numbers and len(heat.columns) * beside <= MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(shown):
            if not np.ma.is_masked(value) and (value or not heat.square):
                red, green, blue, _ = colours(norm(value))
                dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
                said = f"{100 * value:.1f}" if heat.percent else f"{value:.3g}"
                axes.text(column, row, said, ha="center", va="center", fontsize=6,
                          color="white" if dark else "black")  # fmt: skip
    columns = [one if isinstance(one, str) else f"{one:g}" for one in heat.columns]
    across = max(1, -(-len(columns) * beside // (20 if heat.square else 11)))
    down = max(1, len(heat.rows) // (20 if heat.square else 40))
    turned = 90 if heat.square and max(map(len, columns)) > 3 else 0
    axes.set_xticks(range(0, len(columns), across), columns[::across], rotation=turned, fontsize=6)
    axes.set_yticks(range(0, len(heat.rows), down), heat.rows[::down], fontsize=6)
    if heat.square:
        axes.set_title(heat.title)


def _colours(maps: Sequence[HeatMap]) -> tuple[Any, Any]:
    """Map of colours and scale of values, of maps that share them."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    first = maps[0]
    values = first.between or [v for one in maps for row in one.values for v in row]
    known = [v for v in values if v is not None and math.isfinite(v) and (v > 0 or not first.log)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    ramp = LinearSegmentedColormap.from_list("heat", HEAT[::-1] if first.reverse else HEAT)
    return ramp, LogNorm(low, high) if first.log and low < high else Normalize(low, high)


def _colour_bar(picture: Picture, places: Sequence[Axes], maps: Sequence[HeatMap]) -> None:
    from matplotlib.cm import ScalarMappable

    colours, norm = _colours(maps)
    bar = picture.colorbar(ScalarMappable(norm, colours), ax=places, label=maps[0].value_label)
    bar.ax.tick_params(which="both", labelsize=6)
    if maps[0].percent:
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _gaps(values: Values) -> list[float]:
    """What is missing as NaN."""
    return [math.nan if v is None else v for v in values]
