"""Sweeps of policies whose true worth is known, as plain values.

Shared by the tests of exploring, which draw some, and scripts/exploratory_table.py, which draws as
many as asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from lrexp.judge.exploring import LEVEL, Standing, Tried, standings

IMAGES = 180


@dataclass(frozen=True)
class Cell:
    """One kind of sweep."""

    policies: int
    seeds: int
    rates: int = 3  # equally good ones
    noisy: bool = False  # one policy varies ten times as much
    images: float = 0.0  # standard error over images, relative to that over seeds
    unequal: bool = False  # half of the policies are tried twice as often
    better: float = 0.0  # the first policy, in standard deviations over seeds
    same: bool = False  # rates of a policy do the same to every image
    looked_at: bool = True  # whether tries are equal

    @property
    def tries(self) -> list[int]:
        """Of every policy."""
        return [self.rates * (2 if self.unequal and i % 2 else 1) for i in range(self.policies)]


def simulated(cell: Cell, rng: np.random.Generator) -> list[Tried]:
    """A sweep's policies at their best, best first."""
    found = []
    for policy, tries in enumerate(cell.tries):
        noise = 10.0 if cell.noisy and policy == cell.policies - 1 else 1.0
        scores = rng.normal(scale=noise, size=(tries, cell.seeds))  # of seeds
        own = cell.images * math.sqrt(IMAGES / cell.seeds)  # of an image
        images = IMAGES if own else 2
        shape = (1 if cell.same else tries, 1, images)
        of_images = rng.normal(scale=own, size=shape) if own else np.zeros(shape)
        both = rng.normal(scale=own, size=(tries, cell.seeds, images)) if own else 0.0
        values = scores[:, :, None] + of_images + both - cell.better * (policy == 0)
        best = values[values.mean((1, 2)).argmin()]  # (S, n)
        found.append((policy, tries, best))
    most = max(cell.tries)
    found.sort(key=lambda one: one[2].mean())
    return [
        Tried(
            str(policy),
            {(seed, 0): float(mean) for seed, mean in enumerate(best.mean(1))},
            tries + 2,  # with the two that are far worse
            tuned=tries == most or not cell.looked_at,
            images=best,
        )
        for policy, tries, best in found
    ]


def explored(cell: Cell, sweeps: int, seed: int) -> list[tuple[str, list[Standing]]]:
    """Of so many sweeps which policy was best, and where the others stand."""
    rng = np.random.default_rng([seed, cell.policies, cell.seeds])
    drawn = (simulated(cell, rng) for _ in range(sweeps))
    return [(tried[0].name, standings(tried, 1)) for tried in drawn]


def claimed(cell: Cell, sweeps: int, seed: int = 0) -> float:
    """The share of sweeps in which anything is claimed."""
    return float(
        np.mean([any(s.clear for s in found) for _, found in explored(cell, sweeps, seed)])
    )


def seen(cell: Cell, sweeps: int, seed: int = 0) -> tuple[float, float]:
    """The shares of sweeps in which the better one leaves all others behind, and of the others."""
    clear = [
        np.array([s.clear and best == "0" for s in found])
        for best, found in explored(cell, sweeps, seed)
    ]
    return float(np.mean([one.all() for one in clear])), float(np.mean(clear))


def allowed(sweeps: int) -> float:
    """Of claims among equal policies: the level and two standard errors."""
    return LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / sweeps)
