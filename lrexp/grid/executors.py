"""Ways to run the points of a grid: points in, what came of each out, as soon as it ends.

An executor is a function of the points and a `RunPoint` that runs one of them in this program. It
yields every point once, in whatever order they end; exceptions of a point are in what it yields,
those that stop the sweep (KeyboardInterrupt, Terminated) pass through.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence

from hydra.core.utils import JobReturn

from lrexp.grid.isolation import undisturbed
from lrexp.grid.points import Point

RunPoint = Callable[[Point], JobReturn]
Ended = Iterator[tuple[Point, JobReturn]]
Executor = Callable[[Sequence[Point], RunPoint], Ended]


def serial(points: Sequence[Point], run: RunPoint) -> Ended:
    """One after the other in this program, each to the same bits as by itself."""
    for i, point in enumerate(points):
        with undisturbed():
            ended = run(point)
        if not i:
            gc.freeze()  # what the first point imported: see `small_collections`
        yield point, ended


EXECUTORS: dict[str, Executor] = {"serial": serial}
