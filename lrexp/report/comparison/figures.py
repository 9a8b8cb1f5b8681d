"""The figures of a conclusion: differences with their intervals, rate ladders, scores of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.judge.conclusion import Conclusion, Row, Rung
from lrexp.judge.limits import limits
from lrexp.judge.words import best_is, is_share
from lrexp.report.comparison.words import (
    GONE,
    baseline_of,
    cut,
    detail_words,
    difference_words,
    margin_words,
    metric_words,
    names_of,
    needs_words,
    one_line,
    score_words,
    verdict_words,
)
from lrexp.report.figure import (
    COLOURS,
    Axis,
    Chart,
    Figure,
    Interval,
    Intervals,
    Series,
    policy_place,
)
from lrexp.report.html.page import is_finite, number, percent, plus_minus, tags
from lrexp.report.plots import PAGE, write_plots

SHAPES = {"better": "dot", "worse": "dot", "no difference": "diamond"}
MOST_TITLE = 36  # letters above a ladder
HEIGHT = 170  # of a ladder's plot, in pixels


def write_conclusion_plots(folder: Path, conclusion: Conclusion) -> list[Path]:
    """Write forest and ladders into a folder's plots/, each as PNG (300 dpi) and SVG.

    Returns:
        The files; of what there is nothing to draw for there are none.
    """
    ladders: Sequence[Figure] = ladder_figures(conclusion)
    forest = forest_figure(conclusion)
    pictures: dict[str, Sequence[Figure]] = {"forest": [forest] if forest else []}
    pictures["ladders"] = ladders
    return write_plots(folder, {name: some for name, some in pictures.items() if some}, PAGE)


def colour_of(row: Row) -> int:
    """That of its policy, the same in every report."""
    named = [word.partition("=") for word in row.overrides]
    policies = [value for key, _, value in named if key.lstrip("+") == "lr_policy"]
    return policy_place(policies[-1] if policies else row.name) % len(COLOURS)


def forest_figure(conclusion: Conclusion) -> Intervals | None:
    """A row per configuration with its difference from the baseline, of a share in points.

    None where no difference is known.
    """
    share, margin = is_share(conclusion.metric), conclusion.margin or 0.0
    scale, words = 100 if share else 1, metric_words(conclusion.metric)
    baseline = baseline_of(conclusion)
    rows = [_interval(row, conclusion, scale) for row in conclusion.rows]
    if not any(row.known for row in rows):
        return None
    shaded = f"Shaded: differences up to the margin of {margin_words(margin, share)}. "
    counted = "points of " if share else ""
    return Intervals(
        f"Difference from {baseline} with its 95 % interval",
        rows,
        label=f"{counted}{words} on {conclusion.split}",
        band=scale * margin,
        sides=("lower", "higher"),
        note=(
            f"{shaded if margin else ''}Full dots are better or worse than {baseline}, diamonds"
            " no different, open dots undecided."
        ),
    )


def _interval(row: Row, conclusion: Conclusion, scale: float) -> Interval:
    found, share, name = row.compared, is_share(conclusion.metric), one_line(row.name)
    verdict = verdict_words(row, conclusion)
    if found is None:
        text = score_words(row, share)
        return Interval(name, text="" if text == GONE else text, verdict=verdict,
                        detail=detail_words(row), colour=colour_of(row))  # fmt: skip
    text = difference_words(found, share)
    return Interval(
        name,
        *(scale * value for value in (found.difference.mean, *found.interval)),
        text="" if text == GONE else text,
        verdict=verdict,
        advice=needs_words(found, conclusion),
        detail=detail_words(row),
        colour=colour_of(row),
        aside=bool(row.ended),
        shape=SHAPES.get(found.word, "open"),  # type: ignore[arg-type]
    )


def ladder_figures(conclusion: Conclusion) -> list[Chart]:
    """The monitor over the rates that were tried, a small chart per configuration on equal axes."""
    laddered = [
        (row, name)
        for row, name in zip(conclusion.rows, names_of(conclusion), strict=True)
        if sum(is_finite(rung.rate) and rung.rate > 0 for rung in row.ladder) > 0
    ]
    rungs = [rung for row, _ in laddered for rung in row.ladder]
    values = [rung.worth.mean for rung in rungs if is_finite(rung.worth.mean)]
    if not values:
        return []
    monitor, share = conclusion.monitor, is_share(conclusion.monitor)
    low, high, log = limits(monitor, values)
    shown = [rung for rung in rungs if low <= rung.worth.mean <= high]
    reached = [end for rung in shown for end in _whisker(rung)]
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    ends = (min([low, *reached]) - room, max([high, *reached]) + room)
    if log:
        ends = (low / 1.2, high * 1.2)
    rates = sorted({rung.rate for rung in rungs if is_finite(rung.rate) and rung.rate > 0})
    wide = (rates[0] / 1.5, rates[-1] * 1.5)
    return [
        Chart(
            cut(name, MOST_TITLE),
            _ladder(row, name, conclusion, (low, high)),
            Axis("rate", log=True, ticks=rates if len(rates) <= 14 else (), range=wide),
            Axis(monitor, log=log, percent=share, range=ends),
            hover="nearest",
            height=HEIGHT,
            legend=len({rung.variant for rung in row.ladder}) > 1,
            compact=True,
        )
        for row, name in laddered
    ]


def ladder_lead(conclusion: Conclusion) -> str:
    """How to read them."""
    said = f"{conclusion.monitor} over the rates that were tried, {best_is(conclusion.monitor)} is"
    parts = [f"{said} best; the ring is what was chosen, bands are ± standard errors over seeds."]
    if any(rung.bad for row in conclusion.rows for rung in row.ladder):
        parts.append("A cross is a rate at which not every seed finished.")
    if any("arrow" in one.shape for chart in ladder_figures(conclusion) for one in chart.series):
        parts.append("Arrows lie beyond the axis.")
    return " ".join(parts)


def _whisker(rung: Rung) -> tuple[float, ...]:
    """Ends of mean ± standard error."""
    mean, se = rung.worth.mean, rung.worth.se
    return (mean - se, mean + se) if is_finite(mean) and is_finite(se) else ()


def _ladder(
    row: Row, name: str, conclusion: Conclusion, between: tuple[float, float]
) -> list[Series]:
    """A line with dots per variant, crosses where seeds went wrong, a ring at what was chosen."""
    monitor, (low, high) = conclusion.monitor, between
    worst = "bottom" if best_is(monitor) == "highest" else "top"
    share, made = is_share(monitor), list[Series]()
    variants = list(dict.fromkeys(rung.variant for rung in row.ladder))
    chosen = _chosen(row)
    for place, variant in enumerate(variants):
        rungs = sorted((r for r in row.ladder if r.variant == variant), key=lambda r: r.rate)
        style: dict[str, Any] = {
            "name": (variant or "default") if len(variants) > 1 else name,
            "colour": colour_of(row), "dash": place, "marker": place,
        }  # fmt: skip
        known = [r for r in rungs if is_finite(r.worth.mean) and low <= r.worth.mean <= high]
        ends = [_whisker(rung) or (math.nan, math.nan) for rung in known]
        banded = any(map(math.isfinite, (end for pair in ends for end in pair)))
        band = {"low": [a for a, _ in ends], "high": [b for _, b in ends]} if banded else {}
        x, y = [r.rate for r in known], [r.worth.mean for r in known]
        made.append(Series(x=x, y=y, quiet=True, **band, **style))
        made.append(Series(x=x, y=y, kind="dots", labels=_labels(known, share), **style))
        away = {"top": [], "bottom": []}
        for rung in rungs:
            if is_finite(rung.worth.mean) and rung not in known:
                away["top" if rung.worth.mean > high else "bottom"].append(rung)
        sets: list[tuple[list[Rung], dict[str, Any]]] = [
            *((some, {"edge": edge, "shape": "arrow"}) for edge, some in away.items()),
            ([r for r in rungs if r.bad], {"edge": worst, "shape": "cross"}),
        ]
        made += [
            Series(
                x=[r.rate for r in some],
                y=[None] * len(some),
                kind="dots",
                labels=_labels(some, share),
                **how,
                **style,
            )
            for some, how in sets
            if some
        ]
        made += [
            Series(x=[r.rate], y=[r.worth.mean], kind="dots", shape="ring", quiet=True, **style)
            for r in known
            if r is chosen
        ]
    return made


def _chosen(row: Row) -> Rung | None:
    """The rung that was confirmed: of several settings at its rate the one that its words name."""
    there = [rung for rung in row.ladder if row.rate is not None and rung.rate == row.rate]
    named = [rung for rung in there if rung.variant and rung.variant in row.settings]
    plain = [rung for rung in there if not rung.variant]
    return next(iter(named or plain or there), None)


def _labels(rungs: Sequence[Rung], share: bool) -> list[str]:
    """`lr 0.1: 0.213 ± 0.007 over 3 seeds, 1 diverged`."""
    said = []
    for rung in rungs:
        worth, over = rung.worth, f"{rung.worth.n} seed{'s' * (rung.worth.n != 1)}"
        known = [f"{plus_minus(worth.mean, worth.se, share=share)} over {over}"] if worth.n else []
        at = " ".join(filter(None, (f"lr {rung.rate:.4g}", rung.variant)))
        said.append(f"{at}: {', '.join([*known, *([rung.bad] if rung.bad else [])]) or GONE}")
    return said


def seed_rows(conclusion: Conclusion) -> Markup:
    """A row per configuration with its seeds as dots on one axis; empty where none are at hand.

    The axis is made for configurations of which every seed finished; others reach its edges.
    """
    share = is_share(conclusion.metric)
    whole = [row for row in conclusion.rows if not row.ended] or conclusion.rows
    values = [value for row in whole for value in row.per_seed if math.isfinite(value)]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    room = 0.04 * (high - low) or 0.1 * abs(high) or 1.0

    def text(value: float) -> str:
        return percent(value) if share else number(value, 4)

    def at(value: float) -> str:
        place = (value - low + room) / (high - low + 2 * room)
        return f"{100 * min(0.99, max(0.01, place)):.2f}%"

    lanes = []
    for row, name in zip(conclusion.rows, names_of(conclusion), strict=True):
        seeds = [*conclusion.seeds, *("?" for _ in row.per_seed[len(conclusion.seeds) :])]
        places: list[tuple[str, str | None, str]] = [
            (at(value), "", f"{name}, seed {seed}: {text(value)}")
            for seed, value in zip(seeds, row.per_seed, strict=False)
            if math.isfinite(value)
        ]
        if len(places) > 1 and is_finite(row.score.mean):
            mean = row.score.mean
            places.insert(0, (at(mean), None, f"{name}, mean: {text(mean)}"))
        remark = detail_words(row) if name != row.name else row.ended
        lanes.append((one_line(row.name), remark, colour_of(row), places, score_words(row, share)))
    title = f"{conclusion.split} {metric_words(conclusion.metric)} of every seed"
    return tags.lanes(title, lanes, [text(low), text(high)])
