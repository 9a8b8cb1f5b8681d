"""The figures of a sweep: over the rate, over two settings, over epochs, and dots in rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import (
    Configuration,
    CrossTable,
    Line,
    compared_by,
    configurations,
    cross_tables,
    finished,
    has_rate_axis,
    limits,
    lines,
)
from lrexp.judge.words import is_share
from lrexp.report.figure import COLOURS, Axis, Chart, Figure, HeatMap, Series
from lrexp.report.html.page import Html, element
from lrexp.report.plots import PAGE, write_plots
from lrexp.report.sweep.words import (
    counted,
    mean_label,
    plural,
    point_label,
    value_text,
    worth_text,
)
from lrexp.runs.sweep import (
    DIVERGED,
    EQUAL,
    FINISHED,
    GAP,
    MISSING,
    RATE,
    Sweep,
    SweepPoint,
    read_sweep,
)

MOST_SHOWN = 8  # groups drawn from the start; the others wait in the legend
MOST_CURVES = 36  # of one small chart
ALL_CURVES = 480  # of all of them
MOST_CHARTS = 24  # small ones
MOST_EPOCHS = 60  # of one curve in a small chart
MOST_ROWS = 60  # configurations of a dot chart
MOST_GROUPS = 8  # on paper: lines that can be told apart
SHAPES = {"cross": "diverged", "arrow": "beyond the axis"}
T = TypeVar("T")


def write_sweep_plots(folder: Path) -> list[Path]:
    """Write the figures of a sweep into its folder plots/, each as PNG (300 dpi) and SVG.

    They are lr_monitor and lr_gap (where rates were swept), curves, and heat_map_1 … for every two
    numbers that were swept. At most the best 8 groups are drawn.

    Returns:
        The files; none when no point has a result.
    """
    sweep = read_sweep(folder)
    ranked = configurations(sweep)
    best = list(dict.fromkeys(one.group for one in ranked if one.worth.n))[:MOST_GROUPS]
    shown = [one for one in ranked if one.group in best]
    pictures: dict[str, Sequence[Figure]] = {}
    if has_rate_axis(shown):
        pictures = {f"lr_{name}": [one] for name, one in rate_figures(sweep, shown).items()}
    pictures["curves"] = curve_figures(sweep, shown)
    tables: dict[tuple[str, str], list[HeatMap]] = {}
    for one in heat_figures(sweep, shown):
        tables.setdefault((one.x_label, one.y_label), []).append(one)
    pictures |= {f"heat_map_{place}": maps for place, maps in enumerate(tables.values(), 1)}
    return write_plots(folder, {name: some for name, some in pictures.items() if some}, PAGE)


def rates_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    parts = ["Dots are seeds, lines their means, rings the best of each."]
    if any(point.status == DIVERGED for point in sweep.tried):
        parts.append("A cross is a seed that diverged, which has no value and no part in a mean.")
    if any(one.worth.n and not one.whole for one in ranked):
        parts.append("Lines to means of fewer seeds are dashed.")
    if any(one.variant for one in ranked):
        parts.append(f"Pale: other settings of the same {compared_by(sweep)[0]}.")
    if any(one.own_rate for one in ranked):
        parts.append("Whoever sets rates of its own stands at its highest.")
    return " ".join(parts)


def rate_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> dict[str, Chart]:
    """`monitor` and `gap` over the rate: means as lines, seeds as dots, the best ringed."""
    drawn = lines(ranked)
    shown = list(dict.fromkeys(line.group for line in drawn))
    late = set(shown[MOST_SHOWN:])
    rates = sorted({one.rate for one in ranked if one.rate is not None})
    note = ""
    if late:
        note = f"The best {MOST_SHOWN} are drawn; a click on another name draws that one too."
    unplaced = sum(one.rate is None for one in ranked)
    if unplaced:
        note = f"{note} {unplaced} configurations have no rate to stand at.".strip()
    made = {}
    for key, name in ((sweep.monitor, f"best {sweep.monitor}"), (GAP, "gap at the best epoch")):
        if key == GAP and sweep.monitor == GAP:
            continue
        values = [p.best[key] for one in ranked for p in finished(one, key)]
        if not values:
            continue
        low, high, log = limits(key, values)
        clipped = low > min(values) or high < max(values)
        room = 0.06 * (high - low)
        if not clipped:
            between = None
        elif log:
            between = (low * (low / high) ** 0.06, high * (high / low) ** 0.06)
        else:
            between = (max(low - room, 0.9 * low) if low > 0 else low - room, high + room)
        is_monitor = key == sweep.monitor
        said = note if is_monitor else _gap_note(sweep)
        made["monitor" if is_monitor else "gap"] = Chart(
            f"Learning rate against {name}",
            _rate_series(sweep, drawn, shown, late, key, (low, high)),
            Axis("learning rate", log=True, ticks=rates if len(rates) <= 14 else ()),
            Axis(
                key,
                log=log,
                percent=is_share(key),
                zero=key == GAP,
                button=min(values) > 0 and is_monitor and not is_share(key),
                range=between,
            ),
            hover="nearest",
            height=420 if is_monitor else 280,
            shapes=SHAPES,
            note=said,
        )
    return made


def _gap_note(sweep: Sweep) -> str:
    return (
        "gap = val/loss − train_eval/loss on the same weights: what does not carry over to new"
        f" images. Rings are the best by {sweep.monitor}."
    )


def _rate_series(
    sweep: Sweep,
    drawn: Sequence[Line],
    shown: Sequence[str],
    late: set[str],
    key: str,
    between: tuple[float, float],
) -> list[Series]:
    """Mean lines, seeds as dots, what went over the edge, and a ring at the best of each group."""
    share = is_share(key)
    worst = "bottom" if sweep.sign == -1 and key == sweep.monitor else "top"
    visible = [name for name in shown if name not in late]
    made: list[Series] = []
    rings: list[Series] = []
    for place, line in enumerate(drawn):
        leads = all(line.group != other.group for other in drawn[:place])
        style = {
            "name": line.group,
            "colour": shown.index(line.group),
            "marker": shown.index(line.group),
            "hidden": line.group in late,
            "faint": not leads,  # other settings of the same group
            "shift": visible.index(line.group) - (len(visible) - 1) / 2
            if line.group in visible
            else 0.0,
        }
        placed = [(c.rate, c) for c in line.configurations if c.rate is not None]
        known = [(rate, c) for rate, c in placed if c.over_seeds(key).n]
        made += _mean_lines(known, key, share, style)
        made += _seed_dots(placed, key, between, worst, style)
        if leads and known and line.group not in late:
            rate, best = min(known, key=lambda pair: pair[1].rank)
            mean = best.over_seeds(key).mean
            named = best.rank == 1 and key != GAP
            texts = [f"{best.group} {value_text(mean, share)}"] if named else []
            ring: dict[str, Any] = {"kind": "dots", "shape": "ring", "quiet": True, "texts": texts}
            rings.append(Series(x=[rate], y=[mean], **ring, **style))
    return [*made, *rings]


def _mean_lines(
    known: Sequence[tuple[float, Configuration]], key: str, share: bool, style: dict[str, Any]
) -> list[Series]:
    """Means by rate: a solid line through those of all seeds, dashed to those of some."""
    rates = [rate for rate, _ in known]
    means = [c.over_seeds(key).mean for _, c in known]
    labels = [mean_label(c, c.over_seeds(key), share) for _, c in known]
    if all(c.over_seeds(key).n == 1 for _, c in known):  # the dots say it all
        labels, style = [], style | {"quiet": True}
    whole = [c.whole for _, c in known]
    solid = [mean if all_of_it else None for mean, all_of_it in zip(means, whole, strict=True)]
    beside = [not all(whole[max(0, i - 1) : i + 2]) for i in range(len(known))]
    dashed = [mean if partly else None for mean, partly in zip(means, beside, strict=True)]
    made = []
    if any(whole):
        made.append(Series(x=rates, y=solid, labels=labels, dash=0, **style))
    if any(beside):
        made.append(Series(x=rates, y=dashed, labels=labels, dash=1, **style))
    return made


def _seed_dots(
    placed: Sequence[tuple[float, Configuration]],
    key: str,
    between: tuple[float, float],
    worst: str,
    style: dict[str, Any],
) -> list[Series]:
    """Every seed: in its place, as an arrow beyond the axis, or as a cross where it diverged."""
    low, high = between
    found = [(rate, c, p) for rate, c in placed for p in finished(c, key)]
    diverged = [(rate, c, p) for rate, c in placed for p in c.points if p.status == DIVERGED]
    sets: list[tuple[list[Any], dict[str, Any]]] = [
        ([one for one in found if low <= one[2].best[key] <= high], {}),
        ([one for one in found if one[2].best[key] > high], {"edge": "top", "shape": "arrow"}),
        ([one for one in found if one[2].best[key] < low], {"edge": "bottom", "shape": "arrow"}),
        (diverged, {"edge": worst, "shape": "cross"}),
    ]
    return [
        Series(
            x=[rate for rate, _, _ in some],
            y=[p.best.get(key) if p.status == FINISHED else None for _, _, p in some],
            kind="dots",
            labels=[point_label(c, p) for _, c, p in some],
            links=[href_of(p) or "" for _, _, p in some],
            **how,
            **style,
        )
        for some, how in sets
        if some
    ]


def dots_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    if len(ranked) == 1:
        return f"The best {sweep.monitor} of every seed; the bar is their mean."
    left = len(ranked) - MOST_ROWS
    more = (
        f" The best {MOST_ROWS} are drawn, {left} more stand in the leaderboard."
        if left > 0
        else ""
    )
    return f"The best {sweep.monitor} of every configuration: dots are seeds, bars means.{more}"


def dot_rows(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    """A row per configuration with its seeds as dots on one common axis; needs no script."""
    drawn = ranked[:MOST_ROWS]
    values = [value for one in drawn for value in one.values]
    if not values:
        return Html("")
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room
    share = is_share(sweep.monitor)
    names = list(dict.fromkeys(one.group for one in ranked))

    def at(value: float) -> str:
        return f"left:{100 * (value - low) / (high - low):.2f}%"

    rows = []
    for one in drawn:
        worth = worth_text(sweep, one.worth) if one.worth.n else "–"
        colour = names.index(one.group) % len(COLOURS)
        dots = [
            element(
                "a", "", class_="dot", style=at(p.best[sweep.monitor]), href=href_of(p),
                title=f"{point_label(one, p)}: "
                f"{value_text(p.best[sweep.monitor], share, 4)}",
            )
            for p in finished(one, sweep.monitor)
        ]  # fmt: skip
        mean = None
        if one.worth.n > 1:
            label = mean_label(one, one.worth, share)
            mean = element("i", class_="mean", style=at(one.worth.mean), title=label)
        bad = element("small", counted(one.counts)) if not one.whole else None
        rows.append(
            element(
                "li",
                element("span", element("span", one.name, title=one.name), bad, class_="name"),
                element("span", mean, *dots, class_=f"lane s{colour}"),
                element("span", worth, class_="value"),
            )
        )
    ends = (element("span", value_text(value, share)) for value in (low + room, high - room))
    scale = element(
        "li",
        element("span"),
        element("span", *ends, class_="ends"),
        element("span", class_="value"),
    )
    return element(
        "figure",
        element("figcaption", f"{sweep.monitor} at the best epoch"),
        element("ol", *rows, scale, class_="bars lanes"),
    )


def heat_lead(sweep: Sweep) -> str:
    lowest = "lowest" if sweep.sign == 1 else "highest"
    return f"Mean of the best {sweep.monitor} over seeds; the strongest colour is the {lowest}."


def heat_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> list[HeatMap]:
    """A map per group over two swept numbers, all on one scale of colours."""
    tables = cross_tables(sweep, ranked)
    values = [c.worth.mean for t in tables for row in t.cells for c in row if c and c.worth.n]
    if not values:
        return []
    share, bounds = is_share(sweep.monitor), (min(values), max(values))
    log = not share and 0 < 10 * bounds[0] < bounds[1]
    return [_heat_figure(sweep, one, bounds, log, share) for one in tables]


def _heat_figure(
    sweep: Sweep, one: CrossTable, bounds: tuple[float, float], log: bool, share: bool
) -> HeatMap:
    def label(cell: Configuration | None) -> str:
        if cell is None:
            return "not tried"
        known = cell.worth.n > 0
        return (
            mean_label(cell, cell.worth, share) if known else f"{cell.name}: {counted(cell.counts)}"
        )

    rows = list(reversed(one.cells))
    said = "Hatched: no point finished or none was tried."
    hatched = any(not (c and c.worth.n) for row in rows for c in row)
    several = "Each cell is the best of those that share its two settings." if one.several else ""
    return HeatMap(
        one.group,
        [f"{y:.3g}" for y in reversed(one.ys)],
        [f"{x:.3g}" for x in one.xs],
        [[c.worth.mean if c and c.worth.n else None for c in row] for row in rows],
        x_label=_axis_name(one.x_key),
        y_label=_axis_name(one.y_key),
        value_label=sweep.monitor,
        log=log,
        percent=share,
        numbers=True,
        reverse=sweep.sign == 1,
        between=bounds,
        labels=[[label(c) for c in row] for row in rows],
        note=" ".join(filter(None, [said if hatched else "", several])),
    )


def _axis_name(key: str) -> str:
    return "learning rate" if key == RATE else key.rpartition(".")[2].replace("_", " ")


def curves_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    counts = Counter[str]()
    for one in ranked:
        counts[one.group] += sum(len(p.rows) > 1 for p in one.points)
    drawn, word = +counts, compared_by(sweep)[0]
    parts = [f"{sweep.monitor} over epochs, a line per point; the best configuration stands out."]
    if len(drawn) > MOST_CHARTS:
        parts.append(f"Drawn are the best {MOST_CHARTS} of {plural(len(drawn), word)}.")
    most = _most_curves(len(drawn))
    if any(count > most for count in drawn.values()):
        parts.append(f"To keep this page small, at most {most} points of each are drawn, evenly")
        parts.append("from best to worst.")
    if any(len(p.rows) > MOST_EPOCHS for p in sweep.tried):
        parts.append(f"Of longer runs {MOST_EPOCHS} epochs are drawn.")
    return " ".join(parts)


def _most_curves(charts: int) -> int:
    """Of each small chart, when there are so many."""
    return min(MOST_CURVES, ALL_CURVES // max(1, min(charts, MOST_CHARTS)))


def curve_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> list[Chart]:
    """A small chart per group, all on the same axes."""
    by_group: dict[str, list[tuple[Configuration, SweepPoint]]] = {}
    for one in ranked:
        drawn = [(one, p) for p in one.points if len(p.rows) > 1]
        by_group.setdefault(one.group, []).extend(drawn)
    names = list(by_group)
    drawn = {name: pairs for name, pairs in by_group.items() if pairs}
    most = _most_curves(len(drawn))
    kept = {name: _evenly(drawn[name], most) for name in list(drawn)[:MOST_CHARTS]}
    values = [
        row[sweep.monitor]
        for pairs in kept.values()
        for _, p in pairs
        for row in p.rows
        if math.isfinite(row.get(sweep.monitor, math.nan))
    ]
    if not values:
        return []
    share = is_share(sweep.monitor)
    low, high, log = limits(sweep.monitor, values)
    if log:  # what blows up before it diverges would flatten all others
        high = min(high, 100 * low)
        bounds = (low / 1.15, high * 1.15)
    else:
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        bounds = (low - room, high + room)
    last = max(p.rows[-1]["epoch"] for pairs in kept.values() for _, p in pairs)
    room = 0.5 if last < 10 else 0.0
    return [
        Chart(
            name,
            [
                _curve(sweep.monitor, one, p, names.index(name), one.rank == pairs[0][0].rank)
                for one, p in reversed(pairs)
            ],
            Axis("epoch", range=(room, last + room)),
            Axis(sweep.monitor, log=log, percent=share, range=bounds),
            hover="nearest",
            height=150 if len(kept) > 1 else 260,
            legend=False,
            compact=True,
        )
        for name, pairs in kept.items()
    ]


def _curve(monitor: str, one: Configuration, point: SweepPoint, style: int, best: bool) -> Series:
    rows = _evenly(point.rows, MOST_EPOCHS)
    seed = f" seed={point.seed}" if len(one.points) > 1 else ""
    status = "" if point.status == FINISHED else f" ({point.status})"
    name = f"{one.name}{seed}{status}"
    return Series(
        name=name,
        x=[row["epoch"] for row in rows],
        y=[row.get(monitor, math.nan) for row in rows],
        colour=style,
        dash=0,
        faint=not best,
    )


def _evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """All items, or of too many evenly spaced ones with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _target(point: SweepPoint) -> str:
    """Where a point's own report or folder is, seen from the sweep's folder."""
    return f"{point.folder}/{REPORT}" if point.report else f"{point.folder}/"


def href_of(point: SweepPoint) -> str | None:
    """Of the point's report or folder; None where there is nothing to open."""
    return None if point.status in (MISSING, EQUAL) else quote(_target(point))
