"""How often overfitting is claimed where there is none, and where there is some.

    python scripts/overfit_table.py [--tries 400]
    python scripts/overfit_table.py --runs SWEEP   # of runs that were trained

Simulated validation losses of 180 images over T epochs go through the functions that a run uses.
Flat curves move by noise alone: independent from epoch to epoch, or a random walk per image
without a trend. Rising ones end 3 or 4 paired standard errors above the middle. Claims are printed
by the rule of `lrexp.judge.overfit` and, for comparison, beyond 2 standard errors; at the last
epoch, and at any.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lrexp.judge.epoch import Track
from lrexp.judge.evaluate import Evaluation
from lrexp.judge.noise import Sample
from lrexp.judge.overfit import first_rise, overfitting
from lrexp.report.run.words import overfit_of
from lrexp.runs.run import is_run, read_run

IMAGES, NOISE = 180, 0.3
NONE = np.zeros(1, dtype=np.int64)


def independent(rng: np.random.Generator, epochs: int) -> np.ndarray:
    """(T, n) losses that differ from epoch to epoch by noise alone."""
    return rng.exponential(size=IMAGES) + rng.normal(scale=NOISE, size=(epochs, IMAGES))


def random_walk(rng: np.random.Generator, epochs: int) -> np.ndarray:
    """(T, n) losses of images that wander, each its own way and none with a trend."""
    steps = rng.normal(scale=NOISE / math.sqrt(epochs), size=(epochs, IMAGES))
    return rng.exponential(size=IMAGES) + steps.cumsum(axis=0)


def rising(rng: np.random.Generator, epochs: int, errors: float) -> np.ndarray:
    """(T, n) losses that fall to the middle and end so many errors of a pair of epochs above it."""
    late = np.maximum(0, np.arange(epochs) - epochs // 2) / max(1, epochs - 1 - epochs // 2)
    early = np.maximum(0, epochs // 2 - np.arange(epochs)) / max(1, epochs // 2)
    size = errors * NOISE * math.sqrt(2 / IMAGES)
    return independent(rng, epochs) + (size * (late + early))[:, None]


def rows_of(losses: np.ndarray) -> list[dict[str, Any]]:
    """Rows as a run would record them."""
    track, rows = Track("val/loss"), []
    for epoch, of_images in enumerate(losses, 1):
        val = Evaluation(of_images, (of_images < 1).astype(float), NONE, NONE, NONE)
        row = {"epoch": epoch, "val/loss": val.loss, "train_eval/loss": 0.0}
        rows.append(row | track.overfit(epoch, val))
    return rows


def beyond_two(row: dict[str, Any]) -> bool:
    return row["overfit/loss"] > 2 * row["overfit/loss_se"]


def simulate(tries: int) -> None:
    sample = Sample(IMAGES)
    print(f"{IMAGES} images, {tries} runs each; claims of overfitting, in percent of runs")
    print(f"{'curve':<14}{'epochs':>7}{'last':>8}{'2 se':>8}{'any':>8}{'2 se':>8}")
    curves: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
        "independent": independent,
        "random walk": random_walk,
        "rise of 3 se": partial(rising, errors=3),
        "rise of 4 se": partial(rising, errors=4),
    }
    for name, simulated in curves.items():
        for epochs in (5, 15, 50, 200):
            found = np.zeros(4)
            for seed in range(tries):
                rows = rows_of(simulated(np.random.default_rng(seed), epochs))
                at_last, at_any = overfitting(rows, sample), first_rise(rows, sample)
                assert at_last is not None
                found += (
                    at_last.loss_says == "changed",
                    beyond_two(rows[-1]),
                    at_any is not None,
                    any(map(beyond_two, rows)),
                )
            shares = "".join(f"{100 * share:8.1f}" for share in found / tries)
            print(f"{name:<14}{epochs:>7}{shares}")


def of_runs(sweep: Path) -> None:
    """What both rules say of runs, and which the rule leaves out although 2 errors would claim."""
    runs = [read_run(folder) for folder in sorted(sweep.iterdir()) if is_run(folder)]
    found = [(run, overfit_of(run)) for run in runs]
    known = [(run, one) for run, one in found if one is not None]
    two = [(run, one) for run, one in known if one.loss > 2 * one.loss_se]
    ours = [run for run, one in known if one.loss_says == "changed"]
    print(f"{len(runs)} runs: {len(two)} beyond 2 errors, {len(ours)} claimed")
    for run, one in sorted(two, key=lambda pair: -pair[1].loss / pair[1].loss_se):
        said = one.kind or "not claimed"
        print(f"{one.loss / one.loss_se:5.1f} se of {one.bound:.2f}  {said:<14} {run.folder.name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=400)
    parser.add_argument("--runs", type=Path)
    asked = parser.parse_args()
    of_runs(asked.runs) if asked.runs else simulate(asked.tries)
