"""Which images need no search for near duplicates: bounds on the correlation with all others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

RANK = 8  # of the neighbour that a near duplicate must stand out from: see find_leaks
# Numbers kept of a thumbnail, references from which on bounds are faster than the search, the share
# of a block of queries that is worth another bound, what rounding may do.
KEPT, WORTH_IT, MANY, ROUNDING = (48, 64, 96, 128), 4096, 0.1, 1e-3
WASTED = 0.25  # the share that a bound leaves to the next, of half as many numbers more
TOGETHER = 32  # references whose maximum is taken first
AT_ONCE = 512  # queries of a product with TOGETHER² references: 2 MiB, which stay in the cache
BOX = 16  # numbers by which references are put into blocks
PROBE = 128  # queries that are asked first, among some references: which bound is of use


def may_be_near(
    queries: np.ndarray,
    thumbnails: np.ndarray,
    references: np.ndarray,
    threshold: float,
    ratio: float,
) -> np.ndarray:
    """(q,) bool: False where no reference can be a near duplicate of a query, by bounds on ρ.

    Bounds of a few numbers of every thumbnail first, those on the first principal directions of the
    references; of more numbers where many are left, and a bound that leaves a quarter of what it is
    asked for is not asked again. On photographs about 1 in 100 images are left after a
    quarter of all multiplications, noise takes a third to two thirds of them.

    Args:
        queries: (q, D) float16.
        thumbnails: (N, D) float16.
        references: (r,) positions in `thumbnails`.
        threshold: of `find_leaks`, as is `ratio`.
    """
    may = np.ones(len(queries), bool)
    if len(references) < WORTH_IT or not len(queries):
        return may
    some = references[:: -(-len(references) // WORTH_IT)]
    sample = torch.from_numpy(thumbnails[some]).double()
    every = torch.linalg.eigh(sample.T @ sample).eigenvectors.flip(1).float()  # (D, D)

    def bound_of(kept: int, among: np.ndarray) -> _Bound:
        return _Bound(thumbnails, among, threshold, ratio, every[:, :kept])

    kept = [k for k in sorted({*KEPT, len(every)}) if k <= len(every)]
    asked = queries[:: -(-len(queries) // PROBE)]
    while len(kept) > 1 and bound_of(kept[0], some).may_be_near(asked).mean() > WASTED:
        kept.pop(0)
    bounds = [bound_of(k, references) for k in kept]
    for block in np.split(np.arange(len(queries)), range(AT_ONCE, len(queries), AT_ONCE)):
        for bound in list(bounds):
            asked = block[may[block]]
            if len(asked) <= MANY * len(block):
                break
            may[asked] = bound.may_be_near(queries[asked])
            if may[asked].mean() > WASTED and bound is not bounds[-1]:
                bounds.remove(bound)
    return may


class _Bound:
    """Bounds on ρ of a query with many references, from their projections on some directions.

    With P the projection and x' = x − Px, Cauchy and Schwarz say |xᵀy − (Px)ᵀ(Py)| ≤ |x'| |y'|.
    References that are cut off alike stand together, and the largest (Px)ᵀ(Py) of TOGETHER of them
    bounds, from above, the nearest, and from below one reference of each: the RANK largest lower
    bounds are those of so many references. On all D directions nothing is cut off, and what it
    saves is the search for the RANK largest of a row.

    A block of references in whose box no point lies near enough is not multiplied with the query:
    |x − y|² ≥ |Px − Py|², and for vectors of length 1 ρ = 1 − |x − y|²/2.

    Args:
        thumbnails: (N, D) float16.
        references: (r,) positions in `thumbnails`.
        threshold: of `find_leaks`, as is `ratio`.
        directions: (D, K) float32, orthonormal.
    """

    def __init__(
        self,
        thumbnails: np.ndarray,
        references: np.ndarray,
        threshold: float,
        ratio: float,
        directions: Tensor,
    ):
        self._directions, self._threshold, self._ratio = directions, threshold, ratio
        self._of = thumbnails, references

    @cached_property
    def _blocks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the references, in blocks of TOGETHER² that lie near each other.

        (blocks, TOGETHER², K) what is kept; (groups,) the most that is cut off of any; the least
        and the largest (blocks, BOX) of the first numbers that are kept.
        """
        thumbnails, references = self._of
        parts = [self._projected(part) for part in _parts(thumbnails, references)]
        kept, rest = (torch.cat(each) for each in zip(*parts, strict=True))
        size = TOGETHER**2
        of_box = kept[:, :BOX].contiguous()
        placed = [rows[rest[rows].argsort()] for rows in _near_each_other(of_box, size)]
        boxes = [of_box[rows].aminmax(dim=0) for rows in placed]
        order, missing = torch.cat(placed), -len(references) % size
        rest = pad(rest[order], (0, missing)).view(-1, TOGETHER).amax(1)
        kept = pad(kept[order], (0, 0, 0, missing))  # with flat images, which change no bound
        # One of each TOGETHER side by side: their maxima are then taken over whole rows, twice as
        # fast.
        kept = kept.view(-1, TOGETHER, TOGETHER, kept.shape[1]).transpose(1, 2).flatten(1, 2)
        least, largest = (torch.stack(each) for each in zip(*boxes, strict=True))
        return kept, rest, least, largest

    def _projected(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """(n, K), and the length (n,) of what is cut off."""
        whole = torch.from_numpy(rows).float()
        kept = whole @ self._directions
        cut_off = ((whole * whole).sum(1) - (kept * kept).sum(1)).clamp_min(0)
        return kept, cut_off.sqrt() + ROUNDING

    def may_be_near(self, queries: np.ndarray) -> np.ndarray:
        """(q,) bool: False where no reference can be a near duplicate of a query (q, D)."""
        (blocks, rest, least, largest), (query, cut) = self._blocks, self._projected(queries)
        farthest = 2 * (1 - self._threshold) + 8 * ROUNDING  # the square of it
        of_box, room = query[:, :BOX].contiguous(), torch.empty(len(query) * TOGETHER**2)
        best = torch.full((len(query), len(blocks), TOGETHER), -math.inf)
        for i, block in enumerate(blocks):
            away = of_box - of_box.clamp(least[i], largest[i])
            rows = (away.square().sum(1) <= farthest).nonzero()[:, 0]
            if len(rows):
                out = room[: len(rows) * TOGETHER**2].view(len(rows), -1)
                torch.mm(query[rows], block.T, out=out)
                best[rows, i] = out.view(-1, TOGETHER, TOGETHER).amax(1)
        best, apart = best.flatten(1), cut[:, None] * rest
        upper = (best + apart).amax(1) + ROUNDING
        lower = (best - apart).topk(min(RANK, best.shape[1]), 1).values[:, -1].clamp_min(0)
        may = (upper >= self._threshold) & (1 - upper <= self._ratio * (1 - lower) + ROUNDING)
        return may.numpy()


def _parts(thumbnails: np.ndarray, references: np.ndarray) -> Iterator[np.ndarray]:
    """Thumbnails of references (r,), some (n, D) at a time."""
    for start in range(0, len(references), WORTH_IT):
        yield thumbnails[references[start : start + WORTH_IT]]


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
