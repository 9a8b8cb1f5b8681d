"""Leak check: items of one split that another split has seen, before anything is trained.

Four kinds, each an item of a later split (val, test) with a partner in an earlier one (train):
exact copies, near duplicates, groups on both sides; and copies that carry different labels.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lrexp.data.leaks_found import Conflict, Leaks, SharedGroup, Twins

SIDE = 8  # height and width of a thumbnail
FLAT = 0.5  # grey levels; a thumbnail with a smaller standard deviation shows nothing to compare
THRESHOLD, RATIO, RANK = 0.9, 0.25, 8  # of a near duplicate: see find_leaks
# Of the bounds that spare most images the search: numbers kept of a thumbnail, references from
# which on it is faster, the largest mean square cut off (noise has more), what rounding may do.
KEPT, WORTH_IT, CUT_OFF, ROUNDING = 48, 4096, 0.1, 1e-3
TOGETHER = 32  # references whose maximum is taken first
AT_ONCE = 512  # queries of a product with TOGETHER² references: 2 MiB, which stay in the cache
IMAGES_PER_BLOCK, QUERIES_PER_BLOCK, REFERENCES_PER_BLOCK = 1024, 2048, 4096  # 32 MiB of float32


@dataclass(frozen=True)
class Signatures:
    """What is kept of every image: 16 bytes that change with any pixel, and a small thumbnail."""

    hashes: np.ndarray  # (N,) S16: blake2b of shape and pixels
    thumbnails: np.ndarray  # (N, C * 64) float16, centred per channel, length 1; 0 where flat

    def __len__(self) -> int:
        return len(self.hashes)

    @staticmethod
    def of(images: np.ndarray) -> Signatures:
        """Signatures of a block of images; an image has the same one in every block.

        Args:
            images: (n, C, H, W) uint8.
        """
        starts = range(0, max(len(images), 1), IMAGES_PER_BLOCK)
        blocks = [_thumbnails(images[start : start + IMAGES_PER_BLOCK]) for start in starts]
        return Signatures(pixel_hashes(images), np.concatenate(blocks))

    @staticmethod
    def concatenate(parts: Iterable[Signatures]) -> Signatures:
        """One after the other; images may differ in height and width, not in channels."""
        parts = list(parts)
        return Signatures(
            np.concatenate([part.hashes for part in parts]),
            np.concatenate([part.thumbnails for part in parts]),
        )


def pixel_hashes(images: np.ndarray) -> np.ndarray:
    """(n, C, H, W) uint8 → (n,) S16: blake2b of shape and pixels."""
    shape = hashlib.blake2b(str(images.shape[1:]).encode(), digest_size=16)
    digests = []
    for image in np.ascontiguousarray(images):
        digest = shape.copy()
        digest.update(image)
        digests.append(digest.digest())
    return np.array(digests, "S16")


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Area means on 8×8 cells, centred per channel (a tint is no content) and scaled to length 1.

    Cell i of 8 covers rows floor(i H / 8) to ceil((i + 1) H / 8), so cells overlap where 8 does not
    divide H, and images below 8×8 repeat pixels. Sums are integers: no rounding, in any block.
    """
    n, channels, height, width = images.shape
    rows = [(i * height // SIDE, -(-(i + 1) * height // SIDE)) for i in range(SIDE)]
    columns = [(i * width // SIDE, -(-(i + 1) * width // SIDE)) for i in range(SIDE)]
    bands = np.stack([images[:, :, a:b].sum(2, dtype=np.uint32) for a, b in rows], 2)
    cells = np.stack([bands[..., a:b].sum(-1, dtype=np.uint32) for a, b in columns], -1)
    area = np.outer([b - a for a, b in rows], [b - a for a, b in columns])
    means = (cells / area).reshape(n, channels, SIDE * SIDE)
    means -= means.mean(2, keepdims=True)
    centred = means.reshape(n, channels * SIDE * SIDE)  # float64
    norm = np.sqrt((centred * centred).sum(1, keepdims=True))
    flat = norm < FLAT * math.sqrt(centred.shape[1])
    return np.where(flat, 0, centred / np.where(flat, 1, norm)).astype(np.float16)


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
    for i, (split, later) in enumerate(positions.items()):
        earlier = dict(itertools.islice(positions.items(), i))
        close = _near(signatures, codes, later, earlier, threshold, ratio)
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
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each earlier split: those of `later` with a near duplicate there, which it is, and ρ.

    Exact copies are among them, flat images are not.
    """
    content: np.ndarray = np.any(signatures.thumbnails, axis=1)
    later = later[content[later]]
    thumbnails, known = signatures.thumbnails, list[np.ndarray]()
    for at in earlier.values():
        distinct = at[np.unique(codes[at], return_index=True)[1]]
        known.append(distinct[content[distinct]])
    if not known:
        return []
    references = np.concatenate(known)
    later = later[_may_be_near(thumbnails[later], thumbnails, references, threshold, ratio)]
    found = [_neighbours(thumbnails[later], thumbnails, one) for one in known]
    every = np.sort(np.concatenate([values for values, _ in found], 1), 1)
    limit = ratio * (1 - every[:, -RANK])
    near = []
    for values, nearest in found:
        best = values[:, 0]
        hit = (best >= threshold) & (1 - best <= limit)
        near.append((later[hit], nearest[hit], np.minimum(best[hit], 1)))
    return near


def _may_be_near(
    queries: np.ndarray,
    thumbnails: np.ndarray,
    references: np.ndarray,
    threshold: float,
    ratio: float,
) -> np.ndarray:
    """(q,) bool: False where no reference can be a near duplicate of a query, by bounds on ρ.

    With P the projection on the first principal directions and x' = x − Px, Cauchy and Schwarz say
    |xᵀy − (Px)ᵀ(Py)| ≤ |x'| |y'|. References that are cut off alike stand together, and the largest
    (Px)ᵀ(Py) of TOGETHER of them bounds, from above, the nearest, and from below one reference of
    each: the RANK largest lower bounds are those of so many references. On photographs about 1 in
    100 images are left, at a quarter of the multiplications; where P cuts off too much, it is the
    identity: all multiplications, but no search for the RANK largest of a row.

    Args:
        queries: (q, D) float16.
        thumbnails: (N, D) float16.
        references: (r,) positions in `thumbnails`.
        threshold: of `find_leaks`, as is `ratio`.
    """
    if len(references) < WORTH_IT:
        return np.ones(len(queries), bool)
    sample = torch.from_numpy(thumbnails[references[:: -(-len(references) // WORTH_IT)]]).double()
    directions = torch.linalg.eigh(sample.T @ sample).eigenvectors[:, -KEPT:]  # (D, K)
    cut_off = sample.square().sum(1).mean() - (sample @ directions).square().sum(1).mean()
    directions = (directions if cut_off <= CUT_OFF else torch.eye(len(directions))).float()

    def projected(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(n, K), and the length (n,) of what is cut off."""
        parts = []
        for start in range(0, len(rows), REFERENCES_PER_BLOCK):
            whole = torch.from_numpy(rows[start : start + REFERENCES_PER_BLOCK]).float()
            kept = whole @ directions
            rest = ((whole * whole).sum(1) - (kept * kept).sum(1)).clamp_min(0).sqrt() + ROUNDING
            parts.append((kept, rest))
        kept, rest = zip(*parts, strict=True)
        return torch.cat(kept), torch.cat(rest)

    kept, rest = projected(thumbnails[references])
    order, missing = rest.argsort(), -len(references) % TOGETHER**2
    rest = pad(rest[order], (0, missing)).view(-1, TOGETHER).amax(1)
    kept = pad(kept[order], (0, 0, 0, missing))  # with flat images, which change no bound
    # One of each TOGETHER side by side: their maxima are then taken over whole rows, twice as fast.
    blocks = kept.view(-1, TOGETHER, TOGETHER, kept.shape[1]).transpose(1, 2).flatten(1, 2)
    room = torch.empty(AT_ONCE * TOGETHER**2)
    may = []
    for start in range(0, len(queries), AT_ONCE):
        query, cut = projected(queries[start : start + AT_ONCE])
        out = room[: len(query) * TOGETHER**2].view(len(query), -1)
        products = (torch.mm(query, block.T, out=out) for block in blocks)
        best = torch.cat([one.view(-1, TOGETHER, TOGETHER).amax(1) for one in products], 1)
        apart = cut[:, None] * rest
        upper = (best + apart).amax(1) + ROUNDING
        lower = (best - apart).topk(RANK, 1).values[:, -1].clamp_min(0)
        may.append((upper >= threshold) & (1 - upper <= ratio * (1 - lower) + ROUNDING))
    return torch.cat(may).numpy() if may else np.ones(0, bool)


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
