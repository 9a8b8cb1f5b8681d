"""Whether every policy of a sweep was tuned alike, and which values to add where it was not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrexp.judge.ranking import HIGHEST, Group
from lrexp.runs.sweep import RATE, finite

HALF_DECADE = math.sqrt(10)  # a step of rates where none was taken
MOST_ADDED = 4  # values that are named
LACKS = {
    "lower": "best at its lowest rate",
    "upper": "best at its highest rate",
    "one": "one rate tried",
}


@dataclass(frozen=True)
class Tuning:
    """Why a policy is not tuned; both empty where it is."""

    lacks: str  # `best at its highest rate`, `tried 2 times, others 6`
    add: str  # `optimizer.lr=0.316`; empty where its rates are rules of its own


def tunings(groups: Sequence[Group]) -> dict[str, Tuning]:
    """By name of the group.

    One is tuned where it was tried as often as the one that was tried most, and its best rate has
    others on both sides of it. Where it sets no rate at all there is none to tune.
    """
    most = max((group.tries for group in groups), default=0)
    often = [group for group in groups if group.tries == most]
    rates = sorted({rate for group in often for rate in group.rates})
    return {group.name: _tuning(group, most, rates) for group in groups}


def _tuning(group: Group, most: int, rates: Sequence[float]) -> Tuning:
    lacks, added = [], list[float]()
    if group.best.rate is not None and group.edge != "inside":
        lacks.append(LACKS[group.edge])
        added = _beyond(group)
    if group.tries < most:
        times = "once" if group.tries == 1 else f"{group.tries} times"
        lacks.append(f"tried {times}, others {most} times")
        if not group.best.own_rate:
            tried = {*group.rates, *added}
            added += [rate for rate in rates if rate not in tried][: most - group.tries]
    if group.best.own_rate:
        key = HIGHEST if finite(group.best.points[0].settings.get(HIGHEST)) else ""
    else:
        key = RATE
    shown = ",".join(f"{rate:.3g}" for rate in sorted(added)[:MOST_ADDED])
    return Tuning(" and ".join(lacks), f"{key}={shown}" if key and shown else "")


def _beyond(group: Group) -> list[float]:
    """The next rates outside of those tried, at the distance of the last two."""
    rates = group.rates
    if len(rates) < 2:
        rate = group.best.rate or math.nan
        return [rate / HALF_DECADE, rate * HALF_DECADE]
    if group.edge == "lower":
        return [rates[0] ** 2 / rates[1]]
    return [rates[-1] ** 2 / rates[-2]]
