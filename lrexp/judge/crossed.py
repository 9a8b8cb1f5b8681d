"""The error of a difference that was measured on seeds and on images at once.

Seeds and images are both samples: another seed trains another network, another test set holds other
images. Every seed meets every image, so the two errors are crossed, and neither alone is the error
of the mean (two-way random effects; Searle, Casella and McCulloch 1992, ch. 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ROUNDING = 1e-9  # of the largest difference: what is spread less is spread by rounding alone
CAUTION = 0.05  # how rarely the seeds' part of an error is larger than degrees of freedom assume


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds × images, with one error for both.

    Two seeds claim nothing: of one seed there is no error (`se` NaN), of two there is one, for the
    ±, but no degrees of freedom (`df` NaN), without which no test and no interval comes about.
    The same holds for one image, or one cluster: no error at all.
    """

    mean: float
    se: float  # √(s²_seed/S + s²_image/n − s²_residual/(S·n)), at least the larger of the first two
    df: float  # after Satterthwaite; NaN for fewer than three seeds or two images
    seeds: int  # S
    images: int  # n; clusters where images come in groups
    seed_variance: float  # s²_seed, of the means of seeds; NaN for one seed
    image_variance: float  # s²_image, of the means of images (times their weight); NaN for one
    residual_variance: float  # s²_residual
    image_df: float = math.nan  # of s²_image


def crossed(
    differences: np.ndarray,
    clusters: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Crossed:
    """The mean of differences, a row per seed and a column per image, and its error.

    With d̄ the mean of a row, a column or all, and w the weights, the deviations of a unit g (an
    image, or the images of a cluster) are u_g = Σ_i w_i (d̄_·i − d̄) / n and, in seed s,
    r_sg = Σ_i w_i (d_si − d̄_·i − d̄_s· + d̄) / n, both sums over i in g. Then

        s²_seed      = Σ_s (d̄_s· − d̄)² / (S − 1)
        s²_image     = n c Σ_g u_g²
        s²_residual  = n c Σ_sg r_sg² / (S − 1)

    where n now counts units, and c = Σp² / (Σp² − 2Σp³ + (Σp²)²) makes up for the mean that was
    taken off, p being the units' shares of the weight. Alike units have c = n / (n − 1), and all
    three are the mean squares of a two-way table. A weighted mean is taken as a ratio, so weights
    and unequal clusters add no error to differences that are the same everywhere.

    Degrees of freedom: S − 1 of s²_seed. Of s²_image at most (Σp²)² / Σp⁴ − 1, which is n − 1 for
    alike units, and fewer where few images make up the variance: 2 (Σu²)² / (Σu⁴ − (Σu²)²/n),
    about twice the images that differ at all. Satterthwaite's formula joins them, with s²_seed at
    its cautious value, see `degrees`.

    Args:
        differences: (S, n) float.
        clusters: (n,) whatever tells the groups of images apart that are not independent.
        weights: (n,) of images, with mean 1: of a balanced accuracy, n / (classes · images of its
            class).

    Returns:
        All zero for differences that are all zero: no error was seen, which does not mean that
        there is none; `judge.comparison` says what it can mean. NaN throughout where a difference
        is not a number.
    """
    values = np.asarray(differences, dtype=np.float64)  # (S, n)
    seeds, columns = values.shape
    if not seeds or not columns:
        raise ValueError(f"nothing to average: {seeds} seeds, {columns} images")
    share = np.full(columns, 1 / columns) if weights is None else np.asarray(weights) / columns
    codes = None if clusters is None else np.unique(clusters, return_inverse=True)[1]
    units = columns if codes is None else int(codes.max()) + 1
    if not np.isfinite(values).all():
        nan = math.nan
        return Crossed(nan, nan, nan, seeds, units, nan, nan, nan)

    of_seeds, of_images = values @ share, values.mean(axis=0)  # (S,), (n,)
    mean = float(of_seeds.mean())
    off_image = share * (of_images - mean)  # (n,)
    off_both = share * (values - of_images - of_seeds[:, None] + mean)  # (S, n)
    if codes is not None:
        share = np.bincount(codes, share)
        off_image = np.bincount(codes, off_image)
        off_both = np.stack([np.bincount(codes, row) for row in off_both])

    squared = share**2
    alike = float(squared.sum())  # 1 / n for units that are alike
    kept = alike - 2 * float((squared * share).sum()) + alike**2
    of_one = kept < 1e-12 * alike  # one unit has all the weight
    scale = units * alike / kept if not of_one else math.nan
    seen = float(np.abs(values).max()) * ROUNDING
    seed_variance = _variance(float(((of_seeds - mean) ** 2).sum()), seeds - 1, seen)
    image_variance = _variance(scale * float((off_image**2).sum()), 1, seen)
    residual = _variance(scale * float((off_both**2).sum()), seeds - 1, seen)

    from_seeds, from_images = seed_variance / seeds, image_variance / units
    twice = residual / (seeds * units)
    image_df = math.nan if of_one else _image_df(off_image, squared, image_variance)
    if math.isnan(from_seeds) or math.isnan(from_images):
        variance = math.nan
    else:
        variance = max(from_seeds + from_images - twice, from_seeds, from_images)
    known = seeds > 2 and not math.isnan(variance)
    return Crossed(
        mean,
        math.sqrt(variance),
        float(degrees(from_seeds, from_images, twice, seeds - 1, image_df)) if known else math.nan,
        seeds,
        units,
        seed_variance,
        image_variance,
        residual,
        image_df,
    )


def _variance(squares: float, over: int, seen: float) -> float:
    """A sum of squares over its degrees of freedom; 0 for rounding, NaN for none."""
    if not over:
        return math.nan
    return 0.0 if squares / over < seen**2 else squares / over


def _image_df(off: np.ndarray, squared: np.ndarray, variance: float) -> float:
    """Degrees of freedom of s²_image: no more than units of that size have, nor than show in it."""
    by_size = float(squared.sum() ** 2 / (squared**2).sum()) - 1
    if not variance:
        return by_size
    squares = float((off**2).sum()) ** 2
    spread = float((off**4).sum()) - squares / len(off)
    return min(by_size, 2 * squares / spread) if spread > 0 else by_size


def degrees(
    seeds: float | np.ndarray,
    images: float | np.ndarray,
    twice: float | np.ndarray,
    seed_df: float | np.ndarray,
    image_df: float | np.ndarray,
) -> np.ndarray:
    """Satterthwaite's degrees of freedom, with the seeds' part as large as it may well be.

    With A, B and C the parts of the variance (of seeds, of images, and what both have in common),
    V = A + B − C, at least the larger of A and B, and V² / (A²/f_A + B²/f_B + C²/(f_A·f_B)).
    A is taken at the upper end of its one-sided 95 % interval, A·f_A/χ²_0.05. As it was measured it
    often is too small by chance where seeds are few, the error then seems known by the many images,
    and t at small levels claims too much: at a level of 0.0125, five seeds made 0.02 false claims
    and three 0.04; so 0.01 and 0.007.
    """
    from scipy.special import chdtri

    a, b = np.asarray(seeds * seed_df / chdtri(seed_df, 1 - CAUTION)), np.asarray(images)
    variance = np.maximum(np.maximum(a, b), a + b - twice)
    parts = a**2 / seed_df + b**2 / image_df + twice**2 / (seed_df * image_df)
    alone = np.minimum(seed_df, image_df)  # of nothing: no spread was seen
    return np.where(variance > 0, variance**2 / np.where(parts > 0, parts, 1.0), alone)
