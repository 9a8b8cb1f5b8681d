"""How a sweep was made and how to go on with it, and the points that have no result."""

from __future__ import annotations

import shlex

from lrexp.config.names import shown_path
from lrexp.folder.layout import LEADERBOARD, LEADERBOARD_TABLE, MULTIRUN, PLOTS, POINTS
from lrexp.judge.words import in_short
from lrexp.report.html.page import (
    Cell,
    Column,
    Html,
    badge,
    code_block,
    definitions,
    element,
    join,
    link,
    table,
    without_home,
)
from lrexp.report.sweep.dots import href_of
from lrexp.runs.sweep import DIVERGED, EQUAL, FINISHED, MISSING, STATUSES, Sweep, swept_keys


def unfinished(sweep: Sweep) -> Html:
    """The points without a result and why, and those that run as others."""
    keys = swept_keys(sweep.points)
    order = {status: place for place, status in enumerate(STATUSES)}
    bad = sorted(
        (p for p in sweep.unfinished if p.status != MISSING),
        key=lambda p: (order[p.status], p.num),
    )
    rows = [
        [
            Cell(element("a", str(p.num), href=href_of(p)), p.num),
            Cell(badge(p.status), p.status),
            in_short({key: p.chosen.get(key) for key in keys}) or p.folder,
            Cell(wrapped(p.why), p.why),
        ]
        for p in bad
    ]
    columns = [Column("point", number=True), "status", "configuration", "why"]
    parts = (
        [table(columns, rows, search=len(rows) > 12, caption="points that did not finish")]
        if rows
        else []
    )
    for status, said in ((MISSING, "never started"), (EQUAL, "equal to another point, not run")):
        these = [p for p in sweep.points if p.status == status]
        if these:
            shown = "; ".join(
                f"{p.num} {in_short({key: p.chosen.get(key) for key in keys})}"
                + (f" (as {p.same_as})" if p.same_as is not None else "")
                for p in these[:40]
            )
            more = f" and {len(these) - 40} more" if len(these) > 40 else ""
            parts.append(element("p", element("b", f"{len(these)} {said}: "), f"{shown}{more}."))
    return join(*parts)


def origin(sweep: Sweep) -> Html:
    """The command, how to go on, and where everything is."""
    parts = []
    if sweep.command:
        parts.append(element("p", "The command that made it:"))
        parts.append(code_block(f"lrexp -m {shlex.join(sweep.command)}"))
    undone = [p for p in sweep.tried if p.status not in (FINISHED, DIVERGED)]
    where = shlex.quote(without_home(shown_path(sweep.folder)))
    if undone and sweep.resumable:
        said = f"{points_have(len(undone))} no result. To run what is missing:"
        parts.append(element("p", said))
        parts.append(code_block(f"lrexp -m hydra.launcher.resume={where}"))
    files = [
        (name, link(name, name))
        for name in (LEADERBOARD_TABLE, LEADERBOARD, POINTS, MULTIRUN, PLOTS)
        if (sweep.folder / name).exists()
    ]
    reports = sum(point.report for point in sweep.tried)
    said = f"{reports} of {len(sweep.tried)} points have a report of their own"
    pairs: list[tuple[str, Html | str]] = [
        ("files", join(*(part for _, one in files for part in (one, " ")))),
        ("runs", said),
        ("all reports", element("code", f"lrexp report {where} --runs")),
    ]
    parts.append(definitions(pairs))
    return join(*parts)


def wrapped(text: str) -> Html:
    """Text of a cell that may take several lines."""
    return element("span", text or "–", class_="why")


def points_have(count: int) -> str:
    """The beginning of a sentence."""
    return "1 point has" if count == 1 else f"{count} points have"
