"""Leak check: items of one split that another split has seen, before anything is trained.

Four kinds, each an item of a later split (val, test) with a partner in an earlier one (train):
exact copies, near duplicates, groups on both sides; and copies that carry different labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lrexp.data.leak_bounds import RANK, TOGETHER, may_be_near
from lrexp.data.leaks_found import Conflict, Leaks, SharedGroup, Twins
from lrexp.data.signatures import Signatures

THRESHOLD, RATIO = 0.9, 0.25  # of a near duplicate: see find_leaks
QUERIES_PER_BLOCK, REFERENCES_PER_BLOCK = 2048, 4096  # 32 MiB of float32


def find_leaks(
    signatures: Signatures,
    labels: np.ndarray,
    splits: Mapping[str, np.ndarray],
    groups: np.ndarray | None = None,
    *,
    threshold: float = THRESHOLD,
    ratio: float = RATIO,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> Leaks:
    """Items that two splits share, and copies whose labels differ.

    Near duplicates. With ρ the correlation of two thumbnails, an image of a later split is a near
    duplicate of its nearest image in an earlier one when

        ρ ≥ threshold   and   1 − ρ ≤ ratio · (1 − ρ₈)

    where ρ₈ is that with the image's 8th nearest among the distinct images of all earlier splits
    (0 where there are fewer). The first is the usual test; the second asks that the pair
    stands out from how near images of this data lie anyway: 98 % of MNIST's digits have a stranger
    above 0.9. Correlation does not see brightness, contrast (so a brightened copy is found) or
    tint; flat images are never near. Mirrored copies are not looked for: on CIFAR-10 that found
    fewer true pairs at equal false alarms. Not found: copies of thin drawings such as
    MNIST's that moved by a pixel, and more than 8 near copies of one image in the earlier
    splits, which hide each other (frames of a video: name the video with groups).

    Nothing that the rule holds for is lost up to 65,536 distinct images in earlier splits. Of more,
    an image is compared with the 16,384 that lie nearest; images for which others were within reach
    are counted in `cut_short` and told of.

    The defaults were chosen on the 286 known pairs of near duplicates between CIFAR-10's test and
    training set (Barz and Denzler 2020, arXiv:1902.00423) and on the share of MNIST's images that
    are flagged, where no pair is true; `scripts/bench_leaks.py` prints the curves.

    Each item stands once per earlier split, with one partner; an exact copy is not counted as near.

    Args:
        signatures: of N images.
        labels: (N,) int64, or (N, classes) of 0 and 1.
        splits: name → positions; the first is what the others must not have seen: train.
        groups: (N,) any value per item, or None.
        threshold: least correlation of a near duplicate.
        ratio: largest distance 1 − ρ, in units of that to the 8th neighbour.
        names: of every position, for messages; the position itself when None.
        class_names: for messages; the class index when None.
    """
    positions = {name: np.asarray(split, np.int64) for name, split in splits.items()}
    first = next(iter(positions))
    codes = np.unique(signatures.hashes, return_inverse=True)[1]  # (N,) equal where pixels are
    exact: list[Twins] = []
    near: list[Twins] = []
    shared: list[SharedGroup] = []
    cut_short: dict[str, int] = {}
    for i, (split, later) in enumerate(positions.items()):
        earlier = dict(itertools.islice(positions.items(), i))
        close, of_split = _near(signatures, codes, later, earlier, threshold, ratio)
        if of_split:
            cut_short[split] = of_split
        for (other, at), (here, nearest, rho) in zip(earlier.items(), close, strict=True):
            copies, originals = _exact(codes, later, at)
            new = ~np.isin(here, copies)
            if len(copies):
                exact.append(Twins(split, other, copies, originals, np.ones(len(copies))))
            if new.any():
                near.append(Twins(split, other, here[new], nearest[new], rho[new]))
            if groups is not None:
                shared += _shared_groups(groups, split, later, other, at)

    twins = {}
    for split, at in list(positions.items())[1:]:
        found = [t.positions for t in (*exact, *near) if (t.split, t.other) == (split, first)]
        if groups is not None:
            found.append(at[np.isin(groups[at], groups[positions[first]])])
        twins[split] = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return Leaks(
        exact,
        near,
        _conflicts(codes, labels, positions, class_names),
        shared,
        twins,
        {name: len(split) for name, split in positions.items()},
        sum(int((~signatures.thumbnails[at].any(1)).sum()) for at in positions.values()),
        {"threshold": threshold, "ratio": ratio, "rank": RANK},
        cut_short,
        names,
    )


def _exact(codes: np.ndarray, later: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items of `later` whose pixels are also in `at`, and the first such there."""
    known, first = np.unique(codes[at], return_index=True)
    copies = later[np.isin(codes[later], known)]
    return copies, at[first[np.searchsorted(known, codes[copies])]]


