"""Configurations against a baseline on the test split: better, no difference, or undecided."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrexp.judge.crossed import Crossed, crossed
from lrexp.judge.power import MOST_IMAGES, Noise, images_needed, seeds_needed, smallest

Word = Literal["better", "worse", "no difference", "undecided"]


@dataclass(frozen=True)
class Scores:
    """What one configuration scored: a row per seed, a column per image, both shared by all.

    A seed that diverged or collapsed has a guesser's score in every column: it is never left out.
    """

    right: np.ndarray  # (S, n) float64 in [0, 1]: what the verdict is on
    losses: np.ndarray  # (S, n) float64: per image; NaN in a seed that diverged
    guessed: int = 0  # seeds with a guesser's score

    @property
    def lost(self) -> bool:
        """Whether no seed of it has anything but a guesser's score."""
        return self.guessed >= len(self.right) and bool(np.isnan(self.losses).all())

    def first(self, seeds: int) -> Scores:
        """Of the first seeds alone."""
        return Scores(self.right[:seeds], self.losses[:seeds], self.guessed)


@dataclass(frozen=True)
class Images:
    """What the comparison is measured on: the same images for everybody."""

    weights: np.ndarray | None = None  # (n,) with mean 1; None: all count alike
    clusters: np.ndarray | None = None  # (n,) of data.group_by


@dataclass(frozen=True)
class Needs:
    """What would settle an undecided comparison; both None where nothing in reach would."""

    seeds: int | None  # this many more
    images: int | None  # test images in all, where seeds cannot settle it


@dataclass(frozen=True)
class Compared:
    """One configuration against the baseline. Differences are in shares: 0.02 is 2 points."""

    name: str
    difference: Crossed  # its score minus the baseline's
    interval: tuple[float, float]  # 95 %
    p: float  # two-sided, that there is no difference
    p_adjusted: float  # after Holm, over the comparisons
    p_margin: float | None  # that the difference is beyond the margin: the larger of two one-sided
    word: Word
    needs: Needs | None  # of an undecided one
    loss: Crossed | None  # of test losses, without a verdict; None where a seed has none
    disagrees: bool  # loss and score point different ways


def compare(
    scores: Mapping[str, Scores],
    baseline: str,
    images: Images,
    margin: float | None = None,
    level: float = 0.05,
    comparisons: int | None = None,
    plan: bool = True,
) -> list[Compared]:
    """Every configuration but the baseline, in the order given.

    Better (worse): p after Holm below `level`. No difference: two one-sided tests at `level` both
    exclude a difference beyond the margin. Otherwise undecided, with what would settle it. A test
    and its interval are Student's t with the one error of `judge.crossed`; fewer than three seeds
    decide nothing. One of which every seed was lost is never better, whatever a guess is worth:
    undecided, and nothing settles it. The interval is for one comparison, p after Holm for all of
    them: an undecided one may have an interval that leaves zero out, a better one always has.

    Args:
        scores: of everyone on the same seeds and images, the baseline among them.
        margin: in shares, above zero; None: *no difference* is never said.
        level: of each test; the interval has 1 − level.
        comparisons: that count for Holm, where some have left before; by default those here.
        plan: whether to work out what undecided ones need, which costs more than all the rest.

    Raises:
        ValueError: scores of different shapes.
    """
    base = scores[baseline]
    others = {name: one for name, one in scores.items() if name != baseline}
    for name, one in others.items():
        if one.right.shape != base.right.shape:
            shapes = f"{one.right.shape}, those of '{baseline}' {base.right.shape}"
            raise ValueError(f"scores of '{name}' have the shape {shapes}")
    differences = [
        crossed(one.right - base.right, images.clusters, images.weights) for one in others.values()
    ]
    count = len(others) if comparisons is None else comparisons
    p = [p_value(one) for one in differences]
    found = []
    for (name, one), difference, raw, adjusted in zip(
        others.items(), differences, p, holm(p, count), strict=True
    ):
        beyond = None if margin is None else p_beyond(difference, margin)
        word: Word = "undecided"
        if adjusted < level:
            better = "undecided" if one.lost else "better"
            word = better if difference.mean > 0 else "worse"
        elif beyond is not None and beyond < level:
            word = "no difference"
        loss = _of_losses(one, base, images)
        found.append(
            Compared(
                name,
                difference,
                interval(difference, level),
                raw,
                adjusted,
                beyond,
                word,
                what_settles(one, difference, count, margin, level)
                if plan and word == "undecided"
                else None,
                loss,
                loss is not None and difference.mean * loss.mean > 0,
            )
        )
    return found


def holm(p: Sequence[float], comparisons: int | None = None) -> list[float]:
    """p after Holm (1979), in the order given: the i-th smallest times (m − i + 1), growing.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Args:
        comparisons: m, where it is more than those here: others are then taken to have larger p.
    """
    count = len(p) if comparisons is None else comparisons
    found, reached = [0.0] * len(p), 0.0
    for i, which in enumerate(sorted(range(len(p)), key=lambda j: p[j])):
        reached = max(reached, min(1.0, (count - i) * p[which]))
        found[which] = reached
    return found


def p_value(difference: Crossed) -> float:
    """Two-sided, that there is no difference; 1 where nothing can be told.

    Where no spread at all was seen (`se` 0), t has nothing to go by. Then all differences are the
    same c, and another one can hide only in images that were not drawn: see `_unseen`.
    """
    if math.isnan(difference.df):
        return 1.0
    if not difference.se:
        return min(1.0, 2 * _unseen(difference, 0.0))
    return 2 * _tail(difference, abs(difference.mean))


