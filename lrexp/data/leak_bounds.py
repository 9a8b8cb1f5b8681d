"""Which images need no search for near duplicates: bounds on the correlation with all others."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from lrexp.data.leaks_found import NEAREST_IMAGES

RANK = 8  # of the neighbour that a near duplicate must stand out from: see find_leaks
# Numbers kept of a thumbnail, references from which on bounds are faster than the search, the share
# of queries that is worth another bound, what rounding may do.
KEPT, WORTH_IT, MANY, ROUNDING = (48, 64, 96, 128), 4096, 0.1, 1e-3
WASTED = 0.25  # the share that a bound leaves to the next, of half as many numbers more
TOGETHER = 32  # references whose maximum is taken first
AT_ONCE = 512  # queries of a product with TOGETHER² references: 2 MiB, which stay in the cache
BOX = 8  # numbers by which references are put into blocks
PROBE = 128  # queries that are asked first, among some references: which bound is of use
FIRST = 4  # nearest blocks that say how near the others must lie
ROOM = 2**22  # maxima kept at once: 16 MiB
ALL = 64  # blocks of references up to which a query is compared with every one within reach


def may_be_near(
    queries: np.ndarray,
    thumbnails: np.ndarray,
    references: np.ndarray,
    threshold: float,
    ratio: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Which queries may have a near duplicate among the references, by bounds on ρ.

    Bounds of a few numbers of every thumbnail first, those on the first principal directions of the
    references; of more numbers where many are left, and a bound that leaves a quarter of what it is
    asked for is not asked again.

    References stand in blocks of 1,024 that lie near each other. Up to ALL blocks (65,536
    references) no near duplicate is lost. Of more, a query is compared with the 16 nearest blocks
    alone, so that what a query costs has an end; where another block could hold a near duplicate,
    its search was cut short. Among 400,000 images of noise that lost 1 % of planted pairs that the
    rule just reaches (ρ = 0.95 to 0.97), and none above 0.98.

    Args:
        queries: (q, D) float16.
        thumbnails: (N, D) float16.
        references: (r,) positions in `thumbnails`.
        threshold: of `find_leaks`, as is `ratio`.

    Returns:
        (q,) bool, False where no reference that it was compared with can be a near duplicate; (q,)
        bool, True where a block within reach was left out.
    """
    may, cut_short = np.ones(len(queries), bool), np.zeros(len(queries), bool)
    if len(references) < WORTH_IT or not len(queries):
        return may, cut_short
    some = references[:: -(-len(references) // WORTH_IT)]
    sample = torch.from_numpy(thumbnails[some]).double()
    every = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1).float()  # (D, D)
    blocks = _Blocks(thumbnails, references, every[:, :BOX])
    kept = [k for k in sorted({*KEPT, len(every)}) if k <= len(every)]
    for k in kept:
        at = np.flatnonzero(may)
        if len(at) <= MANY * len(queries):
            break
        bound = _Bound(blocks, every[:, :k], threshold, ratio)
        some_left, _ = bound.may_be_near(queries[at[:: -(-len(at) // PROBE)]])
        if some_left.mean() <= WASTED or k == kept[-1]:
            may[at], cut_short[at] = bound.may_be_near(queries[at])
    return may, cut_short & ~may


class _Blocks:
    """References in blocks of TOGETHER² that lie near each other, the last may be smaller.

    In each of a few directions (D, BOX) a block lies between two numbers: in a box, and a query
    (of length 1, as they are) has a correlation of at most 1 − d²/2 with what lies in a box at
    distance d.
    """

    def __init__(self, thumbnails: np.ndarray, references: np.ndarray, directions: Tensor):
        self._thumbnails, self._references, self._directions = thumbnails, references, directions
        starts = range(0, len(references), WORTH_IT)
        points = torch.cat([self._points(thumbnails[references[i : i + WORTH_IT]]) for i in starts])
        self._rows = list(_near_each_other(points, TOGETHER**2))
        boxes = [points[rows].aminmax(dim=0) for rows in self._rows]
        self._least, self._largest = (torch.stack(each) for each in zip(*boxes, strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[np.ndarray]:
        """The thumbnails (n, D) of each."""
        return (self._thumbnails[self._references[rows.numpy()]] for rows in self._rows)

    def nearest(self, queries: np.ndarray, slots: int) -> tuple[Tensor, Tensor]:
        """The squares of the distances of the nearest boxes to each query (q, D), and which.

        (q, slots + 1), nearest first: the last is infinite where there are no more. (q, slots).
        """
        points, away = self._points(queries), torch.empty(len(self), len(queries))
        for i in range(len(self)):
            outside = points - points.clamp(self._least[i], self._largest[i])
            away[i] = outside.square().sum(1)
        found = pad(away, (0, 0, 0, 1), value=math.inf).T.topk(slots + 1, 1, largest=False)
        return found.values, found.indices[:, :-1]

    def _points(self, whole: np.ndarray) -> Tensor:
        """(n, D) → (n, BOX)."""
        return torch.from_numpy(whole).float() @ self._directions


class _Bound:
    """Bounds on ρ of a query with many references, from their projections on some directions.

    With P the projection and x' = x − Px, Cauchy and Schwarz say |xᵀy − (Px)ᵀ(Py)| ≤ |x'| |y'|.
    References that are cut off alike stand together, and the largest (Px)ᵀ(Py) of TOGETHER of them
    bounds, from above, the nearest, and from below one reference of each: the RANK largest lower
    bounds are those of so many references. On all D directions nothing is cut off, and what it
    saves is the search for the RANK largest of a row.

    A query is multiplied with the blocks whose boxes lie within reach of it, the FIRST nearest
    ones before the others: how near its RANK-th neighbour is at least says how near a duplicate
    had to be.

    Args:
        blocks: of references.
        directions: (D, K) float32, orthonormal.
        threshold: of `find_leaks`, as is `ratio`.
    """

    def __init__(self, blocks: _Blocks, directions: Tensor, threshold: float, ratio: float):
        self._directions, self._threshold, self._ratio = directions, threshold, ratio
        self._boxes, size = blocks, TOGETHER**2
        # (blocks, TOGETHER², K) what is kept; (blocks, TOGETHER) the most that is cut off of any.
        self._kept = torch.zeros(len(blocks), size, directions.shape[1])
        self._rest = torch.zeros(len(blocks), TOGETHER)
        for i, whole in enumerate(blocks):
            kept, rest = self._projected(whole)
            order, missing = rest.argsort(), size - len(rest)
            self._rest[i] = pad(rest[order], (0, missing)).view(-1, TOGETHER).amax(1)
            # Flat images fill it, which change no bound. One of each TOGETHER side by side: their
            # maxima are then taken over whole rows, twice as fast.
            kept = pad(kept[order], (0, 0, 0, missing)).view(TOGETHER, TOGETHER, -1)
            self._kept[i] = kept.transpose(0, 1).flatten(0, 1)

    def _projected(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(n, K), and the length (n,) of what is cut off."""
        whole = torch.from_numpy(rows).float()
        kept = whole @ self._directions
        cut_off = ((whole * whole).sum(1) - (kept * kept).sum(1)).clamp_min(0)
        return kept, cut_off.sqrt() + ROUNDING

    def may_be_near(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of queries (q, D) what `may_be_near` says: (q,) bool each."""
        slots = len(self._boxes) if len(self._boxes) <= ALL else NEAREST_IMAGES // TOGETHER**2
        size = max(1, ROOM // (slots * TOGETHER))
        starts = range(0, len(queries), size)
        parts = [self._of_part(queries[start : start + size], slots) for start in starts]
        may, cut_short = (torch.cat(each).numpy() for each in zip(*parts, strict=True))
        return may, cut_short

    def _of_part(self, queries: np.ndarray, slots: int) -> tuple[Tensor, Tensor]:
        (query, cut), (away, block) = self._projected(queries), self._boxes.nearest(queries, slots)
        best = torch.full((len(query), slots, TOGETHER), -math.inf)
        apart = cut[:, None, None] * self._rest[block]
        reach = torch.full((len(query),), 2 * (1 - self._threshold) + 8 * ROUNDING)  # its square
        for first, last in ((0, min(FIRST, slots)), (min(FIRST, slots), slots)):
            within = away[:, first:last] <= reach[:, None]
            self._multiply(query, block[:, first:last], within, best[:, first:last])
            lower = (best[:, :last] - apart[:, :last]).flatten(1)
            lower = lower.topk(min(RANK, lower.shape[1]), 1).values[:, -1].clamp_min(0)
            limit = self._ratio * (1 - lower) + ROUNDING
            reach = reach.minimum(2 * limit + 8 * ROUNDING)
        upper = (best + apart).flatten(1).amax(1) + ROUNDING
        may = (upper >= self._threshold) & (1 - upper <= limit)
        return may, away[:, -1] <= reach

    def _multiply(self, query: Tensor, block: Tensor, within: Tensor, best: Tensor) -> None:
        """Write into `best` (q, slots, TOGETHER) the maxima of blocks (q, slots) within reach."""
        row, slot = within.nonzero(as_tuple=True)
        which, order = block[row, slot].sort()
        room = torch.empty(AT_ONCE * TOGETHER**2)
        blocks, counts = which.unique_consecutive(return_counts=True)
        for i, pairs in zip(blocks.tolist(), order.split(counts.tolist()), strict=True):
            for some in pairs.split(AT_ONCE):
                out = room[: len(some) * TOGETHER**2].view(len(some), -1)
                torch.mm(query[row[some]], self._kept[i].T, out=out)
                best[row[some], slot[some]] = out.view(-1, TOGETHER, TOGETHER).amax(1)


def _near_each_other(points: Tensor, size: int) -> Iterator[Tensor]:
    """Positions of points (n, K) in blocks of `size`, the last may be smaller.

    Cut in two where they vary most, again and again: a block lies in a box that is small in those
    directions.
    """
    left = [torch.arange(len(points))]
    while left:
        rows = left.pop()
        if len(rows) <= size:
            yield rows
            continue
        own, middle = points[rows], -(-len(rows) // size) // 2 * size
        values = own[:, own.var(0).argmax()].numpy()
        rows = rows[torch.from_numpy(values.argpartition(middle))]
        left += [rows[middle:], rows[:middle]]
