"""How a sweep's configurations, points and numbers are named, and links to points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup, escape

from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import Configuration, Spread
from lrexp.judge.words import is_share
from lrexp.report.html.page import number, percent, plus_minus
from lrexp.runs.sweep import DAMAGED, EQUAL, FINISHED, MISSING, STATUSES, Sweep, SweepPoint

STATUS_WORDS = {
    MISSING: "never started",
    "running": "running or killed",
    DAMAGED: "with damaged files",
}


def counted(counts: Counter[str]) -> str:
    """Of points that have not finished: `2 diverged, 1 never started`."""
    there = [status for status in STATUSES[1:] if counts[status]]
    return ", ".join(f"{counts[status]} {STATUS_WORDS.get(status, status)}" for status in there)


def worth_text(sweep: Sweep, worth: Spread) -> str:
    """A mean over seeds with its standard error."""
    return plus_minus(worth.mean, worth.se, 3 if worth.n > 1 else 4, is_share(sweep.monitor))


def value_text(value: float, share: bool, digits: int = 3) -> str:
    return percent(value) if share else number(value, digits)


def mean_label(one: Configuration, known: Spread, share: bool) -> str:
    spread = f" ± {value_text(known.se, share, 2)}" if known.n > 1 else ""
    bad = "" if one.whole else f", {counted(one.counts)}"
    return f"{one.name}: {value_text(known.mean, share)}{spread} ({plural(known.n, 'seed')}{bad})"


def point_label(one: Configuration, point: SweepPoint) -> str:
    seed = f", {said}" if (said := one.repetition_of(point)) else ""
    said = point.why if point.status != FINISHED else f"epoch {point.best.get('epoch', 0):.0f}"
    return f"{one.name}{seed}: {said}"


def plural(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} {word}s"


def href_of(point: SweepPoint) -> str | None:
    """Of the point's report or folder; None where there is nothing to open."""
    nothing = point.status in (MISSING, EQUAL)
    return None if nothing else quote(f"{point.folder}/{REPORT if point.report else ''}")


def link_to(point: SweepPoint) -> Markup:
    """The point's number, as a link where there is something to open."""
    href = href_of(point)
    made = Markup('<a href="{}">{}</a>').format(href, point.num)
    return made if href else escape(point.num)


def listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join(", ".join(names).rsplit(", ", 1)) if len(names) > 1 else "".join(names)
