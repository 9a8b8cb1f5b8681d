"""How a sweep was made and how to go on with it, and the points that have no result."""

from __future__ import annotations

import shlex

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
    parts = [table_of(columns, bad, **how)] if bad else []
    for status, said in ((MISSING, "never started"), (EQUAL, "equal to another point, not run")):
        these = [p for p in sweep.points if p.status == status]
        shown = "; ".join(
            f"{p.num} {named(p)}" + (f" (as {p.same_as})" if p.same_as is not None else "")
            for p in these[:40]
        )
        more = f" and {len(these) - 40} more" if len(these) > 40 else ""
        if these:
            what = element("b", f"{len(these)} {said}: ")
            parts.append(element("p", join(what, f"{shown}{more}.")))
    return join(*parts)


def mattered(sweep: Sweep) -> Markup:
    """How much each setting of a search set good trials apart; nothing for other sweeps."""
    try:
        found = (read_leaderboard(sweep.folder) or {})["importance"]
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
    made = dict.fromkeys(remark for point in sweep.tried for remark in point.remarks)
    on = {remark: [point for point in sweep.tried if remark in point.remarks] for remark in made}

    def named(remark: str) -> Cell:
        if len(on[remark]) == len(sweep.tried):
            return Cell("all", -1)
        return Cell(Markup(" ").join(map(link_to, on[remark])), on[remark][0].num)

    columns = [
        (Column("remark"), lambda remark: Cell(element("span", remark, "why"), remark)),
        (Column("points"), named),
    ]
    return table_of(columns, list(made), caption="remarks") if made else Markup()


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
