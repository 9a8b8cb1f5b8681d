"""report.html of a sweep: which policy and rate is best, by how much, and what became of each run.

Built from the files of the sweep's folder alone.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lrexp.config.names import shown_path
from lrexp.folder.files import write_atomically
from lrexp.folder.layout import LEADERBOARD, LEADERBOARD_TABLE, MULTIRUN, PLOTS, POINTS, REPORT
from lrexp.judge.ranking import (
    Configuration,
    Group,
    compared_by,
    configurations,
    difference,
    groups,
    has_rate_axis,
)
from lrexp.judge.words import in_short, is_share, value_in_short
from lrexp.report.figure import Figure
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import (
    Cell,
    Column,
    Html,
    Section,
    badge,
    code_block,
    definitions,
    duration,
    element,
    facts,
    grid,
    head,
    join,
    link,
    notes,
    number,
    page,
    percent,
    plus_minus,
    table,
    without_home,
)
from lrexp.report.sweep.figures import (
    curve_figures,
    curves_lead,
    dot_rows,
    dots_lead,
    heat_figures,
    heat_lead,
    href_of,
    rate_figures,
    rates_lead,
)
from lrexp.report.sweep.words import (
    accuracy_text,
    counted,
    headline,
    plural,
    status_words,
    value_text,
    worth_text,
)
from lrexp.runs.sweep import (
    DAMAGED,
    DIVERGED,
    EQUAL,
    FINISHED,
    MISSING,
    RATE,
    STATUSES,
    Sweep,
    SweepPoint,
    read_sweep,
    swept_keys,
)


def write_sweep_report(folder: Path) -> Path:
    """Write report.html into a sweep's folder.

    Returns:
        The file. Whatever is missing or damaged in the folder is listed in it.
    """
    file = folder / REPORT
    write_atomically(file, sweep_page(read_sweep(folder)))
    return file


def sweep_page(sweep: Sweep) -> str:
    """The report as a whole HTML file."""
    ranked = configurations(sweep)
    word, _ = compared_by(sweep)
    found = groups(ranked)
    title, sentences = headline(sweep, ranked)
    top = head(
        [f"sweep {sweep.folder.name}", _status_badges(sweep)],
        title.replace(" ± ", "\u00a0±\u00a0"),
        " ".join(sentences),
        _figures(sweep, ranked, found, word),
        notes([*sweep.notes, *_warnings(sweep)], "warning"),
    )
    rates = rate_figures(sweep, ranked) if has_rate_axis(ranked) else {}
    settings, curves = heat_figures(sweep, ranked), curve_figures(sweep, ranked)
    sections = [
        Section("Rates", join(*map(drawn, rates.values())), rates_lead(sweep, ranked))
        if rates
        else Section("Results", dot_rows(sweep, ranked), dots_lead(sweep, ranked)),
        Section(_title(word), _group_table(sweep, found, word), _groups_lead(sweep, found, word)),
        Section("Leaderboard", _leaderboard(sweep, ranked), _board_lead(sweep, ranked)),
        Section("Two settings", _side_by_side(settings, 380), heat_lead(sweep)),
        Section("Curves", _side_by_side(curves, 270), curves_lead(sweep, ranked)),
        Section("Not finished" if sweep.unfinished else "Equal points", _unfinished(sweep)),
        Section("How it was made", _origin(sweep)),
    ]
    return without_home(page(f"{title} · {sweep.folder.name}", top, sections, "sweep"))


def _side_by_side(figures: Sequence[Figure], narrowest: int) -> Html:
    return grid(*map(drawn, figures), narrowest=narrowest) if figures else Html("")


def _title(word: str) -> str:
    return {"policy": "Policies"}.get(word, f"By {word}")


def _status_badges(sweep: Sweep) -> Html:
    counts = Counter(point.status for point in sweep.tried)
    shown = [badge(f"{status}") for status in STATUSES if counts[status] == len(sweep.tried)]
    return join(*shown)


def _figures(
    sweep: Sweep, ranked: Sequence[Configuration], found: Sequence[Group], word: str
) -> Html | None:
    if not ranked:
        return None
    counts = Counter(point.status for point in sweep.tried)
    others = [f"{counts[s]} {status_words(s)}" for s in STATUSES[1:] if counts[s]]
    equal = len(sweep.points) - len(sweep.tried)
    if equal:
        others.append(f"{equal} equal to others")
    seeds = {point.seed for point in sweep.tried} - {None}
    lowest = "lowest" if sweep.sign == 1 else "highest"
    took = sum(p.took_s for p in sweep.tried if math.isfinite(p.took_s))
    items = [
        ("points", f"{counts[FINISHED]} / {len(sweep.tried)}", ", ".join(others) or "all finished"),
        ("configurations", str(len(ranked)), plural(len(found), word)),
        ("seeds", str(len(seeds) or "–"), "tries of one configuration" if len(seeds) > 1 else ""),
        ("decided by", sweep.monitor, f"{lowest} is best"),
        ("took", duration(took), "summed over the points"),
    ]
    return facts(items)


def _warnings(sweep: Sweep) -> list[str]:
    damaged = [p for p in sweep.tried if p.status == DAMAGED]
    if not damaged:
        return []
    said = "damaged files and no part in any figure: see Not finished"
    return [f"{_points_have(len(damaged))} {said}"]


def _groups_lead(sweep: Sweep, found: Sequence[Group], word: str) -> str:
    if not found:
        return ""
    parts = [f"Every {word} at its best configuration, mean ± standard deviation over seeds."]
    if any(group.tries > 1 for group in found):
        parts.append(
            "It was picked among its tries by the same images that it is judged by, which flatters "
            "whoever had more tries."
        )
    return " ".join(parts)


def _group_table(sweep: Sweep, found: Sequence[Group], word: str) -> Html:
    if not found:
        return Html("")
    variants = any(group.best.variant for group in found)
    rates = any(len(group.rates) > 1 for group in found)
    with_rate = len({group.best.rate for group in found}) > 1 or rates
    tests = any(group.best.test.n for group in found)
    several = len(found) > 1
    unfinished = any(group.counts[FINISHED] < group.points for group in found)
    columns = [
        Column(word),
        Column(sweep.monitor, number=True, hint="mean ± standard deviation over seeds"),
        *([Column("behind", number=True, hint="the best; ± half of the 95 % interval")] * several),
        *([Column("best rate", number=True)] * with_rate),
        *([Column("in its grid", hint="whether a better rate may lie outside")] * rates),
        *([Column("settings", hint="what else was swept, at the best")] * variants),
        Column("seeds", number=True, hint="that finished"),
        Column("gap", number=True, hint="val/loss − train_eval/loss at the best epoch"),
        *([Column("test", number=True, hint="accuracy; nothing is chosen by it")] * tests),
        Column("tries", number=True, hint="configurations tried"),
        *([Column("not finished")] * unfinished),
    ]
    caption = f"every {word} at its best; ± over seeds is the standard deviation"
    caption += ", after behind half of the 95 % interval" * several
    rows = []
    for place, group in enumerate(found):
        best = group.best
        known = best.rate is not None and best.worth.n > 0
        rate = Cell(f"{best.rate:.4g}", best.rate) if known else Cell("–")
        if known and best.own_rate:
            rate = Cell(f"{best.rate:.4g} (own)", best.rate, "the highest of its own rates")
        worth = worth_text(sweep, best.worth) if best.worth.n else "–"
        missing = group.points - group.counts[FINISHED]
        rows.append(
            [
                Cell(group.name, group.name, mark="best" if place == 0 else ""),
                Cell(worth, best.worth.mean, mark="best" if place == 0 else ""),
                *([_behind(sweep, found[0].best, best, place)] * several),
                *([rate] * with_rate),
                *([_edge_cell(group)] * rates),
                *([best.variant or "–"] * variants),
                best.worth.n,
                Cell(plus_minus(best.gap.mean, best.gap.std), best.gap.mean),
                *([Cell(accuracy_text(best.test), best.test.mean)] * tests),
                Cell(str(group.tries), group.tries, f"{group.points} points"),
                *([Cell(_wrapped(counted(group.counts)), missing)] * unfinished),
            ]
        )
    return table(columns, rows, caption=caption, tall=True)


def _edge_cell(group: Group) -> Cell:
    between = f"{group.rates[0]:.4g} … {group.rates[-1]:.4g}" if group.rates else ""
    tried = f"{len(group.rates)} rates tried, {between}"
    if group.unstable_from is not None:
        tried += f"; diverges at {group.unstable_from:.4g}"
    match group.edge if group.best.worth.n else "":
        case "lower":
            return Cell("lowest: try lower", "lower", tried, "bad")
        case "upper":
            return Cell("highest: try higher", "upper", tried, "bad")
        case "inside":
            return Cell("inside", "inside", tried)
        case _:
            return Cell("one rate" if group.best.worth.n else "–")


def _behind(sweep: Sweep, best: Configuration, other: Configuration, place: int) -> Cell:
    if place == 0 or not other.worth.n or not best.worth.n:
        return Cell("–")
    ahead = difference(best, other, sweep.sign)
    scale = 100 if is_share(sweep.monitor) else 1
    if math.isnan(ahead.margin):
        return Cell(number(scale * ahead.mean, 2), ahead.mean, "one seed: no interval")
    said = plus_minus(scale * ahead.mean, scale * ahead.margin)
    hint = "more than the seeds explain" if ahead.clear else "the seeds alone could make this"
    return Cell(said, ahead.mean, hint, "" if ahead.clear else "quiet")


def _board_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    lowest = "lowest" if sweep.sign == 1 else "highest"
    said = f"Configurations by {lowest} mean {sweep.monitor} over their seeds"
    bad = any(one.counts[s] for one in ranked for s in (DIVERGED, "failed"))
    after = "; those with a diverged or failed point come after all others" if bad else ""
    return f"{said}{after}. A click on a heading sorts."


def _leaderboard(sweep: Sweep, ranked: Sequence[Configuration]) -> Html:
    if not ranked:
        return Html("")
    word, _ = compared_by(sweep)
    cases = word == "case"
    swept = [key for key in swept_keys(sweep.points) if key != "seed"]
    given = Counter(key for one in ranked for key in one.points[0].chosen)
    keys = [key for key in swept if key == RATE or 2 * given[key] >= len(ranked)]
    rest = [key for key in swept if key not in keys]  # those that few have share a column
    ends = [key.rpartition(".")[2] for key in keys]
    heads = [
        Column(end if ends.count(end) == 1 else key, number=_numeric(ranked, key), hint=key)
        for key, end in zip(keys, ends, strict=True)
    ]
    tests = any(one.test.n for one in ranked)
    bad = any(not one.whole for one in ranked)
    share = is_share(sweep.monitor)
    spread = any(one.worth.n > 1 for one in ranked)
    columns = [
        Column("#", number=True),
        *([Column("case")] * cases),
        *heads,
        *([Column("settings")] if rest else []),
        Column(sweep.monitor, number=True),
        *([Column("± std", number=True)] * spread),
        Column("gap", number=True),
        *([Column("test", number=True, hint="accuracy; nothing is chosen by it")] * tests),
        Column("seeds", number=True, hint="that finished"),
        *([Column("not finished")] * bad),
        Column("runs", hint="number of the point; opens its report or folder"),
    ]
    rows = []
    for one in ranked:
        chosen = one.points[0].chosen
        rows.append(
            [
                one.rank,
                *([one.points[0].case] * cases),
                *(_setting(chosen.get(k), h.number) for k, h in zip(keys, heads, strict=True)),
                *([in_short({key: chosen.get(key) for key in rest}) or "–"] if rest else []),
                Cell(value_text(one.worth.mean, share, 4), one.worth.mean),
                *([Cell(value_text(one.worth.std, share, 2), one.worth.std)] * spread),
                Cell(number(one.gap.mean), one.gap.mean),
                *([Cell(percent(one.test.mean), one.test.mean)] * tests),
                one.worth.n,
                *([Cell(_wrapped(counted(one.counts)), -one.counts[FINISHED])] * bad),
                Cell(_run_links(one.points), one.points[0].num),
            ]
        )  # fmt: skip
    return table(columns, rows, search=len(rows) > 12, caption="leaderboard")


def _numeric(ranked: Sequence[Configuration], key: str) -> bool:
    given = [one.points[0].chosen.get(key) for one in ranked]
    return all(_as_number(text) is not None for text in given if text is not None)


def _as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _setting(text: str | None, numeric: bool) -> Cell:
    if text is None:
        return Cell("–")
    return Cell(value_in_short(text), _as_number(text) if numeric else text)


def _run_links(points: Sequence[SweepPoint]) -> Html:
    made = [
        element("a", str(p.num), href=href) if (href := href_of(p)) else str(p.num) for p in points
    ]
    return join(*(part for one in made for part in (" ", one)))


def _unfinished(sweep: Sweep) -> Html:
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
            Cell(_wrapped(p.why), p.why),
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


def _origin(sweep: Sweep) -> Html:
    """The command, how to go on, and where everything is."""
    parts = []
    if sweep.command:
        parts.append(element("p", "The command that made it:"))
        parts.append(code_block(f"lrexp -m {shlex.join(sweep.command)}"))
    undone = [p for p in sweep.tried if p.status not in (FINISHED, DIVERGED)]
    where = shlex.quote(without_home(shown_path(sweep.folder)))
    if undone and sweep.resumable:
        said = f"{_points_have(len(undone))} no result. To run what is missing:"
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


def _wrapped(text: str) -> Html:
    """Text of a cell that may take several lines."""
    return element("span", text or "–", class_="why")


def _points_have(count: int) -> str:
    return "1 point has" if count == 1 else f"{count} points have"
