"""`executor=auto`: how points are run is chosen by what a few of their steps take."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from lrexp.config.errors import out_of_memory
from lrexp.config.parts import handed_over
from lrexp.grid.executors import (
    CLEARLY,
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

WORTH = 0.03  # of the time that points train: what looking for another way may take
TIMED = 0.005  # likewise: what the timed steps of one way take
LEAST_S, MOST_S = 0.02, 0.1  # limits of that
LOOK_STEPS = 40  # finding out whether points can be stacked takes as long as so many steps,
LOOK_S = 0.05  # and so long besides
AGAIN_STEPS = 10  # likewise timing a run by itself once more, at least
LONE = 4  # points of kinds of their own that are timed; they tell whether a pool is worth it
CLONE_S = 0.005  # to copy a member for timing
STACKED_STEPS = 10  # of every member, at least, while stacking is timed
CPU_MEMBERS = 16  # that are timed together on a CPU, where more bring next to nothing
POOL_START_S = 4.0  # until workers train
# A run takes at least so long beside its steps: it is built, evaluated, recorded, concluded. Of 90
# runs of 0.2 s of steps it was 0.9 s; no stack shares it, and workers do it side by side.
BESIDE_S = 0.5
LINES = 6  # on the terminal


def auto(points: Sequence[Point], session: Session) -> Ended:
    """The way that is measured to be fastest, kind by kind: serially, stacked, or in a pool.

    A few steps of each way are timed on the points' own shapes. What could not win back the time
    that this takes is not looked at. Whether workers pay is told by whole runs: see `BESIDE_S`.
    """
    if not points:
        return
    started = time.perf_counter()
    found = looked_at(kinds(points), session)
    seconds = sum(kind.seconds for kind in found)
    spent = time.perf_counter() - started
    log.info("auto: training takes about %.1f s here; %.2f s for timing", seconds, spent)
    timed = [kind for kind in found if kind.stacked is not None or kind.reason]
    for i, kind in enumerate(timed):
        line = kind.reason or _line(kind)
        for point in kind.points:
            point.note = line
        if i < LINES:
            session.say(line)
    where = places(session.settings, points)[: 1 if handed_over() else len(points)]
    if pool_may_pay(seconds, len(points), len(where)):
        with opened(session, points, where) as workers:
            here, there = pool_rates(workers, len(where), found)
            faster = pool_pays(seconds, len(points), len(where), here, there)
            session.say(_pool_line(here, there, len(where), faster))
            if faster:
                packs = _packs(found, len(where))
                packs.sort(key=lambda pack: (-pack[0], pack[1][0].num))  # the longest first
                yield from run_packs([part for _, part in packs], workers, session)
                return
    elif not timed:
        shown = f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"
        session.say(f"auto   serial: {shown} s of training are too little to time other ways")
    in_order = sorted((part for _, part in _packs(found, 1)), key=lambda part: part[0].num)
    yield from in_turn(in_order, session)


def _line(kind: Kind) -> str:
    """How points are run and why, in figures."""
    together = min(kind.largest, len(kind.points))
    chosen = f"stacked, {kind.together} together" if kind.together > 1 else "serial"
    rates = f"serial {kind.serial:,.0f}, {together} stacked {kind.stacked:,.0f}"
    return f"auto   {kind.named}: {chosen} (member-steps/s: {rates})"


def _packs(found: Sequence[Kind], workers: int) -> list[tuple[float, list[Point]]]:
    """Packs and how many seconds each trains; of every kind enough for so many workers."""
    return [
        (kind.seconds * len(part) / len(kind.points), part)
        for kind in found
        for part in kind.packs(min(kind.together, -(-len(kind.points) // workers)))
    ]


def pool_may_pay(seconds: float, points: int, workers: int) -> bool:
    """Whether so many workers could clearly be faster, so that it pays to start and time them.

    Args:
        seconds: that all points train in this program, steps alone.
        points: how many.
        workers: how many.
    """
    whole = seconds + BESIDE_S * points
    return workers > 1 and seconds > 0 and POOL_START_S + whole / workers < CLEARLY * whole


def pool_pays(seconds: float, points: int, workers: int, here: float, there: float) -> bool:
    """Whether workers that were started clearly take less time, by the rates of their steps."""
    if not there:
        return False
    beside = BESIDE_S * points
    return seconds * here / there + beside / workers < CLEARLY * (seconds + beside)


def pool_rates(workers: Workers, count: int, found: Sequence[Kind]) -> tuple[float, float]:
    """Member-steps per second of what trains longest: in this program, and in so many workers."""
    longest = max(found, key=lambda kind: kind.seconds)
    sample = max((part for _, part in _packs([longest], count)), key=len)
    return longest.rate, measure_pool(workers, sample, count)


def _pool_line(here: float, there: float, count: int, faster: bool) -> str:
    return (
        f"auto   a pool of {count} workers does {there:,.0f} member-steps/s where this"
        f" program does {here:,.0f}: {'taken' if faster else 'not taken'}"
    )


def looked_at(alike: Sequence[list[Point]], session: Session) -> list[Kind]:
    """What training takes, kind by kind.

    Of many points of kinds of their own only some are timed; the others, which have nothing to
    choose from, are taken to be like the one before them.
    """
    known: dict[str, Kind] = {}
    every = -(-sum(len(points) == 1 for points in alike) // LONE)
    found, lone = [], 0
    latest = Kind([])
    for points in alike:
        if len(points) > 1:
            found.append(_look(points, session, known))
            continue
        if lone % every == 0:
            latest = _look(points, session, known)
        found.append(_like(latest, points))
        lone += 1
    return found


def _like(kind: Kind, points: list[Point]) -> Kind:
    """Other points whose steps are taken to be like those of a kind."""
    return Kind(points, steps=kind.steps, serial=kind.serial)


def _look(points: list[Point], session: Session, known: dict[str, Kind]) -> Kind:
    """Time ways of training points that may train together.

    Those that it cannot pay to look at are taken to be like a known kind of the same job: what
    decides how long a step takes and how many there are, but for what is frozen.
    """
    sections = ("model.", "data.", "trainer.", "optimizer.name")
    job = json.dumps([kv for kv in points[0].settings.items() if kv[0].startswith(sections)])
    if job in known:
        like = _like(known[job], points)
        if not _worth_a_look(like):
            return like
    with aside(session.view, points[0].num):
        kind = look(points, session)
        if kind.trainer is None or not kind.trainer.experiment.schedule:
            return Kind(points)
        try:
            kind = _timed(kind, session)
        except Exception as error:  # its run will say so
            log.info("timing failed", exc_info=error)
            return Kind(points)
        kind.trainer = None
    known[job] = kind
    return kind


def _timed(kind: Kind, session: Session) -> Kind:
    from lrexp.grid.stack.probe import clones, steps_per_s

    assert kind.trainer is not None
    trainer, seed = kind.trainer, int(kind.points[0].settings["seed"])
    serial = steps_per_s(clones(trainer, [seed]), LEAST_S)
    steps = max(1, len(trainer.experiment.schedule) - (kind.points[0].reached or 0))
    kind = replace(kind, steps=steps, serial=serial)
    if _worth_a_look(kind):
        at_least_s = min(max(TIMED * kind.seconds, LEAST_S), MOST_S)
        kind = _stacked(try_stacking(kind, session), at_least_s)
    elif max(2 * LEAST_S, AGAIN_STEPS / serial) > WORTH * kind.seconds:
        return kind
    again = steps_per_s(clones(trainer, [seed]), LEAST_S)
    return replace(kind, serial=max(serial, again))  # one may have been disturbed


def _stacked(kind: Kind, at_least_s: float) -> Kind:
    """The kind with packs of a size that fits, timed if they can be."""
    from lrexp.grid.stack.probe import clones, steps_per_s
    from lrexp.grid.stack.trial import in_our_words

    trainer = kind.trainer
    assert trainer is not None
    if trainer.experiment.device.type == "cpu":
        kind = replace(kind, largest=min(kind.largest, CPU_MEMBERS))
    while (members := min(kind.largest, len(kind.points))) > 1:
        try:
            seeds = [int(point.settings["seed"]) for point in kind.packs()[0]]
            return replace(kind, stacked=steps_per_s(clones(trainer, seeds), at_least_s))
        except Exception as error:
            log.info("timing a stack", exc_info=error)
            if not out_of_memory(error) or members < 4:  # no half of them is a stack
                reason = f"{kind.named} train one by one: {in_our_words(error)}"
                return replace(kind, largest=1, reason=reason)
            kind = replace(kind, largest=members // 2)
    return kind


def _worth_a_look(serially: Kind) -> bool:
    """Whether stacking these points could win back what it takes to find out."""
    count = min(len(serially.points), CPU_MEMBERS)
    if count == 1 or not serially.serial:
        return False
    looking_s = LOOK_S + (LOOK_STEPS + STACKED_STEPS * count) / serially.serial + CLONE_S * count
    return looking_s <= WORTH * serially.seconds
