"""`executor=auto`: how points are run is chosen by what a few of their steps take."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lrexp.config.errors import out_of_memory
from lrexp.grid.executors import (
    Ended,
    Kind,
    aside,
    in_turn,
    kinds,
    look,
    try_stacking,
)
from lrexp.grid.jobs import Session
from lrexp.grid.points.point import Point
from lrexp.grid.pool.pool import measure_pool, opened, places, run_packs
from lrexp.grid.pool.workers import Workers

log = logging.getLogger(__name__)

CLEARLY = 0.9  # of the time of another way: what is chosen instead takes no more
WORTH = 0.03  # of the time that points train: what looking for another way may take
TIMED = 0.005  # likewise: what the timed steps of one way take
LEAST_S, MOST_S = 0.02, 0.1  # limits of that
LOOK_STEPS = 40  # finding out whether points can be stacked takes as long as so many steps
AGAIN_STEPS = 10  # likewise timing a run by itself once more, at least
LONE = 4  # points of kinds of their own that are timed; they tell whether a pool is worth it
CLONE_S = 0.005  # to copy a member for timing
STACKED_STEPS = 10  # of every member, at least, while stacking is timed
CPU_MEMBERS = 16  # that are timed together on a CPU, where more bring next to nothing
POOL_START_S = 4.0  # until workers train
LINES = 6  # on the terminal


@dataclass(frozen=True)
class Estimate:
    """What training points of one kind takes in this program."""

    kind: Kind
    steps: int = 0  # of one point
    serial: float = 0.0  # member-steps per second
    stacked: float | None = None  # likewise, in packs of kind.largest; None: not timed

    @property
    def largest(self) -> int:
        """Members of a pack, the faster way."""
        faster = self.stacked is not None and self.serial < CLEARLY * self.stacked
        return min(self.kind.largest, len(self.kind.points)) if faster else 1

    @property
    def rate(self) -> float:
        """Member-steps per second, the faster way."""
        return self.stacked if self.largest > 1 and self.stacked else self.serial

    @property
    def seconds(self) -> float:
        """That they train, the faster way."""
        return self.steps * len(self.kind.points) / self.rate if self.rate else 0.0

    @property
    def line(self) -> str:
        """How they are run and why, in figures."""
        if self.kind.reason:
            return self.kind.reason
        rates = f"serial {self.serial:,.0f}"
        if self.stacked is not None:
            together = min(self.kind.largest, len(self.kind.points))
            rates += f", {together} stacked {self.stacked:,.0f}"
        chosen = f"stacked, {self.largest} together" if self.largest > 1 else "serial"
        return f"auto   {self.kind.named}: {chosen} (member-steps/s: {rates})"


def auto(points: Sequence[Point], session: Session) -> Ended:
    """The way that is measured to be fastest, kind by kind: serially, stacked, or in a pool.

    A few steps of each way are timed on the points' own shapes. What could not win back the time
    that this takes is not looked at.
    """
    if not points:
        return
    started = time.perf_counter()
    estimates = _estimates(kinds(points), session)
    seconds = sum(estimate.seconds for estimate in estimates)
    spent = time.perf_counter() - started
    log.info("auto: training takes about %.1f s here; %.2f s for timing", seconds, spent)
    timed = [e for e in estimates if e.stacked is not None or e.kind.reason]
    for estimate in timed:
        for point in estimate.kind.points:
            point.note = estimate.line
    for estimate in timed[:LINES]:
        session.say(estimate.line)
    where = places(session.settings, points)[: len(points)]
    if len(where) > 1 and POOL_START_S + seconds / len(where) < CLEARLY * seconds:
        with opened(session, points, where) as workers:
            if _is_faster(workers, len(where), estimates, session):
                packs = _packs(estimates, len(where))
                longest_first = sorted(packs, key=lambda pack: (-pack[0], pack[1][0].num))
                yield from run_packs([part for _, part in longest_first], workers, session)
                return
    elif not timed:
        shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
        session.say(f"auto   serial: {shown} s of training are too little to time other ways")
    packs = [part for _, part in _packs(estimates, 1)]
    yield from in_turn(sorted(packs, key=lambda part: part[0].num), session)


def _packs(estimates: Sequence[Estimate], workers: int) -> list[tuple[float, list[Point]]]:
    """Packs and how many seconds each trains; of every kind enough for so many workers."""
    return [
        (e.seconds * len(part) / len(e.kind.points), part)
        for e in estimates
        for part in e.kind.packs(min(e.largest, -(-len(e.kind.points) // workers)))
    ]


def _is_faster(
    workers: Workers, count: int, estimates: Sequence[Estimate], session: Session
) -> bool:
    """Whether so many workers clearly train what takes longest faster than this program."""
    longest = max(estimates, key=lambda e: e.seconds)
    sample = max((part for _, part in _packs([longest], count)), key=len)
    here, there = longest.rate, measure_pool(workers, sample, count)
    faster = here < CLEARLY * there
    session.say(
        f"auto   a pool of {count} workers does {there:,.0f} member-steps/s where this"
        f" program does {here:,.0f}: {'taken' if faster else 'not taken'}"
    )
    return faster


def _estimates(alike: Sequence[list[Point]], session: Session) -> list[Estimate]:
    """What training takes, kind by kind.

    Of many points of kinds of their own only some are timed; the others, which have nothing to
    choose from, are taken to be like the one before them.
    """
    known: dict[str, Estimate] = {}
    every = -(-sum(len(points) == 1 for points in alike) // LONE)
    estimates, lone = [], 0
    latest: Estimate | None = None
    for points in alike:
        if len(points) > 1:
            estimates.append(_estimate(points, session, known))
        elif latest is None or lone % every == 0:
            estimates.append(latest := _estimate(points, session, known))
        else:
            estimates.append(replace(latest, kind=Kind(points)))
        lone += len(points) == 1
    return estimates


def _estimate(points: list[Point], session: Session, known: dict[str, Estimate]) -> Estimate:
    """Time ways of training points that may train together.

    Args:
        points: of one kind.
        session: that runs them.
        known: estimates by what points have in common beyond their kind; those that it cannot pay
            to look at take one.
    """
    job = _job(points[0])
    if job in known:
        like = replace(known[job], kind=Kind(points), stacked=None)
        if not _worth_a_look(like):
            return like
    with aside(session.view, points[0].num):
        kind = look(points, session)
        if kind.trainer is None or not kind.trainer.experiment.schedule:
            return Estimate(Kind(points))
        try:
            estimate = _timed(kind, session)
        except Exception as error:  # its run will say so
            log.info("timing failed", exc_info=error)
            return Estimate(Kind(points))
        estimate.kind.trainer = None
    known[job] = estimate
    return estimate


def _timed(kind: Kind, session: Session) -> Estimate:
    from lrexp.grid.stack.timing import clones, steps_per_s

    assert kind.trainer is not None
    trainer, seed = kind.trainer, int(kind.points[0].settings["seed"])
    steps = len(trainer.experiment.schedule)
    serial = steps_per_s(clones(trainer, [seed]), LEAST_S)
    estimate, stacked = Estimate(kind, steps, serial), None
    if _worth_a_look(estimate):
        at_least_s = min(max(TIMED * estimate.seconds, LEAST_S), MOST_S)
        kind, stacked = _stacked(try_stacking(kind, session), at_least_s)
    elif max(2 * LEAST_S, AGAIN_STEPS / serial) > WORTH * estimate.seconds:
        return estimate
    again = steps_per_s(clones(trainer, [seed]), LEAST_S)
    return Estimate(kind, steps, max(serial, again), stacked)  # one may have been disturbed


def _stacked(kind: Kind, at_least_s: float) -> tuple[Kind, float | None]:
    """The kind with packs of a size that fits, and their member-steps per second if they can be."""
    from lrexp.grid.stack.timing import clones, steps_per_s

    trainer = kind.trainer
    assert trainer is not None
    if trainer.experiment.device.type == "cpu":
        kind = replace(kind, largest=min(kind.largest, CPU_MEMBERS))
    while (members := min(kind.largest, len(kind.points))) > 1:
        try:
            seeds = [int(point.settings["seed"]) for point in kind.packs()[0]]
            return kind, steps_per_s(clones(trainer, seeds), at_least_s)
        except Exception as error:
            if not out_of_memory(error):
                reason = f"{kind.named} train one by one: {error}"
                return replace(kind, largest=1, reason=reason), None
            kind = replace(kind, largest=members // 2)
    return kind, None


def _worth_a_look(serially: Estimate) -> bool:
    """Whether stacking these points could win back what it takes to find out."""
    count = min(len(serially.kind.points), CPU_MEMBERS)
    if count == 1 or not serially.serial:
        return False
    looking_s = (LOOK_STEPS + STACKED_STEPS * count) / serially.serial + CLONE_S * count
    return looking_s <= WORTH * serially.seconds


def _job(point: Point) -> str:
    """What decides how long a step takes and how many there are, but for what is frozen."""
    sections = ("model.", "data.", "trainer.", "optimizer.name")
    return json.dumps([kv for kv in point.settings.items() if kv[0].startswith(sections)])
