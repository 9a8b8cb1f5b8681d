"""The main figures of a sweep as PNG and SVG, for papers: the same data as its report."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrexp.judge.ranking import (
    Configuration,
    HeatMap,
    Line,
    configurations,
    finished,
    has_rate_axis,
    heat_maps,
    is_share,
    limits,
    lines,
)
from lrexp.runs.sweep import DIVERGED, GAP, RATE, Sweep, read_sweep

COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#4a525e", "#7a4fb5",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P")
MOST_GROUPS = 8  # lines of one figure that can be told apart
MOST_CURVES = 60  # of one small chart
WIDTH_IN = 6.8  # two columns of a paper
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lrexp",  # the same file from the same data
    "savefig.dpi": 300,
}


def write_sweep_plots(folder: Path) -> list[Path]:
    """Write the figures of a sweep into its folder plots/, each as PNG (300 dpi) and SVG.

    They are lr_monitor and lr_gap (where rates were swept), curves, and heat_map_1 … for every two
    numbers that were swept. At most the best 8 groups are drawn.

    Returns:
        The files; none when no point has a result.
    """
    from matplotlib import rc_context

    sweep = read_sweep(folder)
    ranked = configurations(sweep)
    best = list(dict.fromkeys(one.group for one in ranked if one.worth.n))[:MOST_GROUPS]
    shown = [one for one in ranked if one.group in best]
    if not shown:
        return []
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    with rc_context(STYLE):
        figures: dict[str, Any] = {}
        if has_rate_axis(shown):
            figures["lr_monitor"] = _rate_figure(sweep, shown, sweep.monitor)
            if sweep.monitor != GAP and any(one.gap.n for one in shown):
                figures["lr_gap"] = _rate_figure(sweep, shown, GAP)
        if any(len(p.rows) > 1 for one in shown for p in one.points):
            figures["curves"] = _curves(sweep, shown)
        pairs: dict[tuple[str, str], list[HeatMap]] = {}
        for one in heat_maps(sweep, shown):
            pairs.setdefault((one.x_key, one.y_key), []).append(one)
        for place, maps in enumerate(pairs.values(), 1):
            figures[f"heat_map_{place}"] = _heat_maps(sweep, maps)
        files = []
        for name, figure in figures.items():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, for both files
            for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                files.append(plots / f"{name}.{ending}")
                figure.savefig(files[-1], metadata=metadata)
    return files


def _figure(
    height_in: float, rows: int = 1, columns: int = 1, shared: bool = True
) -> tuple[Any, Any]:
    """A figure and its axes (rows, columns), with or without common scales."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)


def _rate_figure(sweep: Sweep, ranked: Sequence[Configuration], key: str) -> Any:
    """Rate against the monitor or the gap: dots are seeds, lines means, crosses diverged seeds."""
    figure, all_axes = _figure(3.4)
    axes = all_axes[0][0]
    drawn = lines(ranked)
    names = list(dict.fromkeys(line.group for line in drawn))
    found = [p.best[key] for one in ranked for p in finished(one, key)]
    low, high, log = limits(key, found)
    factor = _share_factor(key)
    rates = sorted({one.rate for one in ranked if one.rate is not None})
    for place, line in enumerate(drawn):
        leads = all(line.group != other.group for other in drawn[:place])
        style = names.index(line.group)
        aside = (rates[-1] / rates[0]) ** (0.007 * (style - (len(names) - 1) / 2))
        _rate_line(axes, line, key, style, aside, (low, high), factor, leads, sweep.sign)
    bad = any(one.counts[DIVERGED] for one in ranked if one.rate is not None)
    if bad:
        axes.plot([], [], linestyle="none", marker="x", color="0.35", label="diverged")
    for shape, beyond in (("^", max(found) > high), ("v", min(found) < low)):
        if beyond:
            axes.plot([], [], linestyle="none", marker=shape, color="0.35", label="beyond the axis")
    axes.set_xscale("log")
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_ylim(low * factor / 1.2, high * factor * 1.35)
    else:
        room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
        axes.set_ylim(factor * (low - room), factor * (high + room))
    if len(rates) <= 12:
        axes.set_xticks(rates, [f"{rate:.3g}" for rate in rates])
        axes.set_xticks([], minor=True)
    axes.set_xlabel("learning rate")
    axes.set_ylabel(f"{key} (%)" if factor == 100 else key)
    figure.legend(loc="outside upper center", ncols=4)
    return figure


