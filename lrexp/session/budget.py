"""What a grid that is only planned would take: how many runs, how long, and how many seeds."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrexp.config.errors import ConfigError, UserError, first_line
from lrexp.config.names import shown_path
from lrexp.folder.layout import PREDICTIONS
from lrexp.grid.cost import cost, cost_line
from lrexp.grid.jobs import Session
from lrexp.grid.points.equal import find_equal
from lrexp.grid.points.point import Point
from lrexp.judge.crossed import crossed
from lrexp.judge.power import GUESS, MOST_SEEDS, Noise, images_needed, power, seeds_needed
from lrexp.judge.ranking import Configuration, configurations, groups
from lrexp.runs.predictions import Predictions, read_predictions
from lrexp.runs.run import is_sweep, named_folder
from lrexp.runs.sweep import FINISHED, read_sweep

SEEDS = 10  # of a confirmation
IMAGES = 1000  # where nobody knows how many will decide


def budget_lines(
    points: Sequence[Point], session: Session, noise: tuple[Noise, str], composing_s: float
) -> list[str]:
    """What training these points would take, and what could be seen then, a line each.

    Args:
        points: of a grid with task=plan.
        session: that would run them.
        noise: see `noise_for`.
        composing_s: what composing and checking them took, which training them takes again.
    """
    began = time.perf_counter()
    try:
        equal = find_equal(points)
    except ConfigError as error:  # its plan has said so
        return [f"budget not known: {first_line(error)}"]
    composing_s += time.perf_counter() - began
    todo = [point for point in points if point.num not in equal]
    once = f" ({len(equal)} train as others do and run once)" if equal else ""
    counted, images = f"{len(points)} points{once}", None
    try:
        found = cost(todo, session)
    except Exception as error:
        lines = [f"budget {counted}; how long they take is not known: {first_line(error)}"]
    else:
        images = found.images
        composed = f", and composing them {composing_s:.0f} s" if composing_s >= 1 else ""
        lines = [f"budget {counted}: {cost_line(found)}{composed}"]
        if any(point.settings.get("logger.name") == "wandb" for point in todo):
            lines.append("       without what W&B takes")
    compared = {point.case or point.settings["lr_policy.name"] for point in todo}
    seeds = len({(point.settings["seed"], point.settings["data.seed"]) for point in todo})
    moves, said = noise
    margin = todo[0].settings["task.margin"]
    lines += seed_lines(moves, margin, images, len(compared), seeds)
    return [*lines, f"       {noise_words(moves)} ({said})"]


def noise_for(points: Sequence[Point]) -> tuple[Noise, str]:
    """What is taken to move a difference between planned points, and where that comes from.

    Raises:
        UserError: when task.like is no sweep that could say it.
    """
    like = points[0].settings["task.like"]
    if like is None:
        return GUESS, "a guess; task.like=SWEEP takes it from a sweep of yours"
    try:
        noise, pairs = noise_of(like)
    except UserError as error:
        raise UserError(f"task.like={like}: {error}") from error
    count = f"{pairs} comparisons" if pairs > 1 else "one comparison"
    return noise, f"of {count} in {shown_path(named_folder(like))}"


def seed_lines(
    noise: Noise,
    margin: float,
    images: int | None,
    compared: int,
    seeds: int,
    level: float = 0.05,
) -> list[str]:
    """How many seeds a difference of `margin` needs, and how often fewer would see it.

    Args:
        noise: of the difference of two configurations.
        margin: in shares.
        images: that it is measured on; None: not known.
        compared: configurations, of which one is the baseline.
        seeds: of the grid.
        level: at which one comparison would be tested.
    """
    count, comparisons = images or IMAGES, max(1, compared - 1)
    on = f"{count:,} images" + ("" if images else " (how many there will be is not known)")
    against = f"{comparisons} comparisons" if comparisons > 1 else "one comparison"
    needed = seeds_needed(noise, margin, count, comparisons, level=level)
    shown = sorted({seeds, SEEDS} - {needed} - set(range(3)))
    chances = [float(power(noise, margin, few, count, comparisons, level=level)) for few in shown]
    rates = ", ".join(f"{few} in {chance:.0%}" for few, chance in zip(shown, chances, strict=True))
    points = f"{100 * margin:.3g} point" + "s" * (margin != 0.01)
    what, others = f"a difference of {points}, in {against} on {on}", f" ({rates})" * bool(rates)
    if needed:
        return [f"seeds  {needed} see {what}, in 80 % of tries{others}"]
    enough = images_needed(noise, margin, comparisons=comparisons, level=level)
    more = f"at least {enough:,} images would" if enough else "nor would more images"
    return [f"seeds  {MOST_SEEDS} are too few to see {what}{others}; {more}"]


def noise_words(noise: Noise) -> str:
    """What moves a difference, in points."""
    return (
        f"a difference moves by {100 * noise.seed:.2g} points from seed to seed, and images by"
        f" {100 * noise.image:.2g} points each"
    )


def noise_of(name: str) -> tuple[Noise, int]:
    """What moved differences in a sweep, and how many comparisons that was taken from.

    Every policy at its best is compared with the best of all, on the seeds and images that both
    have; variances are averaged over the comparisons.

    Raises:
        UserError: when there is no such sweep, or none of its comparisons has two seeds.
    """
    folder = named_folder(name)
    if not is_sweep(folder):
        raise UserError(f"{shown_path(folder)} is no sweep")
    ranked = configurations(read_sweep(folder))
    bests = [group.best for group in groups(ranked)]
    if len(bests) < 2:
        bests = ranked
    read = [_predicted(folder, one) for one in bests]
    if not any(read):
        said = "none of its runs that finished says which images it is right on"
        raise UserError(f"{said}: {PREDICTIONS} is gone, or trainer.predictions=none")
    found = [noise for other in read[1:] if (noise := _noise_between(read[0], other))]
    if not found:
        raise UserError("no two of its configurations have results of two common seeds")
    squares = np.array([[one.seed, one.image, one.both] for one in found]) ** 2
    seed, image, both = (math.sqrt(mean) for mean in squares.mean(axis=0))
    return Noise(seed, image, both), len(found)


def _predicted(folder: Path, one: Configuration) -> Mapping[tuple[str, str], Predictions]:
    """By seed, of the runs that finished: on test images, or else on those of val."""
    found = {}
    for point in one.points:
        if point.status == FINISHED:
            file = folder / point.folder / PREDICTIONS
            predicted = read_predictions(file, "test") or read_predictions(file, "val")
            if predicted is not None:
                key = str(point.seed), str(point.settings.get("data.seed"))
                found[key] = predicted
    return found


def _noise_between(
    one: Mapping[tuple[str, str], Predictions], other: Mapping[tuple[str, str], Predictions]
) -> Noise | None:
    """Of the difference of two configurations; None where they have no two seeds in common.

    Seeds that were measured on other images than the first are left out.
    """
    shared = [(one[seed], other[seed]) for seed in one if seed in other]
    images = [a.images for a, _ in shared[:1]]
    rows = [b.right - a.right for a, b in shared if a.images == b.images == images[0]]
    if len(rows) < 2:
        return None
    return Noise.of(crossed(np.stack(rows), shared[0][0].groups))
