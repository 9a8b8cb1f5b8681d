"""Splits as pure functions of labels, sizes and a seed."""

from __future__ import annotations

import numpy as np

from lrexp.draws import order


def stratified_sample(
    labels: np.ndarray, ids: np.ndarray, size: int, seed: int, purpose: str
) -> np.ndarray:
    """`size` positions that hold every class in its share, in ascending order.

    Each class gets its quota size × n_class / n, rounded by largest remainder, and within the
    class the samples with the smallest draws, so membership depends on the seed and the ids alone.

    Args:
        labels: (n,) class of each sample.
        ids: (n,) its identity, which its draw is made from.
        size: how many to take, at most n.
        seed: moves the choice.
        purpose: names it, so that two samples with one seed are independent.

    Returns:
        (size,) int64 positions into `labels`.
    """
    classes, counts = np.unique(labels, return_counts=True)
    exact = size * counts / max(len(labels), 1)
    quota = np.floor(exact).astype(np.int64)
    short = size - quota.sum()
    quota[np.argsort(quota - exact, kind="stable")[:short]] += 1
    ranked = order(seed, purpose, ids)
    taken = [ranked[labels[ranked] == c][:q] for c, q in zip(classes, quota, strict=True)]
    return np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)
