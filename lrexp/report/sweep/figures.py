"""The figures of a sweep: over the rate, over two settings, over epochs, and dots in rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.judge.limits import limits
from lrexp.judge.ranking import (
    Configuration,
    compared_by,
    configurations,
    has_rate_axis,
    lines,
)
from lrexp.judge.winner import no_winner
from lrexp.judge.words import is_share
from lrexp.report.figure import Axis, Chart, Figure, HeatMap, Series, evenly
from lrexp.report.html.page import tags
from lrexp.report.plots import PAGE, write_plots
from lrexp.report.sweep.maps import heat_figures
from lrexp.report.sweep.styles import MANY, Style, line_names, line_styles
from lrexp.report.sweep.words import (
    counted,
    href_of,
    mean_label,
    plural,
    point_label,
    value_text,
    worth_text,
)
from lrexp.runs.sweep import DIVERGED, FINISHED, GAP, Sweep, SweepPoint, read_sweep

MOST_SHOWN = 8  # groups drawn from the start; the others wait in the legend
MOST_CURVES = 36  # of one small chart
ALL_CURVES = 480  # of all of them
MOST_CHARTS = 24  # small ones
MOST_EPOCHS = 60  # of one curve in a small chart
MOST_ROWS = 60  # of dots
MOST_GROUPS = 8  # on paper: lines that can be told apart
MOST_DOTS = 2000  # of one figure
MOST_LINES = 40  # over the rate, of more than MANY points
MOST_PLACES = 60  # of a line over the rate, of more than MANY points
SHAPES = {"cross": "diverged", "arrow": "beyond the axis"}


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
    rings = ", rings the best of each" if no_winner(sweep.tried) is None else ""
    parts = [f"Dots are seeds, lines their means{rings}."]
    if any(point.status == DIVERGED for point in sweep.tried):
        parts.append("A cross is a seed that diverged, which has no value and no part in a mean.")
    if any(one.worth.n and not one.whole for one in ranked):
        parts.append("Pale lines lead to means of fewer seeds.")
    names = line_names(sweep, ranked)
    variants = {(names[one.rank], one.variant) for one in ranked}
    if len(sweep.tried) <= MANY and len(variants) > len(set(names.values())):
        parts.append("Pale, too, are other numbers tried under the same name.")
    if any(one.own_rate for one in ranked):
        parts.append("Whoever sets rates of its own stands at its highest.")
    return " ".join(parts)


def rate_figures(sweep: Sweep, ranked: Sequence[Configuration]) -> dict[str, Chart]:
    """`monitor` and `gap` over the rate: means as lines, seeds as dots, the best ringed.

    Of more than MANY points see `envelope`.
    """
    names, styles = line_names(sweep, ranked), line_styles(sweep, ranked)
    large, unplaced = len(sweep.tried) > MANY, sum(one.rate is None for one in ranked)
    several = len({names[one.rank] for one in ranked}) > MOST_SHOWN
    ranked = envelope(ranked, names) if large else ranked
    rates = sorted({one.rate for one in ranked if one.rate is not None})
    notes = [
        f"The best {MOST_SHOWN} are drawn; a click on another name draws that one too."
        if several
        else "",
        "Of so many points the best of each name at each rate is drawn." if large else "",
        f"{unplaced} configurations have no rate to stand at." if unplaced else "",
    ]
    gap_note = (
        "gap = val/loss − train_eval/loss on the same weights: what does not carry over to new"
        f" images. Rings are the best by {sweep.monitor}."
    )
    titles, made = {sweep.monitor: f"best {sweep.monitor}"}, {}
    titles.setdefault(GAP, "gap at the best epoch")
    for key, name in titles.items():
        values = [p.best[key] for one in ranked for p in one.finished(key)]
        if not values:
            continue
        low, high, log = limits(key, values)
        is_monitor, share, between = key == sweep.monitor, is_share(key), None
        if low > min(values) or high < max(values):  # some go to the edge
            room = 0.06 * (high - low)
            between = (max(low - room, 0.9 * low) if low > 0 else low - room, high + room)
            if log:
                between = (low * (low / high) ** 0.06, high * (high / low) ** 0.06)
        made["monitor" if is_monitor else "gap"] = Chart(
            f"Learning rate against {name}",
            _rate_series(sweep, ranked, key, (low, high), names, styles),
            Axis("learning rate", log=True, ticks=rates if len(rates) <= 14 else ()),
            Axis(
                key,
                log=log,
                percent=share,
                zero=key == GAP,
                button=min(values) > 0 and is_monitor and not share,
                range=between,
            ),
            hover="nearest",
            height=420 if is_monitor else 280,
            shapes=SHAPES,
            note=" ".join(filter(None, notes)) if is_monitor else gap_note,
        )
    return made


def envelope(ranked: Sequence[Configuration], names: Mapping[int, str]) -> list[Configuration]:
    """Of each of the best MOST_LINES lines the best configuration at each rate, as one line.

    Of more rates than MOST_PLACES the best in each part of the axis, which is divided evenly by
    the logarithm; the best of a line is always among them.
    """
    shown = set(list(dict.fromkeys(names[one.rank] for one in ranked))[:MOST_LINES])
    rates = sorted({one.rate for one in ranked if one.rate})
    parts: dict[float | None, float | None] = {rate: rate for rate in rates}
    if len(rates) > MOST_PLACES:
        span = math.log(rates[-1] / rates[0])
        parts = {rate: int(MOST_PLACES * math.log(rate / rates[0]) / span) for rate in rates}
    kept: dict[tuple[str, float | None], Configuration] = {}
    for one in ranked:  # the best comes first
        if names[one.rank] in shown and one.rate:
            kept.setdefault((names[one.rank], parts[one.rate]), replace(one, variant=""))
    return list(kept.values())


def _rate_series(
    sweep: Sweep,
    ranked: Sequence[Configuration],
    key: str,
    between: tuple[float, float],
    names: Mapping[int, str],
    styles: Mapping[str, Style],
) -> list[Series]:
    """Mean lines, seeds as dots, what went over the edge, and a ring at the best of each group."""
    worst = "bottom" if sweep.sign == -1 and key == sweep.monitor else "top"
    shown = list(dict.fromkeys(names[one.rank] for one in ranked))  # best first
    drawn = sorted(lines(ranked).values(), key=lambda some: shown.index(names[some[0].rank]))
    won = no_winner(sweep.tried) is None
    made: list[Series] = []
    rings: list[Series] = []
    last, most = None, _most_dots(ranked)
    for some in drawn:
        name = names[some[0].rank]
        leads, last, late = name != last, name, shown.index(name) >= MOST_SHOWN
        colour, dash, marker = styles[name]
        style = {"name": name, "colour": colour, "marker": marker, "hidden": late}
        placed = [(c.rate, c) for c in some if c.rate is not None]
        known = [(rate, c) for rate, c in placed if c.over_seeds(key).n]
        made += _mean_lines(known, key, style | {"dash": dash}, leads)
        made += _seed_dots(placed, key, between, worst, most, style | {"faint": not leads})
        if leads and known and not late and won:
            rate, best = min(known, key=lambda pair: pair[1].rank)
            mean = best.over_seeds(key).mean
            named = best.rank == 1 and key == sweep.monitor
            texts = [f"{name} {value_text(mean, is_share(key))}"] if named else []
            ring: dict[str, Any] = {"kind": "dots", "shape": "ring", "quiet": True, "texts": texts}
            rings.append(Series(x=[rate], y=[mean], **ring, **style))
    return [*made, *rings]


def _mean_lines(
    known: Sequence[tuple[float, Configuration]], key: str, style: dict[str, Any], leads: bool
) -> list[Series]:
    """Means by rate: a full line through those of all seeds, a pale one to those of some."""
    spreads = [c.over_seeds(key) for _, c in known]
    labels = [mean_label(c, s, is_share(key)) for (_, c), s in zip(known, spreads, strict=True)]
    if all(spread.n == 1 for spread in spreads):  # the dots say it all
        labels, style = [], style | {"quiet": True}
    whole = [c.whole for _, c in known]
    beside = [not all(whole[max(0, i - 1) : i + 2]) for i in range(len(known))]
    return [
        Series(
            x=[rate for rate, _ in known],
            y=[s.mean if there else None for s, there in zip(spreads, chosen, strict=True)],
            labels=labels,
            faint=pale or not leads,
            **style,
        )
        for pale, chosen in ((False, whole), (True, beside))
        if any(chosen)
    ]


def _seed_dots(
    placed: Sequence[tuple[float, Configuration]],
    key: str,
    between: tuple[float, float],
    worst: str,
    most: int,
    style: dict[str, Any],
) -> list[Series]:
    """Every seed, or `most` of each: in its place, as an arrow beyond the axis, or as a cross where
    it diverged."""
    low, high = between
    found = [(r, c, p, p.best[key]) for r, c in placed for p in evenly(c.finished(key), most)]
    failed = [(c, [p for p in c.points if p.status == DIVERGED]) for _, c in placed]
    diverged = [(c.rate, c, p, None) for c, some in failed for p in evenly(some, most)]
    sets: list[tuple[list[Any], dict[str, Any]]] = [
        ([one for one in found if low <= one[3] <= high], {}),
        ([one for one in found if one[3] > high], {"edge": "top", "shape": "arrow"}),
        ([one for one in found if one[3] < low], {"edge": "bottom", "shape": "arrow"}),
        (diverged, {"edge": worst, "shape": "cross"}),
    ]
    return [
        Series(
            x=[rate for rate, *_ in some],
            y=[value for *_, value in some],
            kind="dots",
            labels=[point_label(c, p) for _, c, p, _ in some],
            links=[href_of(p) or "" for _, _, p, _ in some],
            **how,
            **style,
        )
        for some, how in sets
        if some
    ]


def _most_dots(drawn: Sequence[Configuration]) -> int:
    """Of each configuration, that a figure has no more than MOST_DOTS where there are more."""
    total = sum(len(one.points) for one in drawn)
    return total if total <= MOST_DOTS else max(2, MOST_DOTS // len(drawn))


def curves_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    counts, names = Counter[str](), line_names(sweep, ranked)
    for one in ranked:
        counts[names[one.rank]] += sum(len(p.rows) > 1 for p in one.points)
    drawn, word = +counts, compared_by(sweep)[0]
    word = word if set(drawn) <= {one.group for one in ranked} else "line"
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
    by_name: dict[str, list[tuple[Configuration, SweepPoint]]] = {}
    names, styles = line_names(sweep, ranked), line_styles(sweep, ranked)
    for one in ranked:
        drawn = [(one, p) for p in one.points if len(p.rows) > 1]
        by_name.setdefault(names[one.rank], []).extend(drawn)
    drawn = {name: pairs for name, pairs in by_name.items() if pairs}
    most = _most_curves(len(drawn))
    kept = {name: evenly(drawn[name], most) for name in list(drawn)[:MOST_CHARTS]}
    rows = [row for pairs in kept.values() for _, p in pairs for row in p.rows]
    values = [value for row in rows if math.isfinite(value := row.get(sweep.monitor, math.nan))]
    if not values:
        return []
    low, high, log = limits(sweep.monitor, values)
    if log:  # what blows up before it diverges would flatten all others
        bounds = (low / 1.15, min(high, 100 * low) * 1.15)
    else:
        room = (high - low) * 0.05 or abs(high) * 0.1 or 1.0
        bounds = (low - room, high + room)
    last = max(row["epoch"] for row in rows)
    room = 0.5 if last < 10 else 0.0
    return [
        Chart(
            name,
            [
                _curve(sweep.monitor, one, p, styles[name][0], one.rank == pairs[0][0].rank)
                for one, p in reversed(pairs)
            ],
            Axis("epoch", range=(room, last + room)),
            Axis(sweep.monitor, log=log, percent=is_share(sweep.monitor), range=bounds),
            hover="nearest",
            height=150 if len(kept) > 1 else 260,
            legend=False,
            compact=True,
        )
        for name, pairs in kept.items()
    ]


def _curve(monitor: str, one: Configuration, point: SweepPoint, colour: int, best: bool) -> Series:
    rows = evenly(point.rows, MOST_EPOCHS)
    seed = f" {said.replace('seed ', 'seed=')}" if (said := one.repetition_of(point)) else ""
    status = "" if point.status == FINISHED else f" ({point.status})"
    return Series(
        name=f"{one.name}{seed}{status}",
        x=[row["epoch"] for row in rows],
        y=[row.get(monitor, math.nan) for row in rows],
        colour=colour,
        dash=0,
        faint=not best,
    )


def dots_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    if len(ranked) == 1:
        return f"The best {sweep.monitor} of every seed; the bar is their mean."
    left = len(ranked) - MOST_ROWS
    more = f" The best {MOST_ROWS} are drawn, {left} more stand in the leaderboard."
    said = f"The best {sweep.monitor} of every configuration: dots are seeds, bars means."
    return said + more * (left > 0)


def dot_rows(sweep: Sweep, ranked: Sequence[Configuration]) -> Markup:
    """A row per configuration with its seeds as dots on one common axis; needs no script."""
    monitor, drawn = sweep.monitor, ranked[:MOST_ROWS]
    values = [p.best[monitor] for one in drawn for p in one.finished(monitor)]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    share, most = is_share(monitor), _most_dots(drawn)
    names, styles = line_names(sweep, ranked), line_styles(sweep, ranked)

    def at(value: float) -> str:
        return f"{100 * (value - low + room) / (high - low + 2 * room):.2f}%"

    rows = []
    for one in drawn:
        places = [
            (at(value), href_of(p), f"{point_label(one, p)}: {value_text(value, share, 4)}")
            for p in evenly(one.finished(monitor), most)
            for value in [p.best[monitor]]
        ]
        if one.worth.n > 1:  # the mean, which leads nowhere
            places.insert(0, (at(one.worth.mean), None, mean_label(one, one.worth, share)))
        colour = styles[names[one.rank]][0]
        remark = "" if one.whole else counted(one.counts)
        rows.append((one.name, remark, colour, places, worth_text(sweep, one.worth)))
    ends = [value_text(low, share), value_text(high, share)]
    return tags.lanes(f"{monitor} at the best epoch", rows, ends)
