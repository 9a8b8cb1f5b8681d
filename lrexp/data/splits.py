"""Which images of a source a run's splits hold: pure functions of labels, sizes and a seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.data.draws import order
from lrexp.data.source import TEST, TRAIN, VAL, Source


@dataclass(frozen=True)
class Chosen:
    """Which images of a source are in which split, before any pixel is read."""

    labels: np.ndarray  # (N,) int64 or (N, classes) float32, of the kept classes
    class_names: tuple[str, ...]
    splits: dict[str, np.ndarray]  # train, val and test: ascending positions in the source
    unlabeled: int = 0  # images left out for want of a label


def choose(
    source: Source,
    *,
    seed: int,
    classes: list[int | str] | None,
    limit: int | None,
    limit_per_class: int | None,
    val_fraction: float,
    test_fraction: float,
    drop_unlabeled: bool,
) -> Chosen:
    """Choose classes, split, and limit the training set.

    The source's own val and test splits stay what they are. What it does not have is split off:
    whole groups where the source has groups, else every class in its share.

    Args:
        source: all images.
        seed: moves the splits.
        classes: labels or names to keep, renumbered in this order; all when None.
        limit: at most this many training images, counted after splitting.
        limit_per_class: at most this many training images of a class, likewise.
        val_fraction: of the images that are in no split of the source's own but train.
        test_fraction: likewise.
        drop_unlabeled: leave out images without a label.

    Raises:
        ConfigError: when a class does not exist, a split would be empty, or there is one class.
        UserError: when an image has no label and none may be left out.
    """
    labels, names = source.labels, source.class_names
    ids, unlabeled = _labeled(source, drop_unlabeled)
    if classes is not None:
        kept = class_positions(classes, names)
        names = tuple(names[c] for c in kept)
        if source.multi_label:
            labels = np.ascontiguousarray(labels[:, kept])
        else:
            renumbered = np.full(len(source.class_names), -1)
            renumbered[kept] = np.arange(len(kept))
            ids = ids[np.isin(labels[ids], kept)]
            labels = np.where(labels < 0, -1, renumbered[labels])
    stratum = strata(labels)

    def split_off(pool: np.ndarray, fraction: float, name: str, whole: int) -> np.ndarray:
        if not fraction or not len(pool):
            return pool[:0]
        if source.groups is not None:
            share, purpose = fraction * whole / len(pool), f"split {name} by group"
            return pool[grouped_sample(stratum[pool], source.groups[pool], share, seed, purpose)]
        size = min(round(fraction * whole), len(pool))
        return pool[stratified_sample(stratum[pool], pool, size, seed, f"split {name}")]

    own = np.zeros(len(source.labels), np.int8) if source.split is None else source.split
    pool, val, test = (ids[own[ids] == code] for code in (TRAIN, VAL, TEST))
    whole = len(pool)
    if not source.has(TEST):
        test = split_off(pool, test_fraction, "test", whole)
        pool = np.setdiff1d(pool, test)
    if not source.has(VAL):
        val = split_off(pool, val_fraction, "val", whole)
        pool = np.setdiff1d(pool, val)
    train = pool
    if limit_per_class is not None and source.multi_label:
        problem = "is for one label per image, and these have several"
        raise ConfigError("data.limit_per_class", problem, "use data.limit", limit_per_class)
    if limit_per_class is not None:
        train = train[sample_per_class(stratum[train], train, limit_per_class, seed, "limit")]
    if limit is not None and limit < len(train):
        train = train[stratified_sample(stratum[train], train, limit, seed, "limit")]
    splits = {"train": train, "val": val, "test": test}
    refuse_poor(splits, labels, names, len(ids))
    return Chosen(labels, names, splits, unlabeled)


def _labeled(source: Source, drop: bool) -> tuple[np.ndarray, int]:
    """Positions of images with a label, and how many have none."""
    if source.multi_label:
        return np.arange(len(source.labels)), 0
    outside = np.flatnonzero(source.labels >= len(source.class_names))
    if len(outside):
        i, last = int(outside[0]), len(source.class_names) - 1
        raise UserError(
            f"data: {source.name(i)} has label {source.labels[i]}, allowed: 0 to {last}"
        )
    missing = np.flatnonzero(source.labels < 0)
    if len(missing) and not drop:
        more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
        hint = "data.on_corrupt=drop leaves out what has no label"
        raise UserError(f"data: {source.name(int(missing[0]))} has no label{more}\n  {hint}")
    return np.flatnonzero(source.labels >= 0), len(missing)


def class_positions(wanted: list[int | str], names: tuple[str, ...]) -> list[int]:
    """Where classes stand in `names`: by name, which a number too may be, else by position.

    Raises:
        ConfigError: when there is no such class, or one is named twice.
    """
    numbered = all(name.lstrip("-").isdecimal() for name in names)
    found = []
    for c in wanted:
        if str(c) in names:
            found.append(names.index(str(c)))
        elif isinstance(c, int) and not numbered and c < len(names):
            found.append(c)
        else:
            counted = names == tuple(map(str, range(len(names))))
            hint = f"allowed: 0 to {len(names) - 1}" if counted else did_you_mean(str(c), names)
            raise ConfigError("data.classes", f"there is no class {c}", hint, wanted)
    if len(set(found)) < len(found):
        raise ConfigError("data.classes", "names a class twice", given=wanted)
    return found


def refuse_poor(
    splits: Mapping[str, np.ndarray], labels: np.ndarray, names: tuple[str, ...], whole: int
) -> None:
    """Raise ConfigError for a split of fewer than 2 images, or a single class to train on."""
    for name, title in (("train", "training"), ("val", "validation")):
        if (found := len(splits[name])) < 2:
            problem = f"the {title} split has {found} of {whole} images; it needs 2 or more"
            raise ConfigError("data", problem)
    train = labels[splits["train"]]
    if train.ndim == 1 and len(np.unique(train)) < 2:
        raise ConfigError("data", f"every training image is of one class, {names[int(train[0])]}")


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