def _near(
    signatures: Signatures,
    codes: np.ndarray,
    later: np.ndarray,
    earlier: Mapping[str, np.ndarray],
    threshold: float,
    ratio: float,
) -> tuple[list[tuple[np.ndarray, np.ndarray, np.ndarray]], int]:
    """Of each earlier split: those of `later` with a near duplicate there, which it is, and ρ.

    Exact copies are among them, flat images are not. And how many were compared with the nearest
    earlier images alone: see `may_be_near`.
    """
    content: np.ndarray = np.any(signatures.thumbnails, axis=1)
    later = later[content[later]]
    thumbnails, known = signatures.thumbnails, list[np.ndarray]()
    for at in earlier.values():
        distinct = at[np.unique(codes[at], return_index=True)[1]]
        known.append(distinct[content[distinct]])
    if not known:
        return [], 0
    references = np.concatenate(known)
    may, cut_short = may_be_near(thumbnails[later], thumbnails, references, threshold, ratio)
    later = later[may]
    found = [_neighbours(thumbnails[later], thumbnails, one) for one in known]
    every = np.sort(np.concatenate([values for values, _ in found], 1), 1)
    limit = ratio * (1 - every[:, -RANK])
    near = []
    for values, nearest in found:
        best = values[:, 0]
        hit = (best >= threshold) & (1 - best <= limit)
        near.append((later[hit], nearest[hit], np.minimum(best[hit], 1)))
    return near, int(cut_short.sum())