def p_beyond(difference: Crossed, margin: float) -> float:
    """That it lies beyond ± margin: the larger of two one-sided p; 1 where nothing can be told.

    Raises:
        ValueError: a margin that is not above zero.
    """
    if not margin > 0:
        raise ValueError(f"margin {margin} is not above zero")
    if math.isnan(difference.df) or abs(difference.mean) >= margin:
        return 1.0
    if not difference.se:
        return max(_unseen(difference, margin), _unseen(difference, -margin))
    return _tail(difference, margin - abs(difference.mean))


def interval(difference: Crossed, level: float = 0.05) -> tuple[float, float]:
    """What it lies between with probability 1 − level; NaN where nothing can be told."""
    from scipy.special import stdtrit

    if math.isnan(difference.df):
        return math.nan, math.nan
    mean = difference.mean
    if not difference.se:
        share = 1 - (level / 2) ** (1 / (difference.image_df + 1))
        reach = max(1.0, abs(mean))
        return mean - share * (reach + mean), mean + share * (reach - mean)
    half = float(stdtrit(difference.df, 1 - level / 2)) * difference.se
    return (mean - half, mean + half) if math.isfinite(half) else (-math.inf, math.inf)


def needs_of(
    difference: Crossed, comparisons: int, margin: float | None = None, level: float = 0.05
) -> Needs:
    """What would settle it, were the difference seen the true one, with a power of 80 %.

    That is whichever comes first, to tell it from zero or (with a margin) to show that it lies
    within. Of one seed nothing is known but that three are the least. Where no spread at all was
    seen, p follows from the number of images alone: no seed settles it.
    """
    if difference.seeds < 2:
        return Needs(3 - difference.seeds, None)
    if not difference.se and not math.isnan(difference.df):
        return Needs(None, _images_alike(difference, comparisons, margin, level))
    noise = Noise.of(difference)
    if math.isnan(noise.image):
        return Needs(None, None)
    ways = [None] if margin is None or abs(difference.mean) >= margin else [None, margin]
    asked = [(noise, difference.mean, comparisons, way, level) for way in ways]
    seeds = [seeds_needed(a, b, difference.images, c, d, e) for a, b, c, d, e in asked]
    if any(seeds):
        least = min(number for number in seeds if number)
        return Needs(max(1, 3 - difference.seeds, least - difference.seeds), None)
    images = [images_needed(a, b, comparisons=c, margin=d, level=e) for a, b, c, d, e in asked]
    enough = [number for number in images if number]
    return Needs(None, max(min(enough), difference.images + 1) if enough else None)


def what_settles(
    one: Scores, difference: Crossed, comparisons: int, margin: float | None, level: float
) -> Needs:
    """As `needs_of`; nothing does where every seed was lost, which is never better."""
    if one.lost and difference.mean > 0:
        return Needs(None, None)
    return needs_of(difference, comparisons, margin, level)


def _images_alike(
    difference: Crossed, comparisons: int, margin: float | None, level: float
) -> int | None:
    """So many images that all differ by the same c would decide; None where a million are too few.

    Their p is that of one image to the power of their number, see `_unseen`.
    """
    one = replace(difference, image_df=0.0)
    ways = [(_unseen(one, 0.0), level / comparisons / 2)] if difference.mean else []
    if margin is not None:
        ways.append((p_beyond(one, margin), level))
    counts = [math.log(bound) / math.log(p) for p, bound in ways if 0 < p < 1]
    each = difference.images / (difference.image_df + 1)  # of unequal weight, more than one
    if not counts or each * min(counts) > MOST_IMAGES:
        return None
    return max(difference.images + 1, math.floor(each * min(counts)) + 1)


def smallest_margin(differences: Sequence[Compared]) -> float:
    """The smallest margin these images can show with any number of seeds: 2.9·√(s²_image/n).

    s²_image is what is left of it with seeds without end. The largest over the comparisons that are
    neither better nor worse (over all, where there is none such): all of them can be shown to lie
    within it. NaN where no error is known.
    """
    equal = [one for one in differences if one.word not in ("better", "worse")]
    found = []
    for one in equal or differences:
        noise = Noise.of(one.difference)
        if not math.isnan(noise.image):
            unseen = 1 - 0.05 ** (1 / (one.difference.image_df + 1))
            found.append(smallest(noise, one.difference.images) or unseen)
    return max(found, default=math.nan)


def _tail(difference: Crossed, off: float) -> float:
    """The chance that t exceeds `off` in standard errors."""
    from scipy.special import stdtr

    return float(stdtr(difference.df, -off / difference.se))


def _unseen(difference: Crossed, truth: float) -> float:
    """How likely images that all differ by c are, were the true mean another.

    Scores lie between 0 and 1. The mean is moved from c to `truth` by a share q of images at the
    far end (−1 or 1) at least, and n drawn images hold none of those with probability (1 − q)ⁿ.
    """
    mean = difference.mean
    end = max(1.0, abs(mean)) * (1 if truth > mean else -1)
    if truth == mean or abs(truth) >= abs(end):
        return float(truth == mean)
    return (1 - (truth - mean) / (end - mean)) ** (difference.image_df + 1)


def _of_losses(one: Scores, base: Scores, images: Images) -> Crossed | None:
    """The difference of test losses: plain means, whatever weights the score has."""
    if one.losses.shape != base.losses.shape:
        return None
    if not (np.isfinite(one.losses).all() and np.isfinite(base.losses).all()):
        return None
    return crossed(one.losses - base.losses, images.clusters)
