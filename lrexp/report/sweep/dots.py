"""A sweep without an axis of rates: its configurations as rows of dots, which need no script."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import Configuration, finished
from lrexp.judge.words import is_share
from lrexp.report.figure import COLOURS
from lrexp.report.html.page import Html, element
from lrexp.report.sweep.words import counted, mean_label, point_label, value_text, worth_text
from lrexp.runs.sweep import EQUAL, MISSING, Sweep, SweepPoint

MOST_ROWS = 60  # configurations


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


def href_of(point: SweepPoint) -> str | None:
    """Of the point's report or folder; None where there is nothing to open."""
    nothing = point.status in (MISSING, EQUAL)
    return None if nothing else quote(f"{point.folder}/{REPORT if point.report else ''}")
