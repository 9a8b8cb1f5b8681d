"""Differences of means over images, each with its standard error: the gap, and paired ones."""

from __future__ import annotations

import math

import numpy as np


def gap(
    val: np.ndarray,
    train_eval: np.ndarray,
    train_size: int,
    val_groups: np.ndarray | None = None,
    train_eval_groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """The mean of validation minus the mean of the training subset, and its standard error.

    gap = mean(val) − mean(train_eval); se = √(v_val + (1 − n_te / N) · v_te) with v the variance of
    a mean (`variance_of_mean`), the second term shrinking because train_eval is drawn without
    replacement from N training images.

    Args:
        val: (n_val,) a value per validation image.
        train_eval: (n_te,) a value per image of the training subset.
        train_size: N.
        val_groups: (n_val,) codes of groups whose images are alike, if there are any.
        train_eval_groups: (n_te,) likewise.
    """
    with np.errstate(invalid="ignore"):  # an infinite loss has no variance: NaN
        sampled = 1 - len(train_eval) / train_size
        variance_train = sampled * variance_of_mean(train_eval, train_eval_groups)
        variance = variance_of_mean(val, val_groups) + variance_train
        return float(val.mean() - train_eval.mean()), math.sqrt(variance)


def paired_difference(
    now: np.ndarray, best: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """mean(now − best) over the same images, and its standard error (`variance_of_mean`).

    Args:
        now: (n,) a value per image.
        best: (n,) likewise, of the same images.
        groups: (n,) codes of groups whose images are alike, if there are any.
    """
    with np.errstate(invalid="ignore"):
        difference = now - best
        return float(difference.mean()), math.sqrt(variance_of_mean(difference, groups))


def variance_of_mean(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The variance of the mean of n values: s² / n, or robust to groups that are alike within.

    With G groups it is G / (G − 1) · Σ_g (Σ_{i in g} (x_i − x̄))² / n², which is s² / n when every
    group has one value (Liang and Zeger 1986, the CR1 estimator of an intercept). NaN where one
    value or one group says nothing of the spread.

    Args:
        values: (n,).
        groups: (n,) int codes from 0, with or without gaps.
    """
    count = len(values)
    if groups is None:
        return float(values.var(ddof=1)) / count if count > 1 else math.nan
    number = np.count_nonzero(np.bincount(groups))
    sums = np.bincount(groups, weights=values - values.mean())
    return number / (number - 1) * float((sums**2).sum()) / count**2 if number > 1 else math.nan
