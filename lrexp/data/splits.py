"""Splits as pure functions of labels, sizes and a seed."""

from __future__ import annotations

import numpy as np

from lrexp.data.draws import order


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
    return _first_of_each(labels, ranked, dict(zip(classes.tolist(), quota.tolist(), strict=True)))


def sample_per_class(
    labels: np.ndarray, ids: np.ndarray, most: int, seed: int, purpose: str
) -> np.ndarray:
    """At most `most` positions of every class, in ascending order, by the smallest draws."""
    ranked = order(seed, purpose, ids)
    return _first_of_each(labels, ranked, dict.fromkeys(np.unique(labels).tolist(), most))


def grouped_sample(
    labels: np.ndarray, groups: np.ndarray, share: float, seed: int, purpose: str
) -> np.ndarray:
    """Positions of whole groups that hold about `share` of every class, in ascending order.

    A group counts for the class most of its samples have (the smaller on ties). Of each class,
    groups are taken in the order of their draws as long as that brings the number of samples
    nearer to share × n_class; at least one group of a class is left.

    Args:
        labels: (n,) class of each sample.
        groups: (n,) code of its group, which the draw is made from.
        share: in [0, 1).
        seed: moves the choice.
        purpose: names it.
    """
    codes, group_of = np.unique(groups, return_inverse=True)
    classes, class_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(codes), len(classes)), np.int64)
    np.add.at(counts, (group_of, class_of), 1)
    sizes, majority = counts.sum(1), counts.argmax(1)
    ranked = order(seed, purpose, codes)
    taken: list[int] = []
    for c in range(len(classes)):
        left = ranked[majority[ranked] == c]
        wanted, got = share * sizes[left].sum(), 0
        for group in left[:-1]:
            if abs(got + sizes[group] - wanted) < abs(got - wanted):
                taken.append(group)
                got += sizes[group]
    return np.flatnonzero(np.isin(group_of, taken))


def strata(labels: np.ndarray) -> np.ndarray:
    """(n,) classes to stratify by: the labels, or for (n, classes) multi-label rows their pattern.

    Patterns of fewer than 10 rows are one class together.
    """
    if labels.ndim == 1:
        return labels
    _, pattern, counts = np.unique(labels, axis=0, return_inverse=True, return_counts=True)
    pattern = pattern.reshape(-1)
    return np.where(counts[pattern] < 10, -1, pattern)


def _first_of_each(labels: np.ndarray, ranked: np.ndarray, quota: dict[int, int]) -> np.ndarray:
    taken = [ranked[labels[ranked] == c][:q] for c, q in quota.items()]
    return np.sort(np.concatenate(taken)) if taken else np.empty(0, np.int64)
