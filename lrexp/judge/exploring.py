"""Who is behind the best of a sweep, how surely, and what would tell: pure functions over values.

All of it is exploratory: the best was chosen by the very numbers that it is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from lrexp.judge.comparison import Needs
from lrexp.judge.crossed import Crossed, crossed
from lrexp.judge.power import MOST_SEEDS
from lrexp.judge.power import Noise as Components

LEVEL = 0.05  # of sweeps of equal policies may claim anything
LEAST = 3  # repetitions: fewer claim nothing
MOST_IMAGES = 1_000_000  # more would be no advice
ROUNDING = 1e-12  # of the largest value
BEYOND = 0.84  # standard errors: what four of five sweeps tell lies so far beyond the bound
TABULATED = (*range(1, 11), 12, 15, 20, 30, 60, 100_000)  # degrees of freedom, rounded down

Repetition = tuple[Any, Any]  # seed, data.seed
# Why no claim is made whatever the numbers are: repetitions that one of the two lacks, too few of
# them, a best rate that is not known, images whose error is not known. Empty where one could be.
Why = Literal["", "unfinished", "seeds", "tuning", "images"]


@dataclass(frozen=True)
class Tried:
    """A policy, or what else is compared, at its best configuration."""

    name: str
    values: Mapping[Repetition, float]  # of the monitor, of the repetitions that finished
    tries: int = 1  # configurations that the best was chosen from
    whole: bool = True  # every repetition that was asked for finished
    tuned: bool = True  # tried as often as the others, and best within its rates
    # (repetitions, n), a row for each of `values` in their order, whose mean is its value; columns
    # are the same images for all that are compared. NaN: not among the images of that repetition.
    images: np.ndarray | None = None


@dataclass(frozen=True)
class Noise:
    """What the bounds of a difference are made of."""

    tried: int  # that are compared
    judged: int  # that have every repetition of the best
    choices: int  # Bonferroni: the others, or the tries of the best where these are more
    blocks: int  # independent repetitions
    pooled: float  # variance within repetitions, over all that are judged
    own: float  # variance of the difference over repetitions
    crossed: Crossed | None  # over repetitions and images; None where the images are not known


@dataclass(frozen=True)
class Standing:
    """How far one lies behind the best; positive is worse."""

    name: str
    behind: float
    se: float  # over seeds and images; over seeds alone where the images are not known
    margin: float  # half the 95 % interval, which holds for all at once; NaN: cannot be told
    seeds: int  # repetitions compared
    images: int  # 0 where their error is not known
    why: Why
    noise: tuple[Noise, ...] = ()  # one, or by seed and by split where both were repeated

    @property
    def clear(self) -> bool:
        """Whether it is behind: the interval leaves zero out, and nothing forbids the claim."""
        return not self.why and self.behind > self.margin  # false for NaN

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %, for all differences to the best at once."""
        return self.behind - self.margin, self.behind + self.margin


def standings(
    tried: Sequence[Tried], sign: int, clusters: np.ndarray | None = None
) -> list[Standing]:
    """How far all others lie behind the first, which is the best; in the order given.

    One is behind where the difference exceeds √(b² + c²), and no less than each of:

    - b, of seeds, the larger of two. q(K, f) · √(MSE / S) is the studentized range of K policies,
      with the variance within repetitions pooled over all of them, f = (K − 1)(S − 1): the best is
      the extreme of K. t(S − 1) · s / √S is its own paired t, Bonferroni over K − 1, or over the
      tries of the best where these are more: the best may be noisier than all others, and its
      luckiest try.
    - c = q(K, f) / √2 · √(s²_image / n), of the images that decide for all seeds, where t as above
      is no larger. Beside b it is without what seeds move, s²_residual / (S · n), which b has.

    The two parts of the crossed error (`judge.crossed`) have their own quantiles here: among all
    pairs of many policies t of Satterthwaite's degrees of freedom is exceeded too often.

    How often equal policies are claimed to differ is simulated in `scripts/exploratory_table.py`.

    Args:
        tried: best first; those without a value are left out.
        sign: 1 where less is better, -1 where more is.
        clusters: (n,) whatever tells the groups of images apart that are not independent.
    """
    there = [one for one in tried if one.values]
    if len(there) < 2:
        return []
    best, repetitions = there[0], list(there[0].values)
    judged = [one for one in there if all(r in one.values for r in repetitions)]
    values = sign * np.array([[one.values[r] for r in repetitions] for one in judged])
    blockings = _blockings(repetitions)
    pooled = [_pooled(values @ blocks.T) for blocks in blockings]
    places = {id(one): place for place, one in enumerate(judged)}
    choices, found = max(len(there) - 1, best.tries), list[Standing]()
    for other in there[1:]:
        if id(other) not in places:
            found.append(_unpaired(best, other, sign))
            continue
        differences = values[places[id(other)]] - values[0]
        known = len(repetitions) > 1 and best.images is not None and other.images is not None
        images, codes = _of_images(best, other, sign, clusters) if known else (None, None)
        noise = tuple(
            Noise(
                len(there),
                len(judged),
                choices,
                len(blocks),
                mse,
                _variance(blocks @ differences),
                None if images is None else crossed(blocks @ images, codes),
            )
            for blocks, mse in zip(blockings, pooled, strict=True)
        )
        counted = 0 if images is None else images.shape[1]
        found.append(_standing(best, other, float(differences.mean()), noise, counted))
    return found


