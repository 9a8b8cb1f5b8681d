"""How a sweep was made and how to go on with it, and the points that have no result."""

from __future__ import annotations

import shlex
from typing import Any

from markupsafe import Markup

from lrexp.config.errors import UserError
from lrexp.config.names import shown_path
from lrexp.folder.layout import (
    LEADERBOARD,
    LEADERBOARD_TABLE,
    MULTIRUN,
    PLOTS,
    POINTS,
    POINTS_TABLE,
)
from lrexp.judge.words import in_short
from lrexp.report.html.page import (
    Cell,
    Column,
    element,
    join,
    link,
    table_of,
    tags,
    without_home,
)
from lrexp.report.sweep.words import link_to
from lrexp.runs.sweep import (
    DIVERGED,
    EQUAL,
    FINISHED,
    MISSING,
    STATUSES,
    Sweep,
    SweepPoint,
    read_leaderboard,
    swept_keys,
)

MOST_NAMED = 40  # points in a sentence
MOST_LINKED = 200  # points in a cell


def unfinished(sweep: Sweep) -> Markup:
    """The points without a result and why, and those that run as others."""
    keys = swept_keys(sweep.points)

    def named(point: SweepPoint) -> str:
        return in_short({key: point.chosen.get(key) for key in keys})

    bad = [p for p in sweep.unfinished if p.status != MISSING]
    bad.sort(key=lambda p: (STATUSES.index(p.status), p.num))
    columns = [
        (Column("point", number=True), lambda p: Cell(link_to(p), p.num)),
        (Column("status"), lambda p: Cell(tags.badge(p.status), p.status)),
        (Column("configuration"), lambda p: named(p) or p.folder),
        (Column("why"), lambda p: Cell(element("span", p.why or "–", "why"), p.why)),
    ]
    how = {"search": len(bad) > 12, "caption": "points that did not finish"}
    parts = [table_of(columns, bad, link(POINTS_TABLE, POINTS_TABLE), **how)] if bad else []
    for status, said in ((MISSING, "never started"), (EQUAL, "equal to another point, not run")):
        these = [p for p in sweep.points if p.status == status]
        shown = "; ".join(
            f"{p.num} {named(p)}" + (f" (as {p.same_as})" if p.same_as is not None else "")
            for p in these[:MOST_NAMED]
        )
        more = f" and {len(these) - MOST_NAMED} more" if len(these) > MOST_NAMED else ""
        if these:
            what = element("b", f"{len(these)} {said}: ")
            parts.append(element("p", join(what, f"{shown}{more}.")))
    return join(*parts)


def mattered(sweep: Sweep) -> Markup:
    """How much each setting of a search set good trials apart; nothing for other sweeps."""
    try:
        found: Any = (read_leaderboard(sweep.folder) or {}).get("importance")
        shares = {str(key): float(share) for key, share in found["settings"].items()}
        said = f"PED-ANOVA: what sets the best {found['best']} of {found['trials']} trials apart."
    except (UserError, TypeError, KeyError, ValueError, AttributeError):
        return Markup()
    columns = [
        (Column("setting"), lambda key: key),
        (Column("share", number=True), lambda key: Cell(f"{100 * shares[key]:.0f} %", shares[key])),
    ]
    return table_of(columns, list(shares), caption=said)


def remarks(sweep: Sweep) -> Markup:
    """Every remark once, with the points that it was made on."""
    tried = sweep.tried
    on: dict[str, list[SweepPoint]] = {}
    for point in tried:
        for remark in dict.fromkeys(point.remarks):
            on.setdefault(remark, []).append(point)

    def named(remark: str) -> Cell:
        these = on[remark]
        if len(these) == len(tried):
            return Cell("all", -1)
        links = Markup(" ").join(map(link_to, these[:MOST_LINKED]))
        more = f" and {len(these) - MOST_LINKED} more" if len(these) > MOST_LINKED else ""
        return Cell(links + more, these[0].num)

    columns = [
        (Column("remark"), lambda remark: Cell(element("span", remark, "why"), remark)),
        (Column("points"), named),
    ]
    how = {"caption": "remarks"}
    return table_of(columns, list(on), "summary.json of the points", **how) if on else Markup()


def origin(sweep: Sweep) -> Markup:
    """The command, how to go on, and where everything is."""
    parts = []
    if sweep.command:
        words = [*sweep.before, "-m", *sweep.command]
        parts.append(element("p", "The command that made it:"))
        parts.append(tags.code_block(without_home(f"lrexp {shlex.join(words)}")))
    undone = [p for p in sweep.tried if p.status not in (FINISHED, DIVERGED)]
    where = shlex.quote(without_home(shown_path(sweep.folder)))
    if undone and sweep.resumable:
        said = f"{points_have(len(undone))} no result. To run what is missing:"
        parts.append(element("p", said))
        parts.append(tags.code_block(f"lrexp -m hydra.launcher.resume={where}"))
    files = (LEADERBOARD_TABLE, POINTS_TABLE, LEADERBOARD, POINTS, MULTIRUN, PLOTS)
    links = [link(name, name) for name in files if (sweep.folder / name).exists()]
    reports = sum(point.report for point in sweep.tried)
    pairs = [
        ("files", Markup(" ").join(links)),
        ("runs", f"{reports} of {len(sweep.tried)} points have a report of their own"),
        ("all reports", element("code", f"lrexp report {where} --runs")),
    ]
    return join(*parts, tags.definitions(pairs))


def points_have(count: int) -> str:
    """The beginning of a sentence."""
    return "1 point has" if count == 1 else f"{count} points have"
