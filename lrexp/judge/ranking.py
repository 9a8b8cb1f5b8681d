"""Which configuration of a sweep is best, by how much, and how surely: pure functions over points.

A configuration is what its seeds have in common. What has not finished is counted, never averaged.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

from lrexp.judge.words import in_short
from lrexp.runs.sweep import (
    DIVERGED,
    FAILED,
    FINISHED,
    GAP,
    MISSING,
    POLICY,
    RATE,
    REPEATED,
    Sweep,
    SweepPoint,
    finite,
    rate_of,
    swept_keys,
)

HIGHEST = "lr_policy.lr_high"


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with their sample standard deviation."""

    n: int
    mean: float  # NaN for none
    std: float  # NaN for fewer than two

    @property
    def se(self) -> float:
        """The standard error of the mean, std / √n: what ± stands for."""
        return self.std / math.sqrt(self.n) if self.n else math.nan


@dataclass(frozen=True)
class Configuration:
    """The points of a sweep that differ in seed and data.seed alone."""

    group: str  # what is compared: its policy, mostly
    variant: str  # whatever else was swept, but for the rate; empty for nothing
    rate: float | None  # where it stands on the axis of rates
    own_rate: bool  # its policy sets every rate itself, optimizer.lr plays no part
    name: str  # all of what was swept
    points: tuple[SweepPoint, ...]
    monitor: str  # what decides
    chosen: Mapping[str, str | None]  # by swept key, but for the seed
    counts: Counter[str]  # points by status
    kinds: Counter[str]  # verdicts of its points: collapsed, overfitting, ...
    rank: int = 0  # 1 is best

    @cached_property
    def worth(self) -> Spread:
        """Of the monitor: what configurations are ranked by."""
        return self.over_seeds(self.monitor)

    @cached_property
    def gap(self) -> Spread:
        """At the best epoch."""
        return self.over_seeds(GAP)

    @cached_property
    def test(self) -> Spread:
        """Accuracy at the best epoch, for the record; nothing is chosen by it."""
        return self.over_seeds("test/accuracy")

    @property
    def whole(self) -> bool:
        """Whether every one of its points finished."""
        return self.counts[FINISHED] == len(self.points)

    def over_seeds(self, key: str) -> Spread:
        """Of a metric at the best epoch, or on the test set, over the points that finished."""
        section, _, name = key.partition("/")
        ended = [p for p in self.points if p.status == FINISHED]
        found = [p.test.get(name) if section == "test" else p.best.get(key) for p in ended]
        return spread(tuple(value for value in found if value is not None))

    def finished(self, key: str) -> list[SweepPoint]:
        """The points that finished and have a number for a metric of their best epoch."""
        ended = [p for p in self.points if p.status == FINISHED]
        return [p for p in ended if math.isfinite(p.best.get(key, math.nan))]

    @cached_property
    def repeated(self) -> dict[tuple[Any, Any], SweepPoint]:
        """The points that finished with a number, by seed and data.seed; of equal ones the last."""
        return {p.repetition: p for p in self.finished(self.monitor)}

    @property
    def by_repetition(self) -> dict[tuple[Any, Any], float]:
        """The monitor's best by seed and data.seed, of the points that finished."""
        return {key: point.best[self.monitor] for key, point in self.repeated.items()}

    def repetition_of(self, point: SweepPoint) -> str:
        """`seed 0`, or `seed 0, data.seed 1` where the split was repeated too; empty for one."""
        if len(self.points) < 2:
            return ""
        seed, of_data = point.repetition
        several = len({p.repetition[1] for p in self.points}) > 1
        return f"seed {seed}, data.seed {of_data}" if several else f"seed {seed}"


@dataclass(frozen=True)
class Group:
    """A policy (or what else is compared) at its best."""

    name: str
    best: Configuration
    tries: int  # configurations of which a point has run
    rates: tuple[float, ...]  # tried with the best one's other settings
    edge: Literal["lower", "upper", "inside", "one"]  # where the best rate lies among them
    unstable_from: float | None  # the lowest of those rates at which a point diverged
    counts: Counter[str]  # points by status


@lru_cache(16384)  # exact sums are slow, and a leaderboard asks again as every point ends
def spread(values: tuple[float, ...]) -> Spread:
    """Mean and sample standard deviation; NaN where there are too few values.

    Both are NaN when a value is no finite number, as a test loss may be where validation is fine.

    >>> spread((1.0, 3.0))
    Spread(n=2, mean=2.0, std=1.4142135623730951)
    """
    finite = all(map(math.isfinite, values))
    mean = statistics.fmean(values) if values and finite else math.nan
    std = statistics.stdev(values) if len(values) > 1 and finite else math.nan
    return Spread(len(values), mean, std)


def compared_by(sweep: Sweep) -> tuple[str, str]:
    """What the sweep compares: the word for it, and the key whose value names it.

    Policies, when several were swept; else the cases of its file, else the first swept option or
    setting that is not a number. A key of "" stands for the case.
    """
    points = sweep.tried
    cases = {p.case for p in points}
    pairs = {(p.case, p.policy) for p in points}
    policies = {p.policy for p in points}
    if len(cases) > 1 and not len(pairs) == len(cases) == len(policies):
        return "case", ""
    if len(policies) > 1:
        return "policy", POLICY
    for key in swept_keys(points):
        if key not in (*REPEATED, RATE) and not are_numbers(points, key):
            return key.rpartition(".")[2], key
    return "policy", POLICY


