"""How surely a difference would be seen, and how many seeds or images that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lrexp.judge.crossed import Crossed, degrees

POWER = 0.8
MOST_IMAGES = 990_000  # more are no advice
MOST_SEEDS = 100  # a comparison that takes more is one that seeds cannot settle
# A true difference of zero is shown to lie within a margin of so many errors in 80 % of samples:
# the quantiles of 95 % (two one-sided tests) and of 90 % (both have to succeed).
MARGIN_ERRORS = 2.927


@dataclass(frozen=True)
class Noise:
    """What moves the difference of two configurations, as standard deviations in shares.

    The mean over S seeds and n images has the variance seed²/S + image²/n + both²/(S·n).

    >>> noise = Noise(seed=0.016, image=0.056)
    >>> round(noise.se(10, 179), 4), round(noise.se(10, 1000), 4)
    (0.0066, 0.0054)
    """

    seed: float  # of a seed's mean, over images without end
    image: float  # of an image's mean, over seeds without end
    both: float = 0.0  # of one image in one seed, beside the two

    @classmethod
    def of(cls, measured: Crossed) -> Noise:
        """The components of a measured difference: E s²_seed = seed² + both²/n, images likewise.

        The image's is at least the error of its own estimate: what cannot be told from zero is
        not taken for zero. NaN for one seed or one image.
        """
        seeds, images = measured.seeds, measured.images
        seed = measured.seed_variance - measured.residual_variance / images
        image = measured.image_variance - measured.residual_variance / seeds
        unsure = measured.image_variance * math.sqrt(2 / measured.image_df)
        if math.isnan(seed) or math.isnan(image):
            return cls(math.nan, math.nan, math.nan)
        image = max(image, min(unsure, measured.image_variance))
        both = measured.residual_variance
        return cls(math.sqrt(max(seed, 0.0)), math.sqrt(image), math.sqrt(both))

    def se(self, seeds: float, images: float) -> float:
        """The standard error of a mean over so many."""
        return float(self.error(np.asarray(float(seeds)), np.asarray(float(images)))[0])

    def error(self, seeds: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The standard errors of means over so many seeds and images, and degrees of freedom."""
        twice = self.both**2 / (seeds * images)
        of_seeds, of_images = self.seed**2 / seeds + twice, self.image**2 / images + twice
        variance = np.maximum(of_seeds + of_images - twice, 1e-18)
        return np.sqrt(variance), degrees(of_seeds, of_images, twice, seeds - 1, images - 1)


# What is guessed before anything was measured: the spread of differences between small networks
# that were fine-tuned, scores above 90 % (scripts/which_again.py measures it).
GUESS = Noise(seed=0.016, image=0.06, both=0.1)


def power(
    noise: Noise,
    difference: float,
    seeds: int | np.ndarray,
    images: int | np.ndarray,
    comparisons: int = 1,
    margin: float | None = None,
    level: float = 0.05,
) -> np.ndarray:
    """The share of samples in which a true difference is called one.

    Of several comparisons by Holm's first step, the strictest. With a margin: in which it is
    shown to lie within it, by two one-sided tests. 0 for fewer than three seeds. Shape as of
    `seeds` and `images`.

    >>> [round(float(power(GUESS, 0.02, 10, n, comparisons=4)), 2) for n in (179, 1000)]
    [0.49, 0.71]
    """
    from scipy.special import stdtrit

    seeds_, images_ = np.broadcast_arrays(np.asarray(seeds, float), np.asarray(images, float))
    enough = (seeds_ > 2) & (images_ > 1)
    se, df = noise.error(np.where(enough, seeds_, 3.0), np.where(enough, images_, 2.0))
    if margin is None:
        bound, off = stdtrit(df, 1 - level / comparisons / 2), abs(difference) / se
        found = _exceeds(bound, off, df) + _exceeds(bound, -off, df)
    else:
        bound, off = stdtrit(df, 1 - level), abs(difference)
        near, far = (margin - off) / se, (margin + off) / se
        found = _exceeds(bound, near, df) + _exceeds(bound, far, df) - 1
    return np.where(enough, np.clip(found, 0, 1), 0.0)


def _exceeds(bound: np.ndarray, off: np.ndarray, df: np.ndarray) -> np.ndarray:
    """How often Student's t, of a mean that lies `off` errors above zero, exceeds a bound.

    That is noncentral t: Φ(off − bound·√(χ²/df)) averaged over equally likely values of χ², which
    are taken from Wilson and Hilferty (1931); right to 0.005.
    """
    from scipy.special import ndtr, ndtri

    likely = ndtri((np.arange(50) + 0.5) / 50)
    wide = 2 / 9 / np.asarray(df)[..., None]
    errors = np.maximum(1 - wide + likely * np.sqrt(wide), 0) ** 1.5  # (..., 50) √(χ²/df)
    return ndtr(np.asarray(off)[..., None] - np.asarray(bound)[..., None] * errors).mean(axis=-1)


def seeds_needed(
    noise: Noise,
    difference: float,
    images: int,
    comparisons: int = 1,
    margin: float | None = None,
    level: float = 0.05,
    most: int = MOST_SEEDS,
) -> int | None:
    """The fewest seeds at which `power` reaches 80 %; None where `most` are too few.

    >>> seeds_needed(GUESS, 0.03, images=179, comparisons=4)
    9
    """
    tried = np.arange(3, most + 1)
    reached = power(noise, difference, tried, images, comparisons, margin, level) >= POWER
    return int(tried[np.argmax(reached)]) if reached.any() else None


def images_needed(
    noise: Noise,
    difference: float,
    seeds: int = MOST_SEEDS,
    comparisons: int = 1,
    margin: float | None = None,
    level: float = 0.05,
) -> int | None:
    """The fewest test images at which so many seeds have a power of 80 %, to two digits.

    None where 990,000 are too few.
    """
    tried = (np.arange(10, 100) * 10 ** np.arange(5)[:, None]).ravel()
    reached = power(noise, difference, seeds, tried, comparisons, margin, level) >= POWER
    return int(tried[np.argmax(reached)]) if reached.any() else None


def smallest(noise: Noise, images: int) -> float:
    """The smallest margin that so many images can show with any number of seeds: 2.9·image/√n."""
    return MARGIN_ERRORS * noise.image / math.sqrt(images)
