"""A sweep without an axis of rates: its configurations as rows of dots, which need no script."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup, escape

from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import Configuration, finished
from lrexp.judge.words import is_share
from lrexp.report.figure import COLOURS
from lrexp.report.html.page import tags
from lrexp.report.sweep.words import counted, mean_label, point_label, value_text, worth_text
from lrexp.runs.sweep import EQUAL, MISSING, Sweep, SweepPoint

MOST_ROWS = 60  # configurations


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
    values = [p.best[monitor] for one in drawn for p in finished(one, monitor)]
    if not values:
        return Markup()
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 1.0
    share = is_share(monitor)
    names = list(dict.fromkeys(one.group for one in ranked))

    def at(value: float) -> str:
        return f"{100 * (value - low + room) / (high - low + 2 * room):.2f}%"

    rows = []
    for one in drawn:
        places = [
            (at(value), href_of(p), f"{point_label(one, p)}: {value_text(value, share, 4)}")
            for p in finished(one, monitor)
            for value in [p.best[monitor]]
        ]
        if one.worth.n > 1:  # the mean, which leads nowhere
            places.insert(0, (at(one.worth.mean), None, mean_label(one, one.worth, share)))
        colour = names.index(one.group) % len(COLOURS)
        remark = "" if one.whole else counted(one.counts)
        rows.append((one.name, remark, colour, places, worth_text(sweep, one.worth)))
    ends = [value_text(low, share), value_text(high, share)]
    return tags.lanes(f"{monitor} at the best epoch", rows, ends)


def href_of(point: SweepPoint) -> str | None:
    """Of the point's report or folder; None where there is nothing to open."""
    nothing = point.status in (MISSING, EQUAL)
    return None if nothing else quote(f"{point.folder}/{REPORT if point.report else ''}")


def link_to(point: SweepPoint) -> Markup:
    """The point's number, as a link where there is something to open."""
    href = href_of(point)
    made = Markup('<a href="{}">{}</a>').format(href, point.num)
    return made if href else escape(point.num)