def needs(standing: Standing) -> Needs:
    """What would tell a difference as large as this one in four of five sweeps, about.

    More seeds; or, where no number of seeds would, so many images. Both are None where there is no
    difference, or nothing in reach would tell it.
    """
    if not standing.behind > 0 or not standing.noise or math.isnan(standing.se):
        return Needs(None, None)
    least = max(noise.blocks for noise in standing.noise)
    for seeds in range(max(least + 1, LEAST), MOST_SEEDS + 1):
        if all(_told_from(noise, seeds) <= standing.behind for noise in standing.noise):
            return Needs(seeds - least, None)
    last = standing.noise[0]
    if last.crossed is None:
        return Needs(None, None)
    bound = student(math.inf, _pairs(last)) + BEYOND
    images = (Components.of(last.crossed).image * bound / standing.behind) ** 2
    if not last.crossed.images < images <= MOST_IMAGES:
        return Needs(None, None)
    unit = 10 ** max(0, math.floor(math.log10(images)) - 1)
    return Needs(None, math.ceil(images / unit) * unit)


def _told_from(noise: Noise, seeds: int) -> float:
    """The difference that so many seeds would tell in four of five sweeps, about.

    Student's t over all pairs takes the place of the studentized range, which is slow.
    """
    own = math.sqrt(noise.own / seeds)
    free = (noise.judged - 1) * (seeds - 1)
    bounds = [
        student(free, _pairs(noise)) * math.sqrt(2 * noise.pooled / seeds) + BEYOND * own,
        (student(seeds - 1, noise.choices) + BEYOND) * own,
    ]
    if one := noise.crossed:
        error, df = Components.of(one).error(np.array(float(seeds)), np.array(float(one.images)))
        bounds.append((student(float(df), _pairs(noise)) + BEYOND) * float(error))
    return max(bounds)


def _pairs(noise: Noise) -> int:
    return noise.tried * (noise.tried - 1) // 2


def _unpaired(best: Tried, other: Tried, sign: int) -> Standing:
    """Of one that lacks repetitions of the best: the mean difference and no more."""
    both = [r for r in best.values if r in other.values]
    mine, theirs = ([one.values[r] for r in both or one.values] for one in (best, other))
    mean = sign * (sum(theirs) / len(theirs) - sum(mine) / len(mine))
    return Standing(other.name, mean, math.nan, math.nan, len(both), 0, "unfinished")


def _standing(
    best: Tried, other: Tried, mean: float, noise: tuple[Noise, ...], images: int
) -> Standing:
    blocks = min(one.blocks for one in noise)
    why: Why = ""
    if not (best.whole and other.whole):
        why = "unfinished"
    elif blocks < LEAST:
        why = "seeds"
    elif not (best.tuned and other.tuned):
        why = "tuning"
    elif not images:
        why = "images"
    errors = [one.crossed.se if one.crossed else math.sqrt(one.own / one.blocks) for one in noise]
    margin = max(map(_margin, noise)) if blocks >= LEAST else math.nan
    return Standing(other.name, mean, max(errors), margin, len(best.values), images, why, noise)


