"""Configurations against a baseline on the test split: better, no difference, or undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lrexp.judge.crossed import Crossed

Word = Literal["better", "worse", "no difference", "undecided"]


@dataclass(frozen=True)
class Scores:
    """What one configuration scored: a row per seed, a column per image, both shared by all.

    A seed that diverged or collapsed has a guesser's score in every column: it is never left out.
    """

    right: np.ndarray  # (S, n) float64 in [0, 1]: what the verdict is on
    losses: np.ndarray  # (S, n) float64: per image; NaN in a seed that diverged
    guessed: int = 0  # seeds with a guesser's score


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
) -> list[Compared]:
    """Every configuration but the baseline, in the order given.

    Better (worse): p after Holm below `level`. No difference: two one-sided tests at `level` both
    exclude a difference beyond the margin. Otherwise undecided, with what would settle it.
    """
    ...


def smallest_margin(differences: Sequence[Compared]) -> float:
    """The smallest margin that these images can show with any number of seeds: about 2.9·√(s²_image/n)."""
    ...
