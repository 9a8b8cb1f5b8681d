"""A sweep explored: who is behind the best, who was not tuned, measured on seeds and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from lrexp.config.errors import UserError
from lrexp.folder.layout import PREDICTIONS
from lrexp.judge.contenders import as_themselves
from lrexp.judge.exploring import Standing, Tried, standings
from lrexp.judge.ranking import Configuration, Group, compared_by, configurations, groups
from lrexp.judge.tuning import Tuning, tunings
from lrexp.runs.predictions import Predictions, read_predictions
from lrexp.runs.sweep import FINISHED, Sweep, SweepPoint

MOST_SCORES = 20_000_000  # of one file of predictions: a larger one is left unread
MOST_VALUES = 50_000_000  # of all images of all runs together
GROUP_BY = "data.group_by"


@dataclass(frozen=True)
class Exploration:
    """What page, terminal and figures say of a sweep."""

    sweep: Sweep
    ranked: tuple[Configuration, ...]  # best first
    groups: tuple[Group, ...]  # what is compared, each at its best; best first
    word: str  # for one of what is compared: `policy`, or `configuration` where there is one
    tunings: dict[str, Tuning]  # by name of the group
    rivals: tuple[Configuration, ...]  # of the best, those that have a value
    standings: tuple[Standing, ...]  # of `rivals`

    @property
    def best(self) -> Configuration:
        """The first."""
        return self.ranked[0]

    @cached_property
    def rates_differ(self) -> bool:
        """Whether there is more than one rate among all configurations."""
        return len({one.rate for one in self.ranked}) > 1


def explore(sweep: Sweep) -> Exploration:
    """Every policy at its best against the best of all; with one policy, its configurations."""
    ranked = configurations(sweep)
    found, word = groups(ranked), compared_by(sweep)[0]
    # A point that trains as another policy's does is a try of its own policy all the same.
    asked = replace(sweep, points=as_themselves(sweep.points))
    of_policies = groups(configurations(asked))
    tuned = tunings(of_policies)
    among_groups = sum(group.best.worth.n > 0 for group in found) > 1
    rivals = [group.best for group in found] if among_groups else ranked
    there = [one for one in rivals if one.worth.n]
    word = word if among_groups else "configuration"
    if len(there) < 2:
        return Exploration(sweep, tuple(ranked), tuple(found), word, tuned, (), ())
    images, clusters = _images(sweep, there)
    tries = {group.name: group.tries for group in of_policies}
    tried = [
        Tried(
            one.name,
            one.by_repetition,
            tries[one.group] if among_groups else 1,
            one.whole,
            not (among_groups and tuned[one.group].lacks),
            images.get(one.rank),
        )
        for one in there
    ]
    stand = standings(tried, sweep.sign, clusters)
    return Exploration(
        sweep, tuple(ranked), tuple(found), word, tuned, tuple(there[1:]), tuple(stand)
    )


Image = tuple[int, str]


def _images(
    sweep: Sweep, some: Sequence[Configuration]
) -> tuple[dict[int, np.ndarray], np.ndarray | None]:
    """By rank what the monitor's value is the mean of, (repetitions, n), as `Tried` has it.

    A configuration is left out where a run has no predictions, or where they do not come to the
    value that it is ranked by. Beside it the groups that images come in, (n,), or None.
    """
    if max(len(one.by_repetition) for one in some) < 2:
        return {}, None
    groups: dict[Image, int] = {}
    read = {one.rank: _read(sweep, one, groups) for one in some}
    known = {rank: runs for rank, runs in read.items() if runs}
    keys = {image for runs in known.values() for of_run in runs for image in of_run}
    many = len(keys) * sum(map(len, known.values())) > MOST_VALUES
    if len(known) < 2 or many or (groups and not keys <= groups.keys()):
        return {}, None
    place = {image: i for i, image in enumerate(sorted(keys))}
    found = {}
    for rank, runs in known.items():
        found[rank] = np.full((len(runs), len(place)), np.nan)
        for row, of_run in zip(found[rank], runs, strict=True):
            row[[place[image] for image in of_run]] = list(of_run.values())
    return found, np.array([groups[image] for image in place]) if groups else None


def _read(sweep: Sweep, one: Configuration, groups: dict[Image, int]) -> list[dict[Image, float]]:
    """Of every repetition the values by image; empty where one is not known.

    Adds the groups of its images. Where another run has an image in another group, it is not known.
    """
    found = []
    for point in one.repeated.values():
        run = _predicted(sweep, point)
        if run is None:
            return []
        predictions, values = run
        if predictions.groups is not None:
            of_images = dict(zip(predictions.images, predictions.groups.tolist(), strict=True))
            if any(groups.setdefault(image, code) != code for image, code in of_images.items()):
                return []
        found.append(dict(zip(predictions.images, values.tolist(), strict=True)))
    return found


def _predicted(sweep: Sweep, point: SweepPoint) -> tuple[Predictions, np.ndarray] | None:
    """What the mean of a run's monitor was taken over; None where that is not known."""
    split, _, metric = sweep.monitor.partition("/")
    file = sweep.folder / point.folder / PREDICTIONS
    if split != "val" or point.status != FINISHED:
        return None
    try:
        found = read_predictions(file, split, MOST_SCORES) if file.is_file() else None
    except UserError:
        return None
    values = None if found is None else _of_metric(found, metric)
    if found is None or values is None:
        return None
    if found.groups is None and point.settings.get(GROUP_BY):  # written before groups were
        return None
    mean, said = float(values.mean()), point.best[sweep.monitor]
    return (found, values) if math.isclose(mean, said, rel_tol=1e-3, abs_tol=1e-6) else None


def _of_metric(found: Predictions, metric: str) -> np.ndarray | None:
    """(n,) values whose mean the metric is; None of one that is no such mean."""
    if metric == "loss":
        return found.losses
    if metric == "accuracy":
        return found.right
    if metric != "balanced_accuracy" or found.labels.ndim == 2:
        return None
    _, codes, counts = np.unique(found.labels, return_inverse=True, return_counts=True)
    return found.right * len(codes) / (len(counts) * counts[codes])