def _margin(noise: Noise) -> float:
    """What a difference must exceed; see `standings`."""
    free = (noise.judged - 1) * (noise.blocks - 1)
    of_seeds = max(
        studentized(noise.tried, free) * math.sqrt(noise.pooled / noise.blocks),
        student(noise.blocks - 1, noise.choices) * math.sqrt(noise.own / noise.blocks),
    )
    if noise.crossed is None:
        return of_seeds
    one = noise.crossed
    errors = max(
        studentized(noise.tried, one.image_df) / math.sqrt(2),
        student(one.image_df, noise.choices),
    )
    of_images = one.image_variance / one.images
    beside_seeds = max(0.0, of_images - one.residual_variance / (one.seeds * one.images))
    both = math.hypot(of_seeds, errors * math.sqrt(beside_seeds))
    return max(both, errors * math.sqrt(of_images))


def student(df: float, comparisons: int = 1) -> float:
    """Student's t that LEVEL / comparisons of draws lie beyond, on both sides together.

    >>> round(student(4), 3), round(student(4, 5), 3)
    (2.776, 4.604)
    """
    from scipy.special import stdtrit

    return float(stdtrit(df, 1 - LEVEL / (2 * comparisons)))


def studentized(tried: int, df: float) -> float:
    """The range of so many normal means over their standard error that LEVEL of draws exceed.

    Of two it is √2 times Student's t; degrees of freedom are rounded down.

    >>> round(studentized(3, 10), 3)
    3.877
    """
    if tried == 2:
        return math.sqrt(2) * student(df)
    return _studentized(tried, max(one for one in TABULATED if one <= max(1.0, df)))


@lru_cache(1024)  # an integral over two dimensions
def _studentized(tried: int, df: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(1 - LEVEL, tried, df))


def _blockings(repetitions: Sequence[Repetition]) -> list[np.ndarray]:
    """(B, S) weights that average repetitions into blocks, every way that these are independent.

    Repetitions with one seed on several splits, or several seeds on one split, are no independent
    ones: where both were swept, differences must show over splits as well as over seeds.
    """
    found = []
    for of_one in zip(*repetitions, strict=True):
        levels = list(dict.fromkeys(of_one))
        if 1 < len(levels) < len(repetitions):
            members = np.array([[one == level for one in of_one] for level in levels], float)
            found.append(members / members.sum(1, keepdims=True))
    return found or [np.eye(len(repetitions))]


def _pooled(values: np.ndarray) -> float:
    """The variance that is left of (K, B) values without the means of rows and of columns."""
    rows, columns = (size - 1 for size in values.shape)
    if rows * columns == 0:
        return math.nan
    means = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - means[0] - means[1] + values.mean()
    return _unless_rounding(float((rest**2).sum() / (rows * columns)), values)


def _variance(values: np.ndarray) -> float:
    if len(values) < 2:
        return math.nan
    return _unless_rounding(float(values.var(ddof=1)), values)


def _unless_rounding(variance: float, values: np.ndarray) -> float:
    """0 for what only rounding left of equal values."""
    return 0.0 if variance < (ROUNDING * float(np.abs(values).max())) ** 2 else variance


def _of_images(
    best: Tried, other: Tried, sign: int, clusters: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """(S, n) differences by image, with the clusters of these; every row has its own mean.

    Splits that were drawn anew share some of their images. One that was not among those of a
    repetition gets the mean of all, and the others are stretched as much as they are fewer: the
    means of rows stay, and the variance of the means of images is that of their sums (Liang and
    Zeger 1986, clustered by image).
    """
    if best.images is None or other.images is None:
        raise ValueError("images of both are needed")
    rows = [list(other.values).index(r) for r in best.values]
    found = sign * (other.images[rows] - best.images)
    there = ~np.isnan(found)
    seen = there.any(0)
    found, there = found[:, seen], there[:, seen]
    codes = None if clusters is None else clusters[seen]
    if there.all():
        return found, codes
    counts = there.sum(1, keepdims=True)
    mean = (np.where(there, found, 0).sum(1, keepdims=True) / counts).mean()
    stretched = mean + found.shape[1] / counts * (found - mean)
    return np.where(there, stretched, mean), codes
