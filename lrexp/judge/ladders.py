"""Ladders of rates: which of them are tried for every policy, and what a budget leaves of that."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lrexp.config.errors import UserError, few
from lrexp.judge.looks import LOOKS

STEP = math.sqrt(10)  # between two rates
EACH_SIDE = 2  # rates below and above the middle one
EXTENSIONS = 2  # of every ladder whose best lies at an edge, a rate each time
MOST_TRIES = 1000  # of a policy, that a search may be asked for
SEEDS = 3  # that rates are chosen by


@dataclass(frozen=True)
class Ladder:
    """The tries of one policy: rates, half a decade apart, by values of its main setting."""

    policy: str
    key: str = "optimizer.lr"  # of its rate; empty: the policy gives every rate itself
    middle: float = math.nan
    each_side: int = EACH_SIDE  # rates below and above it, and so many more:
    down: int = 0
    up: int = 0
    least: float = 0.0  # no rate lies below
    setting: str = ""  # key of its main setting
    values: tuple[Any, ...] = ()
    drawn: int = 0  # configurations that a search draws instead, of rates as far as these reach
    decay: float = 0.0  # weight decay that it draws around; 0: none is drawn

    @property
    def rates(self) -> tuple[float, ...]:
        """Ascending, to two digits.

        >>> Ladder("uniform", middle=0.05).rates
        (0.005, 0.016, 0.05, 0.16, 0.5)
        """
        if not self.key:
            return ()
        steps = range(-self.each_side - self.down, self.each_side + self.up + 1)
        found = (self.middle if not k else float(f"{self.middle * STEP**k:.2g}") for k in steps)
        return tuple(rate for rate in found if rate >= self.least)

    @property
    def tries(self) -> int:
        """Configurations."""
        if self.drawn:
            return self.drawn if self.key else 1
        return max(1, len(self.rates)) * max(1, len(self.values))

    @property
    def axes(self) -> list[str]:
        """As overrides of a grid."""
        found = [f"lr_policy={self.policy}"]
        if self.values:
            found.append(f"{self.setting}={','.join(map(str, self.values))}")
        if self.key:
            found.append(f"{self.key}={','.join(f'{rate:.15g}' for rate in self.rates)}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def of_dict(cls, saved: Mapping[str, Any]) -> Ladder:
        """What `as_dict` made plain."""
        middle = math.nan if isinstance(saved["middle"], str) else float(saved["middle"])
        return cls(**{**saved, "middle": middle, "values": tuple(saved["values"])})


def extended(
    ladders: Sequence[Ladder], edges: Mapping[str, str], most: int = EXTENSIONS
) -> list[Ladder]:
    """The ladders, with one rate more where the best lies at an edge, at most `most` in all.

    Args:
        ladders: as they were tried.
        edges: by policy where its best rate lies: lower, upper, or elsewhere.
        most: rates that a ladder is extended by, both ways together.
    """
    found = []
    for one in ladders:
        more = one
        if one.down + one.up < most and edges.get(one.policy) in ("lower", "upper"):
            lower = edges[one.policy] == "lower"
            more = replace(one, down=one.down + lower, up=one.up + (not lower))
        found.append(more if more.rates != one.rates else one)
    return found


def tries_words(ladders: Sequence[Ladder]) -> list[str]:
    """Where policies were tried unequally often, how often each was, in a sentence."""
    by_tries: dict[int, list[str]] = {}
    for one in sorted(ladders, key=lambda one: -one.tries):
        by_tries.setdefault(one.tries, []).append(one.policy)
    if len(by_tries) < 2:
        return []
    parts = [f"{count} of {few(names)}" for count, names in by_tries.items()]
    return [f"Configurations tried: {', '.join(parts)}; more tries are more chances to be best."]


def kept_on(tries: int, seeds: int) -> int:
    """Of so many tries of a search, how many are trained on that many seeds: half of those before.

    >>> [kept_on(16, seeds) for seeds in (1, 2, 3)], kept_on(1, 3)
    ([16, 8, 4], 1)
    """
    return max(1, math.ceil(tries / 2 ** (seeds - 1)))


@dataclass(frozen=True)
class Size:
    """How much is tried, and how often it is looked."""

    ladders: tuple[Ladder, ...]
    seeds: int  # that rates are chosen by
    looks: tuple[int, ...]  # fresh seeds

    @property
    def climbing(self) -> int:
        """Runs of the ladders, without extensions."""
        searched = (
            kept_on(one.tries, seeds)
            for one in self.ladders
            for seeds in range(1, self.seeds + 1)
            if one.drawn
        )
        return sum(searched) + self.seeds * sum(o.tries for o in self.ladders if not o.drawn)

    @property
    def extending(self) -> int:
        """Runs of extensions, at most."""
        long = (one for one in self.ladders if len(one.rates) > 1 and not one.drawn)
        per_rate = (one.tries // len(one.rates) for one in long)
        return EXTENSIONS * self.seeds * sum(per_rate)

    @property
    def least(self) -> int:
        """Runs, where all is decided at the first look."""
        return self.climbing + len(self.ladders) * self.looks[0]

    @property
    def most(self) -> int:
        """Runs, with every extension and every look at all."""
        return self.climbing + self.extending + len(self.ladders) * self.looks[-1]

    @property
    def needed(self) -> int:
        """Runs, with every look at all, without extensions."""
        return self.climbing + len(self.ladders) * self.looks[-1]


def fitted(ladders: Sequence[Ladder], budget: float | None) -> Size:
    """The most that a budget of runs is sure to pay for; extensions take what is left of it.

    It is saved on the last look first, then on seeds that rates are chosen by, values of main
    settings, the second look, and rates. Every policy gets to its first look.

    Raises:
        UserError: when the smallest is too much.
    """
    whole = tuple(ladders)
    plain = tuple(one if one.drawn else replace(one, setting="", values=()) for one in whole)
    short = tuple(one if one.drawn else replace(one, each_side=1) for one in plain)
    sizes = [
        Size(whole, SEEDS, LOOKS),
        Size(whole, SEEDS, LOOKS[:2]),
        Size(whole, 2, LOOKS[:2]),
        Size(plain, 2, LOOKS[:2]),
        Size(plain, 2, LOOKS[:1]),
        Size(short, 2, LOOKS[:1]),
        Size(short, 1, LOOKS[:1]),
    ]
    for size in sizes:
        if budget is None or size.needed <= budget:
            return size
    least = sizes[-1]
    raise UserError(
        f"--budget: {budget:.0f} runs are too few for {len(ladders)} policies: at least"
        f" {least.needed}, of which {least.climbing} choose rates ({short[0].tries} each,"
        f" one seed) and {least.needed - least.climbing} compare"
        f" ({least.looks[0]} fresh seeds each)\n  fewer --policies take fewer"
        + ", and so do fewer --tries"
        * any(one.drawn for one in ladders)
    )
