"""What a sweep report says: the headline, names of configurations, numbers in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from lrexp.judge.ranking import (
    Configuration,
    Difference,
    Spread,
    compared_by,
    difference,
    groups,
)
from lrexp.judge.words import is_share
from lrexp.report.html.page import number, percent, plus_minus
from lrexp.runs.sweep import DAMAGED, FINISHED, MISSING, STATUSES, Sweep, SweepPoint


def headline(sweep: Sweep, ranked: Sequence[Configuration]) -> tuple[str, list[str]]:
    """What came out, as a title and sentences under it.

    The best configuration, how far it is ahead of the next policy (or, with one policy, of the
    next configuration), whether the seeds alone could explain that, and how the points ended.
    """
    counts = Counter(point.status for point in sweep.tried)
    ends = _endings(counts, len(sweep.tried))
    if not sweep.points:
        return "No point has been run", ["The folder holds no run that can be read."]
    best = ranked[0]
    if not best.worth.n:
        return "No point has finished", [ends]
    word, _ = compared_by(sweep)
    value = worth_text(sweep, best.worth)
    found = groups(ranked)
    others = [group.best for group in found[1:] if group.best.worth.n]
    rivals = others or [one for one in ranked[1:] if one.worth.n]
    rates = len({one.rate for one in ranked}) > 1  # otherwise it goes without saying
    over = f" over {best.worth.n} seeds" if best.worth.n > 1 else ", one seed"
    if not rivals:
        only = len(ranked) == 1
        title = f"{_named(best, rates)}: {sweep.monitor} {value}"
        said = "The only configuration" if only else "The only configuration that finished"
        return title, [f"{said}: {sweep.monitor} {value}{over}.", ends]
    lowest = "lowest" if sweep.sign == 1 else "highest"
    title = f"{_named(best, rates)} has the {lowest} {sweep.monitor}: {value}"
    rival = rivals[0]
    ahead = difference(best, rival, sweep.sign)
    next_one = f"the next {word}" if others else "the next configuration"
    return title, [_comparison(sweep, ahead, f"{next_one}, {_named(rival, rates)}", rival), ends]


def _comparison(sweep: Sweep, ahead: Difference, who: str, rival: Configuration) -> str:
    lower = "lower" if sweep.sign == 1 else "higher"
    theirs = f"{who} ({worth_text(sweep, rival.worth)})"
    if ahead.mean == 0:
        return f"Exactly as good as {theirs}."
    if ahead.mean < 0:  # a rival that is ranked below for a point that diverged or failed
        said = f"{theirs} is ahead by {_plain(sweep, -ahead.mean)}, but has points that went wrong."
        return said[0].upper() + said[1:]
    said = f"{_plain(sweep, ahead.mean)} {lower} than {theirs}"
    if math.isnan(ahead.margin):
        return f"{said}; with one seed nothing tells how much of that is chance."
    low, high = ahead.mean - ahead.margin, ahead.mean + ahead.margin
    interval = (
        f"95 % interval {_plain(sweep, low).removesuffix(' points')} to {_plain(sweep, high)}"
    )
    pairs = f"{ahead.pairs} seeds in pairs" if ahead.pairs else "seeds unpaired"
    if ahead.clear:
        return f"{said}: more than the seeds explain ({interval}, {pairs})."
    return f"{said}: the seeds alone could make that difference ({interval}, {pairs})."


def _endings(counts: Counter[str], total: int) -> str:
    if counts[FINISHED] == total:
        return "The point finished." if total == 1 else f"All {total} points finished."
    parts = [f"{counts[s]} {status_words(s)}" for s in STATUSES[1:] if counts[s]]
    return f"{counts[FINISHED]} of {total} points finished, {_listed(parts)}."


def status_words(status: str) -> str:
    return {
        MISSING: "never started",
        "running": "running or killed",
        DAMAGED: "with damaged files",
    }.get(status, status)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _named(one: Configuration, with_rate: bool) -> str:
    """A configuration in running text: `layerwise_decay decay=0.5 at lr 0.1`."""
    name = " ".join(filter(None, (one.group, one.variant)))
    if one.rate is None or not with_rate:
        return name
    rate = f"lr {one.rate:.4g}"
    return f"{name} (its own rates, up to {one.rate:.4g})" if one.own_rate else f"{name} at {rate}"


def worth_text(sweep: Sweep, worth: Spread) -> str:
    """A mean with its standard deviation."""
    if not is_share(sweep.monitor):
        return plus_minus(worth.mean, worth.std) if worth.n > 1 else number(worth.mean, 4)
    if worth.n > 1:
        return f"{100 * worth.mean:.1f} ± {100 * worth.std:.1f} %"
    return percent(worth.mean)


def _plain(sweep: Sweep, value: float) -> str:
    if not is_share(sweep.monitor):
        return number(value, 2)
    return f"{100 * value:.1f} points".replace("-", "−")


def value_text(value: float, share: bool, digits: int = 3) -> str:
    return percent(value) if share else number(value, digits)


def mean_label(one: Configuration, known: Spread, share: bool) -> str:
    spread = f" ± {value_text(known.std, share, 2)}" if known.n > 1 else ""
    bad = "" if one.whole else f", {counted(one.counts)}"
    seeds = "1 seed" if known.n == 1 else f"{known.n} seeds"
    return f"{one.name}: {value_text(known.mean, share)}{spread} ({seeds}{bad})"


def point_label(one: Configuration, point: SweepPoint) -> str:
    seed = f", seed {point.seed}" if len(one.points) > 1 else ""
    said = point.why if point.status != FINISHED else f"epoch {point.best.get('epoch', 0):.0f}"
    return f"{one.name}{seed}: {said}"


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[s]} {status_words(s)}" for s in STATUSES[1:] if counts[s])


def plural(count: int, word: str) -> str:
    if count == 1:
        return f"1 {word}"
    return f"{count} {word[:-1]}ies" if word.endswith("y") else f"{count} {word}s"


def accuracy_text(test: Spread) -> str:
    if not test.n:
        return "–"
    if test.n == 1:
        return percent(test.mean)
    return f"{100 * test.mean:.1f} ± {100 * test.std:.1f} %"
