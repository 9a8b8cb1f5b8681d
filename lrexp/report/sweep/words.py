"""What a sweep report says: the headline, names, numbers in words, and links to points."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from urllib.parse import quote

from markupsafe import Markup, escape

from lrexp.folder.layout import REPORT
from lrexp.judge.ranking import Configuration, Spread, compared_by, difference, groups
from lrexp.judge.verdicts import counted_kinds
from lrexp.judge.winner import no_winner, runs_in_words
from lrexp.judge.words import best_is, capital, is_share
from lrexp.report.html.page import number, percent, plus_minus
from lrexp.runs.sweep import DAMAGED, EQUAL, FINISHED, MISSING, STATUSES, Sweep, SweepPoint

STATUS_WORDS = {
    MISSING: "never started",
    "running": "running or killed",
    DAMAGED: "with damaged files",
}


def headline(sweep: Sweep, ranked: Sequence[Configuration]) -> tuple[str, list[str]]:
    """What came out, as a title and sentences under it.

    The best configuration, how far it is ahead of the next policy (or, with one policy, of the
    next configuration), whether the seeds alone could explain that, its test accuracy, whether it
    overfits, and how the points ended. Where nothing is worth choosing, what to do.
    """
    ends = _endings(Counter(point.status for point in sweep.tried))
    if came_to := counted_kinds(Counter(kind for point in sweep.tried for kind in point.kinds)):
        ends = f"{ends} By their last epoch {came_to}."
    if not sweep.points:
        return "No point has been run", ["The folder holds no run that can be read."]
    best = ranked[0]
    if nothing := no_winner(sweep.tried):
        became, advice = nothing
        return f"No winner: {became}", [f"What may help: {advice}.", ends]
    if not best.worth.n:
        return "No point has finished", [ends]
    word, _ = compared_by(sweep)
    value = worth_text(sweep, best.worth)
    others = [group.best for group in groups(ranked)[1:] if group.best.worth.n]
    rivals = others or [one for one in ranked[1:] if one.worth.n]
    rates = len({one.rate for one in ranked}) > 1  # otherwise it goes without saying
    named = _named(best, rates)
    if not rivals:
        finished = " that finished" if len(ranked) > 1 else ""
        over = f" over {best.worth.n} seeds" if best.worth.n > 1 else ", one seed"
        said = f"The only configuration{finished}: {sweep.monitor} {value}{over}."
        return f"{named}: {sweep.monitor} {value}", [said, *_of_winner(best), ends]
    rival, next_one = rivals[0], word if others else "configuration"
    who = f"the next {next_one}, {_named(rival, rates)} ({worth_text(sweep, rival.worth)})"
    title = f"{named} has the {best_is(sweep.monitor)} {sweep.monitor}: {value}"
    return title, [_comparison(sweep, best, rival, who), *_of_winner(best), ends]


def _of_winner(best: Configuration) -> list[str]:
    """Its test accuracy, where there is one, and whether it overfits."""
    test = best.test
    over = f" over {test.n} seeds" if test.n > 1 else ""
    said = f"Its test accuracy is {plus_minus(test.mean, test.se, share=True)}{over}"
    known = test.n and math.isfinite(test.mean)
    return [*([f"{said}; nothing was chosen by it."] if known else []), runs_in_words(best)]


def _comparison(sweep: Sweep, best: Configuration, rival: Configuration, who: str) -> str:
    def plain(value: float) -> str:
        if not is_share(sweep.monitor):
            return number(value, 2)
        return f"{100 * value:.1f} points".replace("-", "−")

    ahead = difference(best, rival, sweep.sign)
    if ahead.mean == 0:
        return f"Exactly as good as {who}."
    if ahead.mean < 0:  # a rival that is ranked below for a point that diverged or failed
        by = plain(-ahead.mean)
        return f"{capital(who)} is ahead by {by}, but has points that went wrong."
    said = f"{plain(ahead.mean)} {'lower' if sweep.sign == 1 else 'higher'} than {who}"
    if math.isnan(ahead.margin):
        return f"{said}; with one seed nothing tells how much of that is chance."
    low, high = plain(ahead.mean - ahead.margin), plain(ahead.mean + ahead.margin)
    pairs = f"{ahead.pairs} seeds in pairs" if ahead.pairs else "seeds unpaired"
    interval = f"(95 % interval {low.removesuffix(' points')} to {high}, {pairs})"
    clear = "more than the seeds explain", "the seeds alone could make that difference"
    return f"{said}: {clear[not ahead.clear]} {interval}."


def _endings(counts: Counter[str]) -> str:
    total = counts.total()
    if counts[FINISHED] == total:
        return "The point finished." if total == 1 else f"All {total} points finished."
    listed = " and ".join(counted(counts).rsplit(", ", 1))
    return f"{counts[FINISHED]} of {total} points finished, {listed}."


def counted(counts: Counter[str]) -> str:
    """Of points that have not finished: `2 diverged, 1 never started`."""
    there = [status for status in STATUSES[1:] if counts[status]]
    return ", ".join(f"{counts[status]} {STATUS_WORDS.get(status, status)}" for status in there)


def _named(one: Configuration, with_rate: bool) -> str:
    """A configuration in running text: `layerwise_decay decay=0.5 at lr 0.1`."""
    name = " ".join(filter(None, (one.group, one.variant)))
    if one.rate is None or not with_rate:
        return name
    own = f" (its own rates, up to {one.rate:.4g})"
    return f"{name}{own}" if one.own_rate else f"{name} at lr {one.rate:.4g}"


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
    seed = f", seed {point.seed}" if len(one.points) > 1 else ""
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
