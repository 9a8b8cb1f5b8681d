"""report.html of a sweep: which policy and rate is best, by how much, and what became of each run.

Built from the files of the sweep's folder alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lrexp.folder.files import refuse_foreign, write_atomically
from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import (
    Configuration,
    Group,
    compared_by,
    configurations,
    difference,
    groups,
    has_rate_axis,
)
from lrexp.judge.verdicts import counted_kinds
from lrexp.judge.winner import no_winner
from lrexp.judge.words import best_is, in_short, is_share, value_in_short
from lrexp.report.html.charts import drawn
from lrexp.report.html.page import (
    MARK,
    Cell,
    Column,
    Section,
    duration,
    element,
    join,
    number,
    page,
    plus_minus,
    table_of,
    tags,
    without_home,
)
from lrexp.report.sweep.figures import (
    curve_figures,
    curves_lead,
    dot_rows,
    dots_lead,
    rate_figures,
    rates_lead,
)
from lrexp.report.sweep.maps import heat_figures, heat_lead, rate_map
from lrexp.report.sweep.origin import origin, points_have, remarks, unfinished
from lrexp.report.sweep.parallel import parallel_figure, parallel_lead
from lrexp.report.sweep.words import counted, headline, link_to, plural, value_text, worth_text
from lrexp.runs.sweep import (
    DAMAGED,
    DIVERGED,
    FAILED,
    FINISHED,
    RATE,
    STATUSES,
    Sweep,
    read_sweep,
    swept_keys,
)

TEST = Column("test", number=True, hint="accuracy; nothing is chosen by it")
SEEDS = Column("seeds", number=True, hint="that finished")


def write_sweep_report(folder: Path) -> Path:
    """Write report.html into a sweep's folder.

    Returns:
        The file. Whatever is missing or damaged in the folder is listed in it.
    """
    file = folder / REPORT
    refuse_foreign(file, MARK)
    write_atomically(file, sweep_page(read_sweep(folder)))
    return file


def sweep_page(sweep: Sweep) -> str:
    """The report as a whole HTML file."""
    ranked = configurations(sweep)
    word, _ = compared_by(sweep)
    found = groups(ranked)
    title, sentences = headline(sweep, ranked)
    counts = Counter(point.status for point in sweep.tried)
    all_alike = [tags.badge(s) for s in STATUSES if counts[s] == len(sweep.tried)]
    notes = list(sweep.notes)
    if damaged := counts[DAMAGED]:
        have = points_have(damaged)
        notes.append(f"{have} damaged files and no part in any figure: see Not finished")
    top = tags.head(
        [f"sweep {sweep.folder.name}", join(*all_alike)],
        title.replace(" ± ", "\u00a0±\u00a0"),
        " ".join(sentences),
        [_figures(sweep, ranked, found, word, counts), tags.notes(notes, "warning")],
    )
    over_rates = list(rate_figures(sweep, ranked).values()) if has_rate_axis(ranked) else []
    rates = [*over_rates, *filter(None, [rate_map(sweep, ranked) if over_rates else None])]
    settings, curves = (list(map(drawn, f(sweep, ranked))) for f in (heat_figures, curve_figures))
    together = [drawn(one)] if (one := parallel_figure(sweep, ranked)) else []
    by = "Policies" if word == "policy" else f"By {word}"
    sections = [
        Section("Rates", join(*map(drawn, rates)), rates_lead(sweep, ranked))
        if rates
        else Section("Results", dot_rows(sweep, ranked), dots_lead(sweep, ranked)),
        Section(by, _group_table(sweep, found, word), _groups_lead(found, word)),
        Section("Leaderboard", _leaderboard(sweep, ranked), _board_lead(sweep, ranked)),
        Section("Two settings", tags.grid(settings, 380), heat_lead(sweep)),
        Section("All settings", join(*together), parallel_lead(sweep)),
        Section("Curves", tags.grid(curves, 270), curves_lead(sweep, ranked)),
        Section("Not finished" if sweep.unfinished else "Equal points", unfinished(sweep)),
        Section("Remarks", remarks(sweep), "What points were told before their first step."),
        Section("How it was made", origin(sweep)),
    ]
    return without_home(page(f"{title} · {sweep.folder.name}", top, sections, "sweep"))


def _figures(
    sweep: Sweep,
    ranked: Sequence[Configuration],
    found: Sequence[Group],
    word: str,
    counts: Counter[str],
) -> Markup:
    if not ranked:
        return Markup()
    equal = len(sweep.points) - len(sweep.tried)
    others = [counted(counts), f"{equal} equal to others" if equal else ""]
    said = ", ".join(filter(None, others)) or "all finished"
    seeds = len({point.seed for point in sweep.tried} - {None})
    took = sum(p.took_s for p in sweep.tried if math.isfinite(p.took_s))
    items = [
        ("points", f"{counts[FINISHED]} / {len(sweep.tried)}", said),
        ("configurations", len(ranked), plural(len(found), word)),
        ("seeds", seeds or "–", "tries of one configuration" if seeds > 1 else ""),
        ("decided by", sweep.monitor, f"{best_is(sweep.monitor)} is best"),
        ("took", duration(took), "summed over the points"),
    ]
    return tags.facts(items)


def _groups_lead(found: Sequence[Group], word: str) -> str:
    flattered = (
        " It was picked among its tries by the same images that it is judged by, which flatters"
        " whoever had more tries."
    )
    lead = f"Every {word} at its best configuration, mean ± standard error over seeds."
    return lead + flattered * any(group.tries > 1 for group in found)


def _group_table(sweep: Sweep, found: Sequence[Group], word: str) -> Markup:
    if not found:
        return Markup()
    first = found[0]
    rates = any(len(group.rates) > 1 for group in found)
    with_rate = len({group.best.rate for group in found}) > 1 or rates
    several = len(found) > 1
    unfinished = any(group.counts[FINISHED] < group.counts.total() for group in found)
    caption = f"every {word} at its best; ± is the standard error over seeds"

    def rate(group: Group) -> Cell:
        best = group.best
        if best.rate is None or not best.worth.n:
            return Cell("–")
        if best.own_rate:
            return Cell(f"{best.rate:.4g} (own)", best.rate, "the highest of its own rates")
        return Cell(f"{best.rate:.4g}", best.rate)

    won = no_winner(sweep.tried) is None

    def mark(group: Group) -> str:
        return "best" if won and group is first else ""

    columns = [
        (Column(word), lambda g: Cell(g.name, g.name, mark=mark(g))),
        (
            Column(sweep.monitor, number=True, hint="mean ± standard error over seeds"),
            lambda g: Cell(worth_text(sweep, g.best.worth), g.best.worth.mean, mark=mark(g)),
        ),
        several
        and (
            Column("behind", number=True, hint="the best; ± standard error over seeds"),
            lambda g: _behind(sweep, first.best, g.best),
        ),
        with_rate and (Column("best rate", number=True), rate),
        rates and (Column("in its grid", hint="whether a better rate may lie outside"), _edge_cell),
        any(group.best.variant for group in found)
        and (
            Column("settings", hint="what else was swept, at the best"),
            lambda g: g.best.variant or "–",
        ),
        (SEEDS, lambda g: g.best.worth.n),
        (
            Column("gap", number=True, hint="val/loss − train_eval/loss at the best epoch"),
            lambda g: Cell(plus_minus(g.best.gap.mean, g.best.gap.se), g.best.gap.mean),
        ),
        any(group.best.test.n for group in found)
        and (TEST, lambda g: _accuracy(g.best.test.mean, g.best.test.se)),
        (
            Column("tries", number=True, hint="configurations tried"),
            lambda g: Cell(str(g.tries), g.tries, f"{g.counts.total()} points"),
        ),
        any(counted_kinds(group.best.kinds) for group in found)
        and (
            Column("found", hint="what its runs came to, at the best configuration"),
            lambda g: counted_kinds(g.best.kinds) or "–",
        ),
        unfinished and (Column("not finished"), lambda g: _ends(g.counts)),
    ]
    return table_of(columns, found, caption=caption, tall=True)


def _accuracy(mean: float, se: float = math.nan) -> Cell:
    return Cell(plus_minus(mean, se, share=True), mean)


def _ends(counts: Counter[str]) -> Cell:
    return Cell(element("span", counted(counts) or "–", "why"), counts.total() - counts[FINISHED])


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


def _behind(sweep: Sweep, best: Configuration, other: Configuration) -> Cell:
    if other is best or not other.worth.n or not best.worth.n:
        return Cell("–")
    ahead = difference(best, other, sweep.sign)
    scale = 100 if is_share(sweep.monitor) else 1
    if math.isnan(ahead.margin):
        return Cell(number(scale * ahead.mean, 2), ahead.mean, "one seed: no interval")
    said = plus_minus(scale * ahead.mean, scale * ahead.se)
    ends = (scale * (ahead.mean - ahead.margin), scale * (ahead.mean + ahead.margin))
    clear = "more than the seeds explain" if ahead.clear else "the seeds alone could make this"
    hint = f"95 % interval {number(ends[0], 2)} to {number(ends[1], 2)}: {clear}"
    return Cell(said, ahead.mean, hint, "" if ahead.clear else "quiet")


def _board_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    bad = any(one.counts[s] for one in ranked for s in (DIVERGED, FAILED))
    after = "; those with a diverged or failed point come after all others" if bad else ""
    by = f"{best_is(sweep.monitor)} mean {sweep.monitor}"
    return f"Configurations by {by} over their seeds{after}. A click on a heading sorts."


def _leaderboard(sweep: Sweep, ranked: Sequence[Configuration]) -> Markup:
    if not ranked:
        return Markup()
    swept = [key for key in swept_keys(sweep.points) if key != "seed"]
    given = Counter(key for one in ranked for key in one.points[0].chosen)
    keys = [key for key in swept if key == RATE or 2 * given[key] >= len(ranked)]
    rest = [key for key in swept if key not in keys]  # those that few have share a column
    share = is_share(sweep.monitor)
    columns: list[Any] = [
        (Column("#", number=True), lambda one: one.rank),
        compared_by(sweep)[0] == "case" and (Column("case"), lambda one: one.points[0].case),
        *(_setting_column(ranked, key, keys) for key in keys),
        rest
        and (
            Column("settings"),
            lambda one: in_short({key: one.chosen.get(key) for key in rest}) or "–",
        ),
        (
            Column(sweep.monitor, number=True),
            lambda one: Cell(value_text(one.worth.mean, share, 4), one.worth.mean),
        ),
        any(one.worth.n > 1 for one in ranked)
        and (
            Column("std", number=True, hint="standard deviation over seeds"),
            lambda one: Cell(value_text(one.worth.std, share, 2), one.worth.std),
        ),
        (Column("gap", number=True), lambda one: Cell(number(one.gap.mean), one.gap.mean)),
        any(one.test.n for one in ranked) and (TEST, lambda one: _accuracy(one.test.mean)),
        (SEEDS, lambda one: one.worth.n),
        any(counted_kinds(one.kinds) for one in ranked)
        and (Column("found"), lambda one: counted_kinds(one.kinds) or "–"),
        not all(one.whole for one in ranked)
        and (Column("not finished"), lambda one: _ends(one.counts)),
        (
            Column("runs", hint="number of the point; opens its report or folder"),
            lambda one: Cell(Markup(" ").join(map(link_to, one.points)), one.points[0].num),
        ),
    ]
    return table_of(columns, ranked, search=len(ranked) > 12, caption="leaderboard")


def _setting_column(
    ranked: Sequence[Configuration], key: str, keys: Sequence[str]
) -> tuple[Column, Any]:
    """A swept key by the last part of its name, where no other ends so."""
    end = key.rpartition(".")[2]
    alone = [other.rpartition(".")[2] for other in keys].count(end) == 1
    typed = {one.points[0].chosen.get(key) for one in ranked}
    numeric = all(_as_number(text) is not None for text in typed - {None})

    def cell(one: Configuration) -> Cell:
        text = one.points[0].chosen.get(key)
        if text is None:
            return Cell("–")
        return Cell(value_in_short(text), _as_number(text) if numeric else text)

    return Column(end if alone else key, number=numeric, hint=key), cell


def _as_number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None
