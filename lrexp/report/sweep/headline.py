"""What a sweep report says first: what came out, how surely, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from dataclasses import dataclass

from lrexp.config.names import shown_path
from lrexp.config.schema import direction
from lrexp.judge.exploring import Standing, needs
from lrexp.judge.ranking import Configuration
from lrexp.judge.verdicts import counted_kinds
from lrexp.judge.winner import no_winner, runs_in_words
from lrexp.judge.words import best_is, capital, is_share
from lrexp.report.html.page import number, plus_minus, without_home
from lrexp.report.sweep.exploration import Exploration
from lrexp.report.sweep.words import counted, listed, plural, worth_text
from lrexp.runs.sweep import FINISHED, Sweep

# Beside the monitor: what a winner may lose by, in words.
OTHER_MEASURES = {
    "val/accuracy": "val accuracy",
    "test/accuracy": "test accuracy",
    "test/loss": "test loss",
}
MOST_TOLD = 6  # policies that are named in one sentence
FEW_SEEDS = 4  # for choosing rates


@dataclass(frozen=True)
class Headline:
    """What came out, and what to do next."""

    title: str  # without a number: the best of several is flattered by being chosen
    sentences: tuple[str, ...]
    advice: tuple[str, ...] = ()  # what would settle it, who was not tuned, how to get a verdict

    @property
    def text(self) -> str:
        """All of it but the title."""
        return " ".join((*self.sentences, *self.advice))


def headline(explored: Exploration) -> Headline:
    """The best configuration and whether anything is told from it.

    By how much the next one is behind, with an interval; who does better on test or in accuracy;
    whether the best overfits, and how the points ended. Where nothing is worth choosing, what to
    do.
    """
    sweep, ranked = explored.sweep, explored.ranked
    ends = _endings(Counter(point.status for point in sweep.tried))
    if came_to := counted_kinds(Counter(kind for point in sweep.tried for kind in point.kinds)):
        ends = f"{ends} By their last epoch {came_to}."
    if not sweep.points:
        return Headline("No point has been run", ("The folder holds no run that can be read.",))
    if nothing := no_winner(sweep.tried):
        became, advice = nothing
        return Headline(f"No winner: {became}", (f"What may help: {advice}.", ends))
    best = explored.best
    if not best.worth.n:
        return Headline("No point has finished", (ends,))
    value = f"{sweep.monitor} {worth_text(sweep, best.worth)}"
    over = f"over {best.worth.n} seeds" if best.worth.n > 1 else "with one seed"
    if not explored.rivals:
        finished = " that finished" if len(ranked) > 1 else ""
        said = f"The only configuration{finished}: {value} {over}."
        title = f"Exploratory: {_named(explored, best)}, the only configuration{finished}"
        return Headline(title, (said, *_of_winner(best), ends))
    chosen = sum(one.worth.n > 0 for one in ranked)
    mine = f"Its {value} {over} is the best of {chosen} by the same numbers, which flatters it."
    against = _contradictions(explored)
    of_test = [] if any("test accuracy" in one for one in against) else _test_of(best)
    return Headline(
        _title(explored),
        (
            *(_comparison(explored), *_others_behind(explored), *against),
            *(mine, *of_test, runs_in_words(best), ends),
        ),
        (*_settled(explored), *_untuned(explored), *_verdict(explored)),
    )


def one_line(explored: Exploration) -> str:
    """The title for a terminal; empty where the leaderboard has said that nothing is worth it."""
    said = headline(explored).title
    return "" if no_winner(explored.sweep.tried) else said.replace("Exploratory", "exploratory", 1)


def _title(explored: Exploration) -> str:
    sweep, best = explored.sweep, explored.best
    clear = [_named(explored, one) for one, s in _pairs(explored) if s.clear]
    has = f"{_named(explored, best)} has the {best_is(sweep.monitor)} {sweep.monitor}"
    lost = [label for label, _, _ in _lost(explored)]
    but = f" but not the best {listed(lost)}" if lost else ""
    verb = "is" if len(clear) == 1 else "are"
    if not clear:
        said = f"no other {explored.word} is shown to be behind"
    elif len(clear) == len(explored.rivals):
        said = f"{clear[0]} is behind" if len(clear) == 1 else "all others are behind"
    else:
        who = listed(clear) if len(clear) <= 3 else f"{len(clear)} others"
        said = f"{who} {verb} behind, the rest is not told apart"
    return f"Exploratory: {has}{but}; {said}"


def _pairs(explored: Exploration) -> list[tuple[Configuration, Standing]]:
    return list(zip(explored.rivals, explored.standings, strict=True))


def _of_winner(best: Configuration) -> list[str]:
    """Its test accuracy, where there is one, and whether it overfits."""
    return [*_test_of(best), runs_in_words(best)]


def _test_of(best: Configuration) -> list[str]:
    test = best.test
    over = f" over {test.n} seeds" if test.n > 1 else ""
    said = f"Its test accuracy is {plus_minus(test.mean, test.se, share=True)}{over}"
    known = test.n and math.isfinite(test.mean)
    return [f"{said}; nothing was chosen by it."] if known else []


def plain(sweep: Sweep, value: float) -> str:
    """A difference of the monitor; of shares in points."""
    if not is_share(sweep.monitor):
        return number(value, 2)
    return f"{100 * value:.1f} points".replace("-", "−")


def interval_text(sweep: Sweep, standing: Standing) -> str:
    """`−0.01 to 0.05`: of 95 %, for all differences to the best at once."""
    low, high = (plain(sweep, end) for end in standing.interval)
    return f"{low.removesuffix(' points')} to {high}"


def _comparison(explored: Exploration) -> str:
    """How far the next one is behind."""
    sweep, (rival, standing) = explored.sweep, _pairs(explored)[0]
    who = f"the next {explored.word}, {_named(explored, rival)}"
    if standing.behind < 0:  # ranked below for a point that diverged or failed
        by = plain(sweep, -standing.behind)
        return f"{capital(who)}, is ahead by {by}, but has points that went wrong."
    if standing.behind == 0:
        return f"It is exactly as good as {who}."
    said = f"{plain(sweep, standing.behind)} {'lower' if sweep.sign == 1 else 'higher'} than {who}"
    if standing.seeds < 2 or math.isnan(standing.se):
        return f"It is {said}; {_reason(standing)}."
    scale = 100 if is_share(sweep.monitor) else 1
    error = plus_minus(scale * standing.behind, scale * standing.se)
    unit = " points" if is_share(sweep.monitor) else ""
    direction = "lower" if sweep.sign == 1 else "higher"
    images = f" and {standing.images:,} images" if standing.images else ""
    said = f"It is {error}{unit} {direction} than {who} ({standing.seeds} seeds{images} in pairs"
    if math.isnan(standing.margin):
        return f"{said}); {_reason(standing)}."
    said = f"{said}; 95 % interval over all comparisons {interval_text(sweep, standing)})"
    if standing.clear:
        return f"{said}: more than seeds and images explain."
    if standing.behind <= standing.margin:
        return f"{said}: not told apart."
    return f"{said}; no claim: {_reason(standing)}."


def _reason(standing: Standing) -> str:
    """Why nothing is claimed."""
    match standing.why:
        case "seeds" if standing.seeds < 2:
            return "with one seed nothing tells how much of that is chance"
        case "seeds" if standing.seeds == 2:
            return "two seeds claim nothing"
        case "seeds":
            return "fewer than three seeds or splits claim nothing"
        case "unfinished":
            return "one of the two lacks seeds, or has points that went wrong"
        case "tuning":
            return "not both are tuned"
        case _:
            return "the images' error is not known"


def _settled(explored: Exploration) -> list[str]:
    """What would tell the next one from the best, where its interval does not."""
    standing = explored.standings[0]
    if not standing.noise or not standing.behind > 0 or standing.behind > standing.margin:
        return []
    needed, size = needs(standing), plain(explored.sweep, standing.behind)
    if needed.seeds:
        seeds = plural(needed.seeds, "more seed")
        return [f"About {seeds} would tell a difference of {size}."]
    measured = standing.noise[0].crossed
    if needed.images and measured:
        groups = " groups of" * (measured.images < standing.images)
        few = f"on these {measured.images:,}{groups} images: it takes at least {needed.images:,}"
        return [f"No number of seeds tells a difference of {size} {few}."]
    return [f"A difference of {size} is too small for any number of seeds or images in reach."]


def _others_behind(explored: Exploration) -> list[str]:
    """Who else is behind, with the intervals."""
    sweep = explored.sweep
    told = [
        f"{_named(explored, one)} by {plain(sweep, s.behind)} ({interval_text(sweep, s)})"
        for one, s in _pairs(explored)[1:]
        if s.clear
    ]
    more = f" and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return [f"Behind by more than seeds and images explain: {', '.join(told[:MOST_TOLD])}{more}."
            ] if told else []  # fmt: skip


def _lost(explored: Exploration) -> list[tuple[str, str, Configuration]]:
    """Measures by which another policy's best does better: label, key, and which does best."""
    best, found = explored.best, []
    for key, label in OTHER_MEASURES.items():
        sign = 1 if direction(key.replace("test/", "val/")) == "min" else -1
        mine = best.over_seeds(key).mean
        if key == explored.sweep.monitor or not math.isfinite(mine):
            continue
        known = [one for one in explored.rivals if math.isfinite(one.over_seeds(key).mean)]
        first = min(known, key=lambda one: sign * one.over_seeds(key).mean, default=None)
        if first and sign * first.over_seeds(key).mean < sign * mine:
            found.append((label, key, first))
    return found