def _neighbours(
    queries: np.ndarray, thumbnails: np.ndarray, references: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The RANK largest correlations of each query, and the position of the nearest reference.

    Args:
        queries: (q, D) float16.
        thumbnails: (N, D) float16.
        references: (r,) positions in `thumbnails`.

    Returns:
        (q, RANK) float32, largest first, 0 where there are fewer references; (q,) positions.
    """
    values = torch.zeros(len(queries), RANK)
    nearest = torch.zeros(len(queries), dtype=torch.int64)
    room = torch.empty(QUERIES_PER_BLOCK * min(REFERENCES_PER_BLOCK, len(references)))
    for at in range(0, len(references), REFERENCES_PER_BLOCK):
        block = references[at : at + REFERENCES_PER_BLOCK]
        columns = torch.from_numpy(thumbnails[block]).float().T  # (D, block)
        for start in range(0, len(queries), QUERIES_PER_BLOCK):
            rows = slice(start, start + QUERIES_PER_BLOCK)
            query = torch.from_numpy(queries[rows]).float()
            out = room[: len(query) * len(block)].view(len(query), len(block))
            top, index = _largest(torch.mm(query, columns, out=out))
            closer = top[:, 0] > values[rows, 0]
            nearest[rows] = torch.where(closer, torch.from_numpy(block)[index[:, 0]], nearest[rows])
            values[rows] = torch.cat([values[rows], top], 1).topk(RANK, 1).values
    return values.numpy(), nearest.numpy()


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The RANK largest of each row, largest first, and where: `topk`, in half the time.

    They lie in the RANK parts of TOGETHER columns with the largest maxima.

    Args:
        values: (n, m).
    """
    rows, width = values.shape
    if width % TOGETHER or width < 2 * RANK * TOGETHER:
        return values.topk(min(RANK, width), 1)
    parts = values.view(rows, -1, TOGETHER)
    at = parts.amax(2).topk(RANK, 1).indices  # (n, RANK)
    chosen = (torch.arange(rows)[:, None] * (width // TOGETHER) + at).view(-1)
    few = values.view(-1, TOGETHER).index_select(0, chosen).view(rows, -1)
    top, index = few.topk(RANK, 1)
    return top, at.gather(1, index // TOGETHER) * TOGETHER + index % TOGETHER


def _conflicts(
    codes: np.ndarray,
    labels: np.ndarray,
    positions: Mapping[str, np.ndarray],
    class_names: Sequence[str] | None,
) -> list[Conflict]:
    """Images in the splits whose copies have more than one label; labels compared as whole rows."""
    at = np.concatenate(list(positions.values()))
    split_of = np.repeat(list(positions), [len(split) for split in positions.values()])
    kinds = np.unique(labels[at], axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([codes[at], kinds], 1), axis=0)  # each (image, label) once
    image, n_labels = np.unique(pairs[:, 0], return_counts=True)
    of = np.flatnonzero(np.isin(codes[at], image[n_labels > 1]))
    of = of[np.argsort(codes[at[of]], kind="stable")]  # copies side by side
    starts = np.flatnonzero(np.diff(codes[at[of]])) + 1
    conflicts = [
        Conflict(
            tuple(at[members].tolist()),
            tuple(split_of[members].tolist()),
            tuple(_label(labels[position], class_names) for position in at[members]),
        )
        for members in np.split(of, starts)
        if len(members)
    ]
    return sorted(conflicts, key=lambda conflict: conflict.positions)


def _label(label: np.ndarray, class_names: Sequence[str] | None) -> str:
    """A class, or all classes of a multi-label row."""
    classes = np.flatnonzero(label).tolist() if np.ndim(label) else [int(label)]
    return "+".join(class_names[c] if class_names else str(c) for c in classes) or "none"


def _shared_groups(
    groups: np.ndarray, split: str, later: np.ndarray, other: str, at: np.ndarray
) -> list[SharedGroup]:
    """Groups with items in both, in sorted order."""
    group, items = np.unique(groups[later], return_counts=True)
    known, known_items = np.unique(groups[at], return_counts=True)
    _, here, there = np.intersect1d(group, known, return_indices=True)
    return [
        SharedGroup(str(group[i]), split, other, int(items[i]), int(known_items[j]))
        for i, j in zip(here, there, strict=True)
    ]


def effect(correct: np.ndarray, has_twin: np.ndarray) -> dict[str, float | int | None]:
    """What the twins are worth: accuracy on items with a twin in train against those without.

    difference = a₁ − a₀. Its standard error is √(p₁(1−p₁)/(n₁+2) + p₀(1−p₀)/(n₀+2)) with
    p = (right + 1)/(n + 2) on each side, so that ten items that are all right do not count as
    certain (Agresti and Caffo 2000, doi:10.1080/00031305.2000.10474560). It is no proof of a leak's
    gain: items with twins may also be easier.

    Args:
        correct: (n,) 0 or 1 per item.
        has_twin: (n,) bool.

    Returns:
        n_with_twin, n_without_twin, accuracy_with_twin, accuracy_without_twin, difference,
        difference_se: None where a side is empty.
    """
    sides = [np.asarray(correct, np.float64)[np.asarray(has_twin, bool) == side] for side in (1, 0)]
    with_twin, without = (float(side.mean()) if len(side) else None for side in sides)
    difference = None if with_twin is None or without is None else with_twin - without
    shares = [(side.sum() + 1) / (len(side) + 2) for side in sides]
    squares = [p * (1 - p) / (len(side) + 2) for p, side in zip(shares, sides, strict=True)]
    return {
        "n_with_twin": len(sides[0]),
        "n_without_twin": len(sides[1]),
        "accuracy_with_twin": with_twin,
        "accuracy_without_twin": without,
        "difference": difference,
        "difference_se": None if difference is None else math.sqrt(sum(squares)),
    }
