"""The configurations of a sweep that are worth training again: each policy's best."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lrexp.config.errors import UserError, did_you_mean
from lrexp.judge.conclusion import Rung
from lrexp.judge.ranking import Configuration, Spread, compared_by, configurations, groups
from lrexp.judge.tuning import tunings
from lrexp.judge.verdicts import counted_kinds
from lrexp.runs.scores import COLLAPSED
from lrexp.runs.sweep import (
    DATA_SEED,
    DIVERGED,
    FAILED,
    REPEATED,
    Sweep,
    SweepPoint,
    swept_keys,
)


@dataclass(frozen=True)
class Contender:
    """A configuration that is trained again."""

    name: str  # of its policy, mostly
    settings: str  # what was chosen for it, in short
    overrides: tuple[str, ...]  # that tell it from the others
    asked: tuple[str, ...]  # all overrides but the seed: those of every other included
    tries: int  # configurations of its policy
    seeds: int  # that it was chosen by
    rate: float | None
    edge: str  # where the rate lies among those tried: lower, upper, inside, one
    lacks: str = ""  # why it is not tuned like the others; empty where it is
    add: str = ""  # what would make it so
    ladder: tuple[Rung, ...] = ()  # all tries, by rate
    ran_with: Mapping[str, Any] = field(default_factory=dict)  # dotted key → value, of one seed

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return asdict(self)

    @classmethod
    def of_dict(cls, saved: Mapping[str, Any]) -> Contender:
        """What `as_dict` made plain."""
        ladder = tuple(
            Rung(**{**rung, "worth": Spread(**rung["worth"])}) for rung in saved["ladder"]
        )
        lists = {key: tuple(map(str, saved[key])) for key in ("overrides", "asked")}
        return cls(**{**saved, **lists, "ladder": ladder})


def contenders(sweep: Sweep) -> tuple[list[Contender], list[str]]:
    """Each policy (or whatever the sweep compares) at its best, in the order of the sweep.

    The best has the best mean of the monitor over its seeds; a configuration of which a seed
    diverged, collapsed or failed comes after every one of which none did. A point that trains as
    another does is a try of its own policy, with the other's result. All are asked for with the
    first point's data.seed, so that every seed is measured on the same images.

    Returns:
        The contenders, and a sentence on every policy that has none, for want of a run that
        finished, and on splits where these were several.
    """
    sweep = replace(sweep, points=as_themselves(sweep.points))
    present = [
        one for one in configurations(sweep) if not all(point.former for point in one.points)
    ]
    present.sort(key=lambda one: _order(one, sweep.sign))
    what, by = compared_by(sweep)
    found, remarks = list[Contender](), list[str]()
    of_data = [point.repetition[1] for point in sweep.points]
    swept = [key for key in swept_keys(sweep.points) if key not in REPEATED]
    some = groups(present)
    tuned = tunings(some)
    for group in some:
        best = group.best
        if not math.isfinite(best.worth.mean):
            remarks.append(f"{group.name} is left out: none of its runs finished.")
            continue
        first = next(point for point in best.points if not point.former)
        asked = [o for o in first.overrides if _key(o) not in REPEATED]
        own = [o for o in asked if _key(o) in (*swept, by)]
        if of_data[0] is not None:
            asked.append(f"{DATA_SEED}={of_data[0]}")
        found.append(
            Contender(
                name=group.name,
                settings=settings_of(best),
                overrides=tuple(own),
                asked=tuple(asked),
                tries=group.tries,
                seeds=best.worth.n,
                rate=best.rate,
                edge=group.edge,
                lacks=tuned[group.name].lacks,
                add=tuned[group.name].add,
                ladder=_ladder([one for one in present if one.group == group.name]),
                ran_with=dict(first.settings),
            )
        )
    order = list(dict.fromkeys(one.group for one in sorted(present, key=_first_number)))
    found.sort(key=lambda one: order.index(one.name))
    if len(found) < 2:
        alone = f" {what}, {found[0].name}" if found else f" {what} that finished"
        raise UserError(
            f"{sweep.folder} has but one{alone}: there is nothing to compare it with"
            if found
            else f"{sweep.folder} has no{alone}: there is nothing to confirm"
        )
    if len({str(seed) for seed in of_data if seed is not None}) > 1:
        remarks.append(
            f"Rates were chosen over several {DATA_SEED}, and the comparison is on {DATA_SEED}"
            f"={of_data[0]}: where it splits the images, some that are compared on were validation"
            " images of the other splits, by which was chosen."
        )
    return found, remarks


def as_themselves(points: Sequence[SweepPoint]) -> tuple[SweepPoint, ...]:
    """Points as they were asked for, with the results of those that they train like."""
    by_num = {point.num: point for point in points}
    own = ("num", "overrides", "settings", "case", "former")
    return tuple(
        replace(by_num[point.same_as], **{name: getattr(point, name) for name in own})
        if point.same_as in by_num
        else point
        for point in points
    )


def refuse_baseline(name: str, found: Sequence[Contender]) -> None:
    """Raise UserError when no contender has this name."""
    names = [one.name for one in found]
    if name not in names:
        raise UserError(f"--baseline {name}: the sweep has none\n  {did_you_mean(name, names)}")


def lost(one: Configuration) -> str:
    """How runs of a configuration were lost: `2 diverged, 1 collapsed`; empty for none."""
    counts = {word: one.counts[word] for word in (DIVERGED, FAILED) if one.counts[word]}
    kinds = counted_kinds(Counter({COLLAPSED: one.kinds[COLLAPSED]}))
    return ", ".join(
        [*(f"{count} {word}" for word, count in counts.items()), *filter(None, [kinds])]
    )


def _order(one: Configuration, sign: int) -> tuple[bool, bool, float]:
    mean = one.worth.mean
    known = math.isfinite(mean)
    return not known, bool(lost(one)), sign * mean if known else 0.0


def _first_number(one: Configuration) -> int:
    return min(point.num for point in one.points)


def settings_of(one: Configuration) -> str:
    """What was chosen for it, in short: `lr 0.1 decay=0.5`."""
    rate = "" if one.rate is None else f"lr {one.rate:.4g}"
    return " ".join(filter(None, (rate, one.variant)))


def _ladder(tries: Sequence[Configuration]) -> tuple[Rung, ...]:
    rungs = [Rung(one.rate, one.worth, one.variant, lost(one)) for one in tries if one.rate]
    return tuple(sorted(rungs, key=lambda rung: (rung.variant, rung.rate)))


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]