def _contradictions(explored: Exploration) -> list[str]:
    """Where the best by the monitor is not the best by accuracy or on test."""
    said: dict[int, list[str]] = {}
    named: dict[int, str] = {}
    for label, key, first in _lost(explored):
        share = is_share(key)
        theirs, mine = (
            plus_minus(s.mean, s.se, 3, share)
            for s in (first.over_seeds(key), explored.best.over_seeds(key))
        )
        said.setdefault(first.rank, []).append(f"{label} ({theirs} against {mine})")
        named[first.rank] = _named(explored, first)
    return [f"{named[rank]} is ahead by {listed(some)}." for rank, some in said.items()]


def _untuned(explored: Exploration) -> list[str]:
    """Who was not tuned, and what to add."""
    if explored.word == "configuration":
        return []
    told = []
    for group in explored.groups:
        tuning = explored.tunings[group.name]
        if tuning.lacks and group.best.worth.n:
            add = f" (add {tuning.add})" if tuning.add else ""
            told.append(f"{group.name}, {tuning.lacks}{add}")
    more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
    return [f"Not tuned, so nothing is claimed of: {'; '.join(told[:MOST_TOLD])}{more}."
            ] if told else []  # fmt: skip


def _verdict(explored: Exploration) -> list[str]:
    """What the seeds are good for, and how to come to a verdict."""
    if explored.word == "configuration":
        return []
    said, seeds = [], explored.best.worth.n
    if any(s.why == "images" for s in explored.standings):
        said.append(
            f"How far the images decide is not known of {explored.sweep.monitor}, so nothing is"
            " claimed."
        )
    few = f"{capital(_spelled(seeds))} for choosing rates, not for a verdict: "
    where = shlex.quote(without_home(shown_path(explored.sweep.folder)))
    told = few if seeds <= FEW_SEEDS else "For a verdict: "
    return [*said, f"{told}lrexp confirm {where} trains the best of each on fresh seeds."]


def _spelled(seeds: int) -> str:
    return {1: "one seed is", 2: "two seeds are", 3: "three seeds are"}.get(
        seeds, f"{seeds} seeds are"
    )


def _endings(counts: Counter[str]) -> str:
    total = counts.total()
    if counts[FINISHED] == total:
        return "The point finished." if total == 1 else f"All {total} points finished."
    listed = " and ".join(counted(counts).rsplit(", ", 1))
    return f"{counts[FINISHED]} of {total} points finished, {listed}."


def _named(explored: Exploration, one: Configuration) -> str:
    """A configuration in running text: `layerwise_decay decay=0.5 at lr 0.1`.

    A rate that all have goes without saying.
    """
    name = " ".join(filter(None, (one.group, one.variant)))
    if one.rate is None or not explored.rates_differ:
        return name
    own = f" (its own rates, up to {one.rate:.4g})"
    return f"{name}{own}" if one.own_rate else f"{name} at lr {one.rate:.4g}"
