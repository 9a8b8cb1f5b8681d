"""Ways to run the points of a grid: points in, what came of each out, as soon as it ends.

An executor is a function of the points and the `Session` that runs them. It yields every point
once, in whatever order they end; exceptions of a point are in what it yields, those that stop the
sweep (KeyboardInterrupt, Terminated) pass through.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn

from lrexp.grid.isolation import undisturbed
from lrexp.grid.jobs import Session, pack
from lrexp.grid.points.point import Point
from lrexp.grid.settings import MOST_MEMBERS

if TYPE_CHECKING:
    from lrexp.train.loop import Trainer

log = logging.getLogger(__name__)

MEMORY = 0.6  # of what is free, for the members of a pack
CLEARLY = 0.9  # of the time of another way: what is chosen instead takes no more
Ended = Generator[tuple[Point, JobReturn], None, None]


def serial(points: Sequence[Point], session: Session) -> Ended:
    """One after the other in this program, each to the same bits as by itself."""
    return in_turn([[point] for point in points], session)


def stacked(points: Sequence[Point], session: Session) -> Ended:
    """Those that can be stacked in packs that train together, pack after pack; the rest serially.

    Packs are as large as memory allows, at most `hydra.launcher.members`.
    """
    return in_turn(stacks(points, session), session)


def stacks(points: Sequence[Point], session: Session) -> list[list[Point]]:
    """Points in packs that can train together."""
    packs: list[list[Point]] = []
    for points_alike in kinds(points):
        kind = Kind(points_alike)
        if len(points_alike) > 1:
            with aside(session.view, points_alike[0].num):
                kind = try_stacking(look(points_alike, session), session)
        if kind.reason:
            session.say(f"note   {kind.reason}")
            for point in points_alike:
                point.note = kind.reason
        packs += kind.packs()
    return packs


def in_turn(packs: Sequence[Sequence[Point]], session: Session) -> Ended:
    """Run packs in this program, a pack of one by itself."""
    for i, points in enumerate(packs):
        with undisturbed():
            ended = session.run(points)
        if not i:
            gc.freeze()  # what the first point imported: see `small_collections`
        yield from ended


def kinds(points: Sequence[Point]) -> list[list[Point]]:
    """The points by what those that may train together have in common, in order.

    Those that go on have it with others that are as far.
    """
    alike: dict[Any, list[Point]] = {}
    for point in points:
        key = (point.alike, point.reached) if point.alike else ("alone", point.num)
        alike.setdefault(key, []).append(point)
    return list(alike.values())


@dataclass
class Kind:
    """Points that may train together, and what is known of them after a look at one."""

    points: list[Point]
    trainer: Trainer | None = None  # of the first one, not trained; None: it cannot be built
    reason: str = ""  # why they have to train one by one
    largest: int = 1  # members of a pack at most
    steps: int = 0  # of one point
    serial: float = 0.0  # member-steps per second in this program; 0: not timed
    stacked: float | None = None  # likewise, in packs of `largest`; None: not timed

    @property
    def named(self) -> str:
        """`points 0-15`, or `points 0, 2, 4 and 9 more`."""
        nums = sorted(point.num for point in self.points)
        if nums == list(range(nums[0], nums[-1] + 1)):
            return f"points {nums[0]}-{nums[-1]}"
        first = ", ".join(map(str, nums[:3]))
        return f"points {first}" if len(nums) <= 3 else f"points {first} and {len(nums) - 3} more"

    @property
    def together(self) -> int:
        """Members of a pack, the faster way."""
        faster = self.stacked is not None and self.serial < CLEARLY * self.stacked
        return min(self.largest, len(self.points)) if faster else 1

    @property
    def rate(self) -> float:
        """Member-steps per second, the faster way."""
        return self.stacked if self.together > 1 and self.stacked else self.serial

    @property
    def seconds(self) -> float:
        """That they train, the faster way."""
        return self.steps * len(self.points) / self.rate if self.rate else 0.0

    def packs(self, largest: int | None = None) -> list[list[Point]]:
        """The points in packs of equal sizes, but for one point."""
        largest = min(self.largest, largest or self.largest)
        seeds = [point.settings.get("seed") for point in self.points]  # of the batches
        return [[self.points[i] for i in part] for part in pack(seeds, largest)]


@contextmanager
def aside(view: Any, num: int) -> Iterator[None]:
    """Build a point outside of its run: what it leaves behind is put back, warnings are shown."""
    from lrexp.grid.live import OncePerGrid

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(OncePerGrid(view, num))
    with undisturbed():
        logging.root.addHandler(handler)
        try:
            yield
        finally:
            logging.root.removeHandler(handler)


def look(points: list[Point], session: Session) -> Kind:
    """Build the first of some points; it is left to its run to say why it cannot be built."""
    try:
        return Kind(points, session.task.trainer(points[0].config))
    except Exception as error:
        log.info("point %d cannot be looked at", points[0].num, exc_info=error)
        return Kind(points)


def try_stacking(kind: Kind, session: Session) -> Kind:
    """Find out whether points can be stacked, and how many fit into memory."""
    from lrexp.data.feeding import free_bytes
    from lrexp.grid.stack.probe import member_bytes, probe

    if kind.trainer is None:
        return kind
    if reason := probe(kind.trainer):
        return replace(kind, reason=f"{kind.named} train one by one: {reason}")
    bytes_each = member_bytes(kind.trainer)
    most = session.settings.members or MOST_MEMBERS
    fit = int(MEMORY * free_bytes(kind.trainer.experiment.device)) // max(1, bytes_each)
    if fit < 2 <= most:
        needed, free = f"{2 * bytes_each / 1e9:.1f} GB", f"{MEMORY:.0%} of what is free"
        reason = f"{kind.named} train one by one: two together need {needed}, more than {free}"
        return replace(kind, reason=reason)
    return replace(kind, largest=min(most, fit))