def _rate_line(
    axes: Any,
    line: Line,
    key: str,
    style: int,
    aside: float,  # times the rate, so that the seeds of several lines stay apart
    between: tuple[float, float],
    factor: float,
    leads: bool,
    sign: int,
) -> None:
    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    placed = [(aside * one.rate, one) for one in line.configurations if one.rate is not None]
    known = [(r, one, one.over_seeds(key).mean) for r, one in placed]
    known = [(r, one, mean) for r, one, mean in known if math.isfinite(mean)]
    pale = 1.0 if leads else 0.3
    whole = [one.whole for _, one, _ in known]
    for i, (first, second) in enumerate(itertools.pairwise(known)):
        axes.plot(
            [first[0], second[0]],
            [factor * first[2], factor * second[2]],
            color=colour,
            linewidth=1.4 if leads else 0.7,
            linestyle="-" if whole[i] and whole[i + 1] else (0, (3, 2)),
            alpha=pale,
        )
    seeds = [(r, p.best[key]) for r, one in placed for p in finished(one, key)]
    inside = [(r, value) for r, value in seeds if between[0] <= value <= between[1]]
    axes.plot(
        [r for r, _ in inside],
        [factor * value for _, value in inside],
        linestyle="none",
        marker=marker,
        markersize=4 if leads else 2.2,
        markeredgecolor="white",
        markeredgewidth=0.4,
        color=colour,
        alpha=pale,
        label=line.group if leads else None,
    )
    bad_end = 0.02 if sign == -1 and key != GAP else 0.98
    diverged = [r for r, one in placed if one.counts[DIVERGED]]
    over = [r for r, value in seeds if value > between[1]]
    under = [r for r, value in seeds if value < between[0]]
    for rates, shape, at in ((diverged, "x", bad_end), (over, "^", 0.98), (under, "v", 0.02)):
        axes.plot(
            rates,
            [at] * len(rates),
            linestyle="none",
            marker=shape,
            markersize=4.5,
            color=colour,
            alpha=pale,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def _curves(sweep: Sweep, ranked: Sequence[Configuration]) -> Any:
    """The monitor over epochs, a small chart per group on common axes; the best stands out."""
    names = list(dict.fromkeys(one.group for one in ranked))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure, all_axes = _figure(0.4 + 1.5 * rows, rows, columns)
    factor = _share_factor(sweep.monitor)
    values = [
        row[sweep.monitor]
        for one in ranked
        for p in one.points
        for row in p.rows
        if math.isfinite(row.get(sweep.monitor, math.nan))
    ]
    low, high, log = limits(sweep.monitor, values)
    if log:
        high = min(high, 100 * low)
    for place, name in enumerate(names):
        axes = all_axes[place // columns][place % columns]
        tries = [one for one in ranked if one.group == name]
        pairs = [(one, p) for one in tries for p in one.points if len(p.rows) > 1]
        every = max(1, -(-len(pairs) // MOST_CURVES))
        for one, point in reversed(pairs[::every]):
            best = one.rank == tries[0].rank
            axes.plot(
                [row["epoch"] for row in point.rows],
                [factor * row.get(sweep.monitor, math.nan) for row in point.rows],
                color=COLOURS[place % len(COLOURS)],
                linewidth=1.2 if best else 0.5,
                alpha=1.0 if best else 0.35,
            )
        axes.set_title(name)
    first = all_axes[0][0]
    if log:
        first.set_yscale("log")
        first.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        first.yaxis.set_minor_formatter(lambda value, _: "")
        first.set_ylim(low / 1.15, high * 1.15)
    else:
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        first.set_ylim(factor * (low - room), factor * (high + room))
    for spare in list(all_axes.flat)[len(names) :]:
        spare.set_visible(False)
    figure.supxlabel("epoch", fontsize=8)
    figure.supylabel(f"{sweep.monitor} (%)" if factor == 100 else sweep.monitor, fontsize=8)
    return figure


def _heat_maps(sweep: Sweep, maps: Sequence[HeatMap]) -> Any:
    """Maps of the same two settings side by side, with one scale of colours."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, Normalize

    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    height_in = 0.5 + rows * (0.6 + 0.28 * max(len(one.ys) for one in maps))
    figure, all_axes = _figure(height_in, rows, columns, shared=False)
    means = [c.worth.mean for one in maps for row in one.cells for c in row if c and c.worth.n]
    low, high = (min(means), max(means)) if means else (0.0, 1.0)
    factor = _share_factor(sweep.monitor)
    log = factor == 1 and low > 0 and high > 10 * low
    norm = (LogNorm if log else Normalize)(factor * low, factor * high)
    best_is_light = "viridis" if sweep.sign == -1 else "viridis_r"
    scale: Any = ScalarMappable(norm, colormaps[best_is_light])
    places = list(all_axes.flat)
    for axes, one in zip(places, maps, strict=False):
        table = [[c.worth.mean if c and c.worth.n else math.nan for c in row] for row in one.cells]
        shown = [[factor * value for value in row] for row in table]
        axes.imshow(shown, origin="lower", aspect="auto", cmap=scale.cmap, norm=norm)
        with_numbers = len(one.xs) * columns <= 16
        for y, row in enumerate(shown):
            for x, value in enumerate(row):
                if not math.isfinite(value):
                    axes.text(x, y, "×", ha="center", va="center", color="#888888")
                elif with_numbers:
                    red, green, blue, _ = scale.to_rgba(value)
                    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
                    axes.text(x, y, f"{value:.3g}", ha="center", va="center", color=ink, fontsize=6)
        axes.grid(visible=False)
        every = -(-len(one.xs) * columns // 11)  # labels that have room
        axes.set_xticks(range(0, len(one.xs), every), [f"{x:.3g}" for x in one.xs[::every]])
        axes.set_yticks(range(len(one.ys)), [f"{y:.3g}" for y in one.ys])
        axes.set_title(one.group)
    for spare in places[len(maps) :]:
        spare.set_visible(False)
    figure.supxlabel("learning rate" if maps[0].x_key == RATE else maps[0].x_key, fontsize=8)
    figure.supylabel(maps[0].y_key, fontsize=8)
    label = sweep.monitor + (" (%)" if factor == 100 else "")
    figure.colorbar(scale, ax=places[: len(maps)], label=label)
    return figure


def _share_factor(key: str) -> float:
    """100 for what is a share and shown in percent, else 1."""
    return 100.0 if is_share(key) else 1.0
