"""What is said of a comparison: the sentence that may be quoted, and what belongs beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lrexp.config.errors import few
from lrexp.judge.comparison import Compared
from lrexp.judge.conclusion import Conclusion, Row
from lrexp.judge.contenders import Contender
from lrexp.judge.noise import Sample
from lrexp.judge.verdicts import GUESSES
from lrexp.judge.words import capital
from lrexp.runs.scores import Tried


def sentence(found: Conclusion) -> str:
    """What may be quoted: of every configuration how it compares with the baseline."""
    base = next((row for row in found.rows if row.baseline), None)
    rows = [row for row in found.rows if row.compared]
    if base is None or not rows:
        return "Nothing has been compared yet."
    least = min(row.score.n for row in rows)
    seeds = f"{least} to {len(found.seeds)}" if least < len(found.seeds) else f"{least}"
    on = (
        f"on {found.images:,} {found.split} image{'s' * (found.images != 1)} and {seeds}"
        f" seed{'s' * (seeds != '1')}"
    )
    begins = f"Exploratory, {on}:" if found.split == "val" else f"{on[:1].upper()}{on[1:]}:"
    parts = [
        _said(row, base.name if i else _named(base), found, first=not i)
        for i, row in enumerate(rows)
    ]
    return f"{begins} {'; '.join(parts)}."


def _said(row: Row, base: str, found: Conclusion, first: bool) -> str:
    """What came out of one comparison; the first one says what points are of."""
    assert row.compared is not None
    one, points = row.compared, "points"
    if first:
        points = f"points of {found.metric.replace('_', ' ')}"
    low, high = (100 * end for end in one.interval)
    mean = 100 * one.difference.mean
    match one.word:
        case "better":
            by = f"{mean:.1f} {points} [{low:.1f}, {high:.1f}]"
            return f"{_named(row)} is better than {base} by {by}"
        case "worse":
            by = f"{-mean:.1f} {points} [{-high:.1f}, {-low:.1f}]"
            return f"{_named(row)} is worse than {base} by {by}"
    within = "without an interval" if math.isnan(low) else f"[{low:+.1f}, {high:+.1f}]"
    measured = f"{mean:+.1f} {points} {within}"
    if one.word == "no difference" and found.margin is not None:
        most = f"no difference larger than {100 * found.margin:.3g} points"
        beyond = max(-low, high) > 100 * found.margin and one.p_margin is not None
        tests = f", by two one-sided tests (p {one.p_margin:.2g})" if beyond else ""
        return f"{_named(row)} shows {most} to {base}, {measured}{tests}"
    return f"{_named(row)} against {base} is undecided, {measured}{_needs(one, found)}"


def _needs(one: Compared, found: Conclusion) -> str:
    if one.needs is None:
        return ""
    if one.needs.seeds is not None:
        return (
            f", about {one.needs.seeds:,} more seed{'s' * (one.needs.seeds != 1)} would settle it"
        )
    if one.needs.images is not None:
        what = units_in_words(one, found)
        return f", at least {one.needs.images:,} {what} would settle it and seeds would not"
    return ", which nothing in reach would settle"


def units_in_words(one: Compared, found: Conclusion) -> str:
    """What a comparison counts as images: whole groups where images come in groups."""
    grouped = one.difference.images < found.images
    return "groups of test images" if grouped else "test images"


def _named(row: Row) -> str:
    """With its settings, and how many of its seeds count as guesses."""
    inner = ", ".join(filter(None, (row.settings, row.ended and f"of its seeds {row.ended}")))
    return f"{row.name} ({inner})" if inner else row.name


def remarks_on(
    found: Conclusion,
    tried: Tried,
    contenders: Sequence[Contender],
    guess: float,
    looks: Sequence[int] = (),
) -> list[str]:
    """What belongs beside the sentence; `guess` is what a lost seed counts as."""
    said = []
    if found.split == "val":
        said.append(
            "Exploratory, on validation: there is no test split, and the images compared on are"
            f" those that rates and epochs were chosen by ({found.monitor})."
        )
    if "balanced" in found.metric:
        said.append("Accuracy is balanced: every class counts alike, however few images it has.")
    elif tried.labels.ndim == 2:
        said.append("An image counts as right where every one of its labels is.")
    by = sorted({one.seeds for one in contenders})
    count = f"{by[0]}" if len(by) == 1 else f"{by[0]} to {by[-1]}"
    said.append(
        "Configurations were compared, not policies in general: each policy at the settings that"
        f" were best by {found.monitor} over {count} seed{'s' * (by != [1])}."
    )
    said += _untuned(contenders)
    said.append(_varied(tried, found))
    if tried.groups is not None:
        groups = len(np.unique(tried.groups))
        said.append(
            f"Images come in {groups:,} groups ({tried.settings.get('data.group_by')}), which are"
            " what the error is taken over."
        )
        sample = Sample.of(len(tried.images), np.unique(tried.groups, return_inverse=True)[1])
        if doubt := sample.unjudged or sample.caution:
            said.append(f"{capital(doubt)}.")
    if any(row.ended for row in found.rows):
        whose = (
            "1 / classes"
            if "balanced" in found.metric
            else f"the share of {found.split} images that have training's largest class"
        )
        said.append(
            "A seed that diverged or collapsed counts with what a guess is worth,"
            f" {100 * guess:.1f} % ({whose}); such configurations stand below all others."
        )
    said += _guessing(tried, found)
    said += _looks(found, looks) if looks else _tests(found)
    if math.isfinite(found.smallest_margin):
        words = [row.compared.word for row in found.rows if row.compared]
        margin = found.margin
        missed = margin is not None and margin < found.smallest_margin
        said.append(
            "These images can be relied on to show margins from"
            f" {100 * found.smallest_margin:.1f} points up, with however many seeds"
            + (
                f"; {100 * margin:.3g} points are out of reach."
                if missed and margin and "no difference" not in words
                else "."
            )
        )
    return said


def _guessing(tried: Tried, found: Conclusion) -> list[str]:
    """Who has seeds that are worth a guess, but ended as they should: they count as measured."""
    counts: dict[str, int] = {}
    for row in found.rows:
        mine = tried.tries[row.name]  # which may have been stopped before the last seeds
        tries = [mine[seed] for seed in found.seeds if seed in mine]
        guesses = [one for one in tries if not one.lost and set(one.kinds) & set(GUESSES)]
        counts |= {row.name: len(guesses)} if guesses else {}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    return [f"Seeds that learned no more than a guess, as measured: {listed}."] if listed else []


def _tests(found: Conclusion) -> list[str]:
    """How words and intervals, which may seem at odds, go together."""
    words = [row.compared.word for row in found.rows if row.compared]
    parts = []
    if len(words) > 1:
        parts.append(f"verdicts allow for {len(words)} comparisons (Holm), intervals do not")
    if "no difference" in words:
        parts.append(
            "no difference means that the 90 % interval lies within the margin (two one-sided"
            " tests at 5 %)"
        )
    return [f"{capital('; '.join(parts))}."] if parts else []


def _looks(found: Conclusion, looks: Sequence[int]) -> list[str]:
    """How the error was spent over looks."""
    count = sum(row.compared is not None for row in found.rows)
    shared = f", shared among {count} comparisons (Holm)" if count > 1 else ""
    times = f"at up to {len(looks)} looks ({', '.join(map(str, looks))} seeds), which share the 5 %"
    if len(looks) == 1:
        times = f"at {looks[0]} seeds"
    spent = " (O'Brien and Fleming)" * (len(looks) > 1)
    words = [row.compared.word for row in found.rows if row.compared]
    margin = " No difference is two one-sided tests at the level of a look, for one comparison."
    return [
        f"It was decided {times}{spent}{shared}. An interval is that of the look it comes from, and"
        f" leaves zero out where the word is better or worse.{margin * ('no difference' in words)}"
    ]


def _untuned(contenders: Sequence[Contender]) -> list[str]:
    """Who was tried less often than others, or is best at the edge of what was tried."""
    lacks: dict[tuple[str, str], list[str]] = {}
    for one in contenders:
        if one.lacks:
            lacks.setdefault((one.lacks, one.add), []).append(one.name)
    parts = [
        f"{few(names)} ({why}; add {add})" if add else f"{few(names)} ({why})"
        for (why, add), names in lacks.items()
    ]
    return [f"Not tuned: {', '.join(parts)}."] if parts else []


def _varied(tried: Tried, found: Conclusion) -> str:
    """What one seed had otherwise than another, and what all had alike."""
    settings = tried.settings
    parts = []
    if tried.fresh is None:
        parts.append("the initial values of whatever no weights were loaded for")
    elif tried.fresh:
        parts.append(f"the initial values of {tried.fresh:,} tensors")
    parts.append("the order of the images")
    if settings.get("data.augment") not in (None, "none"):
        parts.append("their augmentation")
    if settings.get("model.dropout"):
        parts.append("dropout")
    elif "model.library" in settings:
        parts.append("dropout where the network has any")
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    kept = f"data.seed={settings.get('data.seed')}"
    return f"A seed moves {listed}; which images are trained and tested on stays ({kept})."
