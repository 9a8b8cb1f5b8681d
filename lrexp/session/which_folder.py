"""What the folder of a procedure holds: its steps, the points of its ladders, runs compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrexp.config.errors import UserError
from lrexp.judge.contenders import as_themselves
from lrexp.judge.ladders import Ladder
from lrexp.runs.reading import json_of
from lrexp.runs.run import is_sweep
from lrexp.runs.scores import read_tried
from lrexp.runs.sweep import ENDED, SEED, SweepPoint, read_sweep


def runs_ended(sweep: Path) -> int:
    """Runs of a sweep that have a result."""
    if not is_sweep(sweep):
        return 0
    return sum(point.status in ENDED for point in read_sweep(sweep).tried)


def steps_of(text: str) -> list[dict[str, Any]]:
    """What steps.json says was trained, and how long it took."""
    return [
        {"step": str(s["step"]), "runs": int(s["runs"]), "seconds": float(s["seconds"])}
        for s in json_of(text)
    ]


def of_ladders(folder: Path, ladders: Sequence[Ladder]) -> list[SweepPoint]:
    """The points of ladders that a sweep has, of those they have now.

    A former point is none of them, though it may be one again: whoever composes its settings knows
    whether they are still the same.
    """
    if not is_sweep(folder):
        return []
    keys = {one.policy: (one.key, {f"{rate:.15g}" for rate in one.rates}) for one in ladders}
    found = []
    for point in read_sweep(folder).points:
        key, rates = keys.get(point.case, ("", set[str]()))
        asked = point.case in keys and not point.former
        if asked and (not key or point.chosen.get(key) in rates):
            found.append(point)
    return list(as_themselves(found))


def of_cases(
    folder: Path, axes: Mapping[str, Sequence[str]], whole: bool = True
) -> list[SweepPoint] | None:
    """The points of cases that a sweep has, of the seeds that their axes end with.

    None where one has not ended, if they are to be there as a `whole`.
    """
    if not is_sweep(folder):
        return None
    seeds = {case: some[-1].partition("=")[2].split(",") for case, some in axes.items()}
    found = [
        point
        for point in read_sweep(folder).points
        if not point.former and point.chosen.get(SEED) in seeds.get(point.case, ())
    ]
    found = list(as_themselves(found))
    done = sum(point.status in ENDED for point in found)
    return None if whole and done < sum(map(len, seeds.values())) else found


def has_runs(folder: Path, seeds: Mapping[str, Sequence[int]]) -> bool:
    """Whether every run is there."""
    if not is_sweep(folder):
        return False
    try:
        tried = read_tried(folder)
    except UserError:
        return False
    return all(set(some) <= set(tried.tries.get(name, ())) for name, some in seeds.items())