def configurations(sweep: Sweep) -> list[Configuration]:
    """Every configuration, best first.

    Those with a diverged or failed point come after all others, and last those without a value.
    """
    keys = [key for key in swept_keys(sweep.points) if key not in REPEATED]
    _, by = compared_by(sweep)
    tries = _by_settings(sweep.tried, keys)
    used: dict[tuple[str, str], set[str | None]] = {}  # values by group and key
    for some in tries:
        for key in keys:
            used.setdefault((_group_name(some[0], by), key), set()).add(some[0].chosen.get(key))
    varied = {place for place, values in used.items() if len(values) > 1}
    found = [_configuration(sweep.monitor, some, keys, by, varied) for some in tries]

    def order(one: Configuration) -> tuple[bool, bool, float]:
        bad, mean = one.counts[DIVERGED] + one.counts[FAILED] > 0, one.worth.mean
        known = math.isfinite(mean)
        return not known, bad, sweep.sign * mean if known else 0.0

    found.sort(key=order)
    return [replace(one, rank=rank) for rank, one in enumerate(found, 1)]


def _by_settings(points: Sequence[SweepPoint], keys: Sequence[str]) -> list[list[SweepPoint]]:
    """Points by what was swept but the seed.

    A former point that was asked for in the same words may have run with other settings, from a
    file that has been edited since. It is a try of the same configuration only if it agrees with
    the present points in all that these have in common.
    """
    rows: dict[tuple[Any, ...], list[SweepPoint]] = {}
    for point in points:
        asked = (point.case, *(point.chosen.get(key) for key in keys))
        rows.setdefault(asked, []).append(point)
    found: list[list[SweepPoint]] = []
    for tries in rows.values():
        if not any(point.former for point in tries):
            found.append(tries)
            continue
        present = [p.settings for p in tries if not p.former] or [tries[0].settings]
        common = [k for k in present[0] if all(s.get(k) == present[0][k] for s in present)]
        parts: dict[str, list[SweepPoint]] = {}
        for point in tries:
            told = [point.settings.get(key) for key in common if key not in REPEATED]
            parts.setdefault(json.dumps(told, default=str), []).append(point)
        found += parts.values()
    return found


def _group_name(point: SweepPoint, by: str) -> str:
    name = point.case if by == "" else point.policy if by == POLICY else point.chosen.get(by)
    return name or point.policy


def _configuration(
    monitor: str,
    points: Sequence[SweepPoint],
    keys: Sequence[str],
    by: str,
    varied: Collection[tuple[str, str]],
) -> Configuration:
    """The seeds of one configuration; `varied` holds (group, key) for all that tells them apart."""
    first = points[0]
    rate, own = rate_of(first.settings)
    group, chosen = _group_name(first, by), {key: first.chosen.get(key) for key in keys}
    axes = (RATE, HIGHEST) if own else (RATE,)
    rest = [key for key in keys if key not in (*axes, by) and (group, key) in varied]
    return Configuration(
        group=group,
        variant=in_short({key: chosen[key] for key in rest}),
        rate=rate,
        own_rate=own,
        name=in_short(chosen) or first.case or first.policy,
        points=tuple(points),
        monitor=monitor,
        chosen=chosen,
        counts=Counter(p.status for p in points),
        kinds=Counter(kind for p in points for kind in p.kinds),
    )


def lines(ranked: Sequence[Configuration]) -> dict[tuple[str, str], list[Configuration]]:
    """The figure's lines: configurations of one group and variant, by rate; best group first."""
    found: dict[tuple[str, str], list[Configuration]] = {}
    for one in ranked:
        found.setdefault((one.group, one.variant), []).append(one)
    first = list(dict.fromkeys(group for group, _ in found))
    return {
        line: sorted(found[line], key=lambda c: (c.rate is None, c.rate or 0.0))
        for line in sorted(found, key=lambda line: first.index(line[0]))  # the best variant leads
    }


def has_rate_axis(ranked: Sequence[Configuration]) -> bool:
    """Whether anything was tried at more than one rate."""
    return any(len({c.rate for c in some} - {None}) > 1 for some in lines(ranked).values())


def groups(ranked: Sequence[Configuration]) -> list[Group]:
    """What is compared, each at its best configuration; the best group first.

    The edge says whether the best rate is the lowest or highest of those that were tried with its
    other settings, so that a better one may lie outside; `one` when there is only one.
    """
    found: dict[str, list[Configuration]] = {}
    for one in ranked:
        found.setdefault(one.group, []).append(one)
    return [_group(name, some) for name, some in found.items()]


def _group(name: str, tries: Sequence[Configuration]) -> Group:
    best = tries[0]
    alike = [c for c in tries if c.variant == best.variant]
    ran = [c for c in alike if c.counts[MISSING] < len(c.points)]
    rates = sorted({c.rate for c in ran if c.rate is not None})
    edge = "inside"
    if len(rates) < 2 or best.rate is None:
        edge = "one"
    elif best.rate in (rates[0], rates[-1]):
        edge = "lower" if best.rate == rates[0] else "upper"
    unstable = [c.rate for c in ran if c.rate and c.counts[DIVERGED]]
    counts = sum((one.counts for one in tries), Counter[str]())
    tried = sum(c.counts[MISSING] < len(c.points) for c in tries)
    return Group(name, best, tried, tuple(rates), edge, min(unstable, default=None), counts)


def are_numbers(points: Sequence[SweepPoint], key: str) -> bool:
    """Whether a key has at least two values, all of them numbers."""
    values = [p.settings[key] for p in points if key in p.chosen and key in p.settings]
    known = [finite(value) for value in values]
    return None not in known and len(set(known)) > 1
