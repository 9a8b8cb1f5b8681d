"""How often a sweep's report claims a difference between equal policies, and how often it sees one.

    python scripts/exploratory_table.py [--sweeps 1000] [--seed 0]

Simulated sweeps go through the functions that the report uses (`lrexp.judge.exploring`). A run's
score is the mean over 180 images of seed noise, of what its policy does to every image, and of
noise of its own; standard deviations are those of a run's score over seeds. Every policy is tried
at several equally good rates, between two that are far worse, and stands at the best of them.

- *claims*: of sweeps of equal policies, the share that claims anything. It may be 5 % and two
  standard errors; beyond that the program exits with 1.
- *power*: one policy is better than all others by 2 standard deviations; the share of sweeps in
  which it is best and *all* others are behind, and of others that are behind.

*images* is the standard error over images relative to that over seeds: 0 leaves the rule of the
seeds alone, which is where it is tightest. *noise 10×* is one policy whose scores vary ten times as
much. *tries 3, 6* is half of the policies tried twice as often: they are not tuned alike, and
nothing is claimed. With *untuned* that is not looked at.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from simulated_sweeps import Cell, allowed, claimed, seen


def equal_cells() -> list[Cell]:
    """Sweeps of equal policies."""
    decided = ((0.0, False), (1.0, False), (2.0, True))  # by images, and alike for all rates
    many = itertools.product((6, 12), (False, True), decided, (3, 5, 10), (1, 3))
    few = itertools.product((2, 3), (False, True), decided[:2], (3, 5, 10), (3,))
    found = [
        Cell(policies, seeds, rates, noisy, images, same=same)
        for policies, noisy, (images, same), seeds, rates in itertools.chain(many, few)
    ]
    found += [
        Cell(policies, seeds, 3, noisy, unequal=True)
        for policies, noisy, seeds in itertools.product((6, 12), (False, True), (3, 5, 10))
    ]
    return found + [Cell(6, seeds, 3, unequal=True, looked_at=False) for seeds in (3, 5, 10)]


def main(argv: Sequence[str]) -> int:
    """Print the tables."""
    words = argparse.ArgumentParser(description="False claims and power of a sweep's report.")
    words.add_argument("--sweeps", type=int, default=1000)
    words.add_argument("--seed", type=int, default=0)
    asked = words.parse_args(argv)
    bound, worst = allowed(asked.sweeps), 0.0
    print(f"{asked.sweeps} sweeps a row; claims may be {100 * bound:.1f} %\n")
    print("policies  noise  images  seeds  rates  tries    claims")
    for cell in equal_cells():
        share = claimed(cell, asked.sweeps, asked.seed)
        counts = cell.looked_at  # what it would be otherwise is shown, not bound
        worst = max(worst, share) if counts else worst
        tries = "equal" if not cell.unequal else "3, 6" if counts else "untuned"
        noise = "10×" if cell.noisy else "equal"
        mark = "  too many" if counts and share > bound else ""
        print(
            f"{cell.policies:>8}  {noise:>5}  {cell.images:>6g}  {cell.seeds:>5}  {cell.rates:>5}"
            f"  {tries:<7}  {100 * share:>4.1f} %{mark}",
            flush=True,
        )
    print(f"\nmost claims {100 * worst:.1f} % (at most {100 * bound:.1f} %)\n")
    print("one better by 2 standard deviations\npolicies  images  seeds  all behind  one behind")
    for policies, images, seeds in itertools.product((3, 6, 12), (0.0, 1.0), (3, 5, 10, 20)):
        every, one = seen(Cell(policies, seeds, 3, images=images, better=2.0), asked.sweeps // 2)
        print(
            f"{policies:>8}  {images:>6g}  {seeds:>5}  {100 * every:>8.0f} %  {100 * one:>8.0f} %",
            flush=True,
        )
    return 1 if worst > bound else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
