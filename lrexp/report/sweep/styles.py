"""Who is drawn how in a sweep: a policy in its own colour, whatever else it differs in labelled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lrexp.judge.ranking import Configuration, are_numbers, compared_by
from lrexp.judge.words import in_short
from lrexp.report.figure import COLOURS, policy_place
from lrexp.runs.sweep import POLICY, RATE, REPEATED, Sweep, SweepPoint, swept_keys

MANY = 1000  # points; of more not every one is drawn
Style = tuple[int, int, int]  # colour, dash, marker


def line_names(sweep: Sweep, ranked: Sequence[Configuration]) -> dict[int, str]:
    """By rank what a configuration goes by in figures: `uniform`, `uniform · resnet`.

    It is the group, and of all else that was swept what is told in words, where the group has
    several of it: models, schedulers, switches. Numbers make no name of their own.
    """
    _, by = compared_by(sweep)
    worded = [
        key
        for key in swept_keys(sweep.points)
        if key not in (*REPEATED, RATE, by) and not are_numbers(sweep.points, key)
    ]
    used: dict[tuple[str, str], set[str | None]] = {}
    for one in ranked:
        for key in worded:
            used.setdefault((one.group, key), set()).add(one.chosen.get(key))

    def told(one: Configuration) -> str:
        return in_short({k: one.chosen.get(k) for k in worded if len(used[one.group, k]) > 1})

    return {one.rank: " · ".join(filter(None, (one.group, told(one)))) for one in ranked}


def line_styles(sweep: Sweep, ranked: Sequence[Configuration]) -> dict[str, Style]:
    """By name of a line: the colour of its policy, and dash and marker that tell apart lines of
    one colour.

    Where all have one policy, colours are counted in the order of the sweep: what wins changes
    none of them.
    """
    names = line_names(sweep, ranked)
    by = compared_by(sweep)[1]
    by_policy = by == POLICY or len({p.policy for p in sweep.tried}) > 1

    def value(point: SweepPoint) -> str | None:
        return point.case if by == "" else point.chosen.get(by)

    values = list(dict.fromkeys(map(value, sweep.tried)))
    before, found = Counter[int](), dict[str, Style]()
    for one in sorted(ranked, key=lambda c: c.points[0].num):
        if (name := names[one.rank]) in found:
            continue
        first = one.points[0]
        place = policy_place(first.policy) if by_policy else values.index(value(first))
        colour = place % len(COLOURS)
        turn = before[colour]
        found[name] = (colour, turn, place + place // len(COLOURS) + turn)
        before[colour] += 1
    return found
