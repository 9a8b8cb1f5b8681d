"""The error of a difference that was measured on seeds and on images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Crossed:
    """A mean over seeds × images, with one error for both."""

    mean: float
    se: float  # √(s²_seed/S + s²_image/n − s²_residual/(S·n)), at least the larger of the first two
    df: float  # after Satterthwaite
    seeds: int  # S
    images: int  # n; clusters where images come in groups
    seed_variance: float  # s²_seed, of the means of seeds; NaN for one seed
    image_variance: float  # s²_image, of the means of images (times their weight)
    residual_variance: float  # s²_residual


def crossed(
    differences: np.ndarray,
    clusters: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Crossed:
    """The mean of differences, a row per seed and a column per image, and its error.

    Args:
        differences: (S, n) float.
        clusters: (n,) whatever tells the groups of images apart that are not independent.
        weights: (n,) of images, with mean 1: of a balanced accuracy, n / (classes · images of its class).
    """
    ...
