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
from lrexp.folder.layout import LEADERBOARD_TABLE, REPORT
from lrexp.judge.exploring import Standing
from lrexp.judge.ranking import Configuration, Group, compared_by, has_rate_axis
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
    link,
    number,
    page,
    plus_minus,
    table_of,
    tags,
    without_home,
)
from lrexp.report.sweep.exploration import Exploration, explore
from lrexp.report.sweep.figures import (
    curve_figures,
    curves_lead,
    dot_rows,
    dots_lead,
    rate_figures,
    rates_lead,
)
from lrexp.report.sweep.headline import headline, interval_text
from lrexp.report.sweep.maps import heat_figures, heat_lead, rate_map
from lrexp.report.sweep.origin import mattered, origin, points_have, remarks, unfinished
from lrexp.report.sweep.parallel import parallel_figure, parallel_lead
from lrexp.report.sweep.words import counted, link_to, plural, value_text, worth_text
from lrexp.runs.sweep import (
    DAMAGED,
    DIVERGED,
    FAILED,
    FINISHED,
    RATE,
    REPEATED,
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
    return write_explored(explore(read_sweep(folder)))


def write_explored(explored: Exploration) -> Path:
    """The same of a sweep that has been read and explored."""
    file = explored.sweep.folder / REPORT
    refuse_foreign(file, MARK)
    write_atomically(file, sweep_page(explored))
    return file


def sweep_page(explored: Exploration) -> str:
    """The report as a whole HTML file."""
    sweep, ranked, found = explored.sweep, explored.ranked, explored.groups
    word, _ = compared_by(sweep)
    over_rates = list(rate_figures(sweep, ranked).values()) if has_rate_axis(ranked) else []
    rates = [*over_rates, *filter(None, [rate_map(sweep, ranked) if over_rates else None])]
    settings, curves = (list(map(drawn, f(sweep, ranked))) for f in (heat_figures, curve_figures))
    together = [drawn(one)] if (one := parallel_figure(sweep, ranked)) else []
    by = "Policies" if word == "policy" else f"By {word}"
    sections = [
        Section("Rates", join(*map(drawn, rates)), rates_lead(sweep, ranked))
        if rates
        else Section("Results", dot_rows(sweep, ranked), dots_lead(sweep, ranked)),
        Section(by, _group_table(explored, word), _groups_lead(found, word)),
        Section("Leaderboard", leaderboard_table(sweep, ranked), _board_lead(sweep, ranked)),
        Section("Two settings", tags.grid(settings, 380), heat_lead(sweep)),
        Section("All settings", join(*together), parallel_lead(sweep)),
        Section("What mattered", mattered(sweep)),
        Section("Curves", tags.grid(curves, 270), curves_lead(sweep, ranked)),
        Section("Not finished" if sweep.unfinished else "Equal points", unfinished(sweep)),
        Section("Remarks", remarks(sweep), "What points were told before their first step."),
        Section("How it was made", origin(sweep)),
    ]
    title = f"{headline(explored).title} · {sweep.folder.name}"
    return without_home(page(title, top_of(explored), sections, "sweep"))


def top_of(explored: Exploration) -> Markup:
    """What stands above the sections: which is best, how many ran, what to know of it."""
    sweep, ranked, found = explored.sweep, explored.ranked, explored.groups
    word, _ = compared_by(sweep)
    first = headline(explored)
    counts = Counter(point.status for point in sweep.tried)
    all_alike = [tags.badge(s) for s in STATUSES if counts[s] == len(sweep.tried)]
    notes = list(sweep.notes)
    if damaged := counts[DAMAGED]:
        have = points_have(damaged)
        notes.append(f"{have} damaged files and no part in any figure: see Not finished")
    return tags.head(
        [f"sweep {sweep.folder.name}", join(*all_alike)],
        first.title,
        " ".join(first.sentences).replace(" ± ", "\u00a0±\u00a0"),
        [
            _figures(sweep, ranked, found, word, counts),
            tags.notes(first.advice),
            tags.notes(notes, "warning"),
        ],
    )


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
    seeds = len({point.repetition for point in sweep.tried} - {(None, None)})
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
    tries = {group.tries for group in found}
    often = f", out of {max(tries)} that were tried" if len(tries) == 1 and max(tries) > 1 else ""
    flattered = (
        " It was picked among its tries by the same images that it is judged by, which flatters"
        " whoever had more tries."
    )
    lead = f"Every {word} at its best configuration{often}; mean ± standard error over seeds."
    return lead + flattered * any(group.tries > 1 for group in found)


def _group_table(explored: Exploration, word: str) -> Markup:
    sweep, found = explored.sweep, explored.groups
    if not found:
        return Markup()
    first = found[0]
    tried_rates = any(len(group.rates) > 1 for group in found)
    rates = len({group.best.rate for group in found}) > 1 or tried_rates
    several = len(found) > 1
    standing = {one.rank: s for one, s in zip(explored.rivals, explored.standings, strict=True)}
    unfinished = any(group.counts[FINISHED] < group.counts.total() for group in found)
    caption = f"every {word} at its best; ± is the standard error over seeds"
    won = no_winner(sweep.tried) is None

    def mark(group: Group) -> str:
        return "best" if won and group is first else ""

    def measured(key: str) -> Any:
        """Cells of a metric's mean over seeds; False where nobody has it, or it decides."""
        if key == sweep.monitor or not any(group.best.over_seeds(key).n for group in found):
            return False

        def cell(group: Group) -> Cell:
            spread = group.best.over_seeds(key)
            return Cell(plus_minus(spread.mean, spread.se, share=is_share(key)), spread.mean)

        return cell

    columns = [
        (Column(word), lambda g: Cell(g.name, g.name, mark=mark(g))),
        (
            Column(sweep.monitor, number=True, hint="mean ± standard error over seeds"),
            lambda g: Cell(worth_text(sweep, g.best.worth), g.best.worth.mean, mark=mark(g)),
        ),
        several
        and (
            Column("behind", number=True, hint="the best; ± standard error"),
            lambda g: _behind(sweep, standing.get(g.best.rank)),
        ),
        several
        and (
            Column("told apart", hint="from the best, by more than seeds and images explain"),
            lambda g: _told(standing.get(g.best.rank)),
        ),
        rates and (Column("best rate", number=True), _rate),
        tried_rates
        and (
            Column("tuned", hint="whether its own best is known: tried as often as others, inside"),
            lambda g: _tuned(explored, g),
        ),
        any(group.best.variant for group in found)
        and (
            Column("settings", hint="what else was swept, at the best"),
            lambda g: g.best.variant or "–",
        ),
        *_measures(measured),
        (
            Column("found", hint="what its runs came to by their last epoch"),
            lambda g: counted_kinds(g.best.kinds) or ("nothing" if g.best.worth.n else "–"),
        ),
        (Column("time", number=True, hint="of a run, mean over seeds"), _took),
        (
            Column("gap", number=True, hint="val/loss − train_eval/loss at the best epoch"),
            lambda g: Cell(plus_minus(g.best.gap.mean, g.best.gap.se), g.best.gap.mean),
        ),
        len({group.best.worth.n for group in found}) > 1 and (SEEDS, lambda g: g.best.worth.n),
        len({group.tries for group in found}) > 1
        and (
            Column("tries", number=True, hint="configurations tried"),
            lambda g: Cell(str(g.tries), g.tries, f"{g.counts.total()} points"),
        ),
        unfinished and (Column("not finished"), lambda g: _ends(g.counts)),
    ]
    board = link(LEADERBOARD_TABLE, LEADERBOARD_TABLE)
    return table_of(columns, found, board, caption=caption, tall=True)


def _measures(measured: Any) -> list[Any]:
    """Columns of what stands beside the monitor."""
    named = [
        ("val/accuracy", Column("val acc", number=True)),
        ("val/loss", Column("val/loss", number=True)),
        ("test/accuracy", Column("test acc", number=True, hint="nothing is chosen by it")),
    ]
    return [(column, cell) for key, column in named if (cell := measured(key))]


def _rate(group: Group) -> Cell:
    best = group.best
    if best.rate is None or not best.worth.n:
        return Cell("–")
    if best.own_rate:
        return Cell(f"{best.rate:.4g} (own)", best.rate, "the highest of its own rates")
    return Cell(f"{best.rate:.4g}", best.rate)


def _took(group: Group) -> Cell:
    took = [p.took_s for p in group.best.points if math.isfinite(p.took_s)]
    mean = sum(took) / len(took) if took else math.nan
    return Cell(duration(mean), mean)


def _accuracy(mean: float, se: float = math.nan) -> Cell:
    return Cell(plus_minus(mean, se, share=True), mean)


def _ends(counts: Counter[str]) -> Cell:
    return Cell(element("span", counted(counts) or "–", "why"), counts.total() - counts[FINISHED])


def _tuned(explored: Exploration, group: Group) -> Cell:
    between = f"{group.rates[0]:.4g} … {group.rates[-1]:.4g}" if group.rates else ""
    tried = f"{plural(len(group.rates), 'rate')} tried, {between}"
    if group.unstable_from is not None:
        tried += f"; diverges at {group.unstable_from:.4g}"
    if not group.best.worth.n:
        return Cell("–")
    tuning = explored.tunings[group.name]
    if not tuning.lacks:
        return Cell("yes", "yes", tried)
    _, _, values = tuning.add.partition("=")
    shown = f"no: add {values.replace(',', ', ')}" if values else "no"
    hint = f"{tuning.lacks}; add {tuning.add}" if values else tuning.lacks
    return Cell(shown, "no", f"{hint}; {tried}", "bad")


def _behind(sweep: Sweep, standing: Standing | None) -> Cell:
    if standing is None:
        return Cell("–")
    scale = 100 if is_share(sweep.monitor) else 1
    said = plus_minus(scale * standing.behind, scale * standing.se, 2)
    hint = "no interval: too few seeds in common"
    if not math.isnan(standing.margin):
        hint = f"95 % interval over all comparisons: {interval_text(sweep, standing)}"
    return Cell(said, standing.behind, hint, "" if standing.clear else "quiet")


WHY = {
    "unfinished": "seeds missing",
    "seeds": "too few seeds",
    "tuning": "not tuned",
    "images": "images unknown",
}


def _told(standing: Standing | None) -> Cell:
    """Whether one is behind, or why nothing is claimed."""
    if standing is None:
        return Cell("–")
    if standing.clear:
        return Cell("behind", 1)
    if standing.behind <= standing.margin:
        return Cell("no", 0, mark="quiet")
    return Cell(WHY[standing.why], -1, mark="quiet")


def _board_lead(sweep: Sweep, ranked: Sequence[Configuration]) -> str:
    bad = any(one.counts[s] for one in ranked for s in (DIVERGED, FAILED))
    after = "; those with a diverged or failed point come after all others" if bad else ""
    by = f"{best_is(sweep.monitor)} mean {sweep.monitor}"
    return f"Configurations by {by} over their seeds{after}. A click on a heading sorts."


def leaderboard_table(sweep: Sweep, ranked: Sequence[Configuration]) -> Markup:
    if not ranked:
        return Markup()
    swept = [key for key in swept_keys(sweep.points) if key not in REPEATED]
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
    how = {"search": len(ranked) > 12, "caption": "leaderboard"}
    return table_of(columns, ranked, link(LEADERBOARD_TABLE, LEADERBOARD_TABLE), **how)


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
