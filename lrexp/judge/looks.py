"""Looking several times, at more and more seeds: how the error is spent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lrexp.judge.comparison import Compared, Images, Scores, compare, interval, what_settles

LOOKS = (5, 10, 20)  # seeds


def levels(looks: Sequence[int] = LOOKS, level: float = 0.05) -> tuple[float, ...]:
    """The levels of the looks, which add up to `level`: what O'Brien and Fleming's spending adds.

    α(t) = 2 − 2Φ(z / √t), t = seeds / most seeds, z the two-sided quantile of `level`
    (Lan and DeMets 1983). As levels of their own they add up whatever ties the looks to each other.

    >>> [f"{one:.5f}" for one in levels((5, 10, 20))]
    ['0.00009', '0.00549', '0.04443']
    """
    from scipy.special import ndtr, ndtri

    if list(looks) != sorted(set(looks)) or not looks or looks[0] < 1:
        raise ValueError(f"looks are numbers of seeds that grow, not {tuple(looks)}")
    z = float(ndtri(1 - level / 2))
    spent = [2 * float(ndtr(-z / math.sqrt(at / looks[-1]))) for at in looks]
    return tuple(now - before for before, now in zip([0.0, *spent], spent, strict=False))


def looked(
    scores: Mapping[str, Scores],
    baseline: str,
    images: Images,
    margin: float | None = None,
    looks: Sequence[int] = LOOKS,
    level: float = 0.05,
    plan: bool = True,
) -> list[Compared]:
    """What all looks so far came to, every configuration but the baseline, in the order given.

    A look takes the first seeds of everyone, as many as it asks for, and compares whoever was not
    decided before; a word other than *undecided* is final. The margin is tested at the level of the
    look likewise. Holm's procedure counts those that stopped earlier as if they were still there,
    with larger p: the smallest p of those left is multiplied by the number of all comparisons. So
    a true null is never tested above its share of the look's level, however the others ended.

    The whole is worked out again from the scores, and gives the same whenever it is asked: nothing
    is to be remembered between looks. `open_at` says who needs how many seeds next.

    The interval beside a word agrees with it: it leaves zero out exactly where the word is better
    or worse (or would be better, had not every seed been lost). Its level is that of the look,
    shared among the comparisons as Holm's test shared it.
    Over all looks together it covers the truth in 95 % of procedures, wherever they stop.

    Args:
        scores: rows are the same seeds in the same order for all; one that was decided, or not got
            so far, may have fewer.
        plan: whether to work out what undecided ones need.

    Returns:
        A configuration as of the look that decided it, or the last that it has seeds for
        (`difference.seeds`). Before the first look: as of the seeds there are, undecided.
    """
    shares = levels(looks, level)
    others = [name for name in scores if name != baseline]
    have = {name: min(_seeds(scores[name]), _seeds(scores[baseline])) for name in others}
    found: dict[str, Compared] = {}
    for at, share in zip(looks, shares, strict=True):
        left = [n for n in others if have[n] >= at and (n not in found or _open(found[n]))]
        found |= _look(scores, baseline, left, images, margin, at, share, len(others))
    for name in others:
        if name not in found:  # shown, not judged: no level has been spent on it yet
            at = have[name]
            early = _look(scores, baseline, [name], images, margin, at, shares[0], len(others))
            found[name] = replace(early[name], word="undecided")
        if plan and _open(one := found[name]):
            wanted = (scores[name], one.difference, len(others), margin, shares[-1])
            found[name] = replace(one, needs=what_settles(*wanted))
    return [found[name] for name in others]


def open_at(compared: Sequence[Compared], looks: Sequence[int] = LOOKS) -> tuple[int, list[str]]:
    """The next look (its number of seeds), and who has to be there; 0 and nobody at the end."""
    left = [one for one in compared if _open(one)]
    following = [at for at in looks if left and at > min(one.difference.seeds for one in left)]
    if not following:
        return 0, []
    return following[0], [one.name for one in left if one.difference.seeds < following[0]]


def _look(
    scores: Mapping[str, Scores],
    baseline: str,
    names: Sequence[str],
    images: Images,
    margin: float | None,
    at: int,
    level: float,
    comparisons: int,
) -> dict[str, Compared]:
    """One look at the first `at` seeds of those named."""
    if not names:
        return {}
    there = {name: scores[name].first(at) for name in (baseline, *names)}
    found = compare(there, baseline, images, margin, level, comparisons, plan=False)
    return {one.name: replace(one, interval=_interval(one, level, comparisons)) for one in found}


def _interval(one: Compared, level: float, comparisons: int) -> tuple[float, float]:
    """At the level that Holm's test left to it; the least where p is too small to be a number."""
    share = one.p / one.p_adjusted if one.p_adjusted else 1 / comparisons
    return interval(one.difference, level * share)


def _open(one: Compared) -> bool:
    return one.word == "undecided"


def _seeds(scores: Scores) -> int:
    return scores.right.shape[0]
