"""How often a comparison says what is not so, and how often it sees what is.

    python scripts/procedure_table.py [--tries 1000] [--only WORDS] [--jobs 2] [--seed 0]

Scores of policies are simulated, a row per seed and a column per test image, and go through the
very functions that `lrexp confirm` (`judge.comparison.compare` at 10 seeds) and `lrexp which`
(`judge.looks.looked` at 5, 10 and 20 seeds) use; beside them a fixed design of 20 seeds. Policy 0
is the baseline. Printed are, in percent:

    false     procedures that call anything better or worse which is not   at most 5 + 2 se
    margin    comparisons called no different which differ by the margin   at most 5 + 2 se
    power     comparisons called what they are: better, or worse
    same      comparisons of equal policies called no different
    covered   95 % intervals that hold the truth                           at least 93
    runs      of `which`, in percent of the fixed design

It exits with 1 where a bound is broken. Of a hundred shares of 5 % two or three exceed two standard
errors by chance: a world that breaks a bound is drawn again, four times as often, and that counts.

Noise is in standard deviations of a run's score from seed to seed, one point here. "Images 1" is
test images whose error is that of ten seeds; with interaction, an image moves from seed to seed as
well. Those with images right or wrong are drawn image by image from logistic models.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np

from lrexp.judge.comparison import Compared, Images, Scores, compare
from lrexp.judge.looks import LOOKS, looked
from lrexp.judge.power import GUESS, power, seeds_needed

SD = 0.01  # of a run's score, from seed to seed
IMAGES, CONFIRMED, MOST = 179, 10, LOOKS[-1]
MARGIN = 0.02
LEVEL, COVERED = 0.05, 0.93
AGAIN = 4
GUESSER = 0.1  # the score of a seed that diverged

Draw = Callable[[np.random.Generator], tuple[list[np.ndarray], Images]]


@dataclass(frozen=True)
class Cell:
    """A world to draw procedures from."""

    name: str
    truth: tuple[float, ...]  # the mean score of every policy, beside the baseline's
    draw: Draw


@dataclass
class Tally:
    """What became of the procedures of one kind."""

    tries: int = 0
    false: int = 0
    covered: list[bool] = field(default_factory=list)
    seen: list[bool] = field(default_factory=list)  # of those that differ
    same: list[bool] = field(default_factory=list)  # of those that are equal
    beyond: list[bool] = field(default_factory=list)  # of those that differ by the margin or more
    runs: int = 0

    def count(self, compared: Sequence[Compared], truth: Sequence[float]) -> None:
        wrong = False
        for one, value in zip(compared, truth[1:], strict=True):
            low, high = one.interval
            self.covered.append(low <= value <= high)
            wrong |= (one.word == "better" and value <= 0) or (one.word == "worse" and value >= 0)
            if value:
                self.seen.append(one.word == ("better" if value > 0 else "worse"))
            else:
                self.same.append(one.word == "no difference")
            if abs(value) >= MARGIN - 1e-12:
                self.beyond.append(one.word == "no difference")
            self.runs += one.difference.seeds
        self.runs += max(one.difference.seeds for one in compared)  # of the baseline
        self.false += wrong
        self.tries += 1

    def broken(self) -> list[str]:
        """The bounds that it breaks."""
        found = []
        if self.false / self.tries > bound(self.tries):
            found.append(f"{share(self.false, self.tries)} % false claims")
        if self.beyond and np.mean(self.beyond) > bound(len(self.beyond)):
            found.append(f"{100 * np.mean(self.beyond):.1f} % claims within the margin")
        if np.mean(self.covered) < COVERED:
            found.append(f"intervals cover {100 * np.mean(self.covered):.1f} %")
        return found


def bound(tries: int) -> float:
    """What is still taken for 5 %: two standard errors more."""
    return LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / tries)


def share(part: int, of: int) -> str:
    return f"{100 * part / of:.1f}"


def smooth(
    rng: np.random.Generator,
    truth: Sequence[float],
    images: float = 1.0,
    interaction: float = 0.5,
    scales: Sequence[float] | None = None,
    diverging: float = 0.0,
) -> tuple[list[np.ndarray], Images]:
    """Gaussian scores: (S, n) of every policy.

    Args:
        images: the error that images add to a mean, in that which ten seeds add.
        interaction: of images with seeds, in a run's standard deviation.
        scales: by policy, of the noise from seed to seed.
        diverging: the share of seeds with a guesser's score, in every policy.
    """
    found = []
    for policy, mean in enumerate(truth):
        of_seeds = SD * (1 if scales is None else scales[policy]) * rng.normal(size=(MOST, 1))
        of_images = images * SD * math.sqrt(IMAGES / CONFIRMED) * rng.normal(size=IMAGES)
        of_both = interaction * SD * math.sqrt(IMAGES) * rng.normal(size=(MOST, IMAGES))
        scores = 0.9 + mean + of_seeds + of_images + of_both
        scores[rng.random(MOST) < diverging] = GUESSER
        found.append(scores)
    return found, Images()


@dataclass(frozen=True)
class Logistic:
    """Images that are right or wrong: the logit is a sum of normal parts."""

    difficulty: float = 2.5  # between images, the same for all policies
    image: float = 0.7  # between images, every policy its own
    seed: float = 0.15  # between seeds
    easy: float = 4.0  # the baseline's mean: 90 % right

    @cache  # noqa: B019 (a handful of worlds)
    def right(self, shift: float) -> float:
        """The share of images that is right, over images and seeds without end."""
        wide = math.sqrt(self.difficulty**2 + self.image**2 + self.seed**2)
        at, weight = np.polynomial.hermite_e.hermegauss(80)
        logit = self.easy + shift + wide * at
        return float((weight / (1 + np.exp(-logit))).sum() / weight.sum())

    @cache  # noqa: B019
    def shift(self, difference: float) -> float:
        """Of the logit, which makes such a difference from the baseline."""
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            above = self.right(middle) - self.right(0.0) > difference
            low, high = (low, middle) if above else (middle, high)
        return low

    def __call__(
        self,
        rng: np.random.Generator,
        truth: Sequence[float],
        images: int = IMAGES,
        groups: int = 0,
        rare: float = 0.0,
        diverging: float = 0.0,
    ) -> tuple[list[np.ndarray], Images]:
        """(S, n) of zeros and ones of every policy.

        Args:
            images: of the test set.
            groups: images come in so many, of uneven sizes, alike within.
            rare: the share of the smaller of two classes; the score is then balanced accuracy.
            diverging: the share of seeds with a guesser's score.
        """
        codes = np.arange(images)
        if groups:
            codes = rng.choice(
                groups, size=images, p=np.arange(1, groups + 1) * 2 / groups / (groups + 1)
            )
        weights = None
        if rare:
            of_rare = np.arange(images) < max(2, round(rare * images))
            weights = images / 2 / np.where(of_rare, of_rare.sum(), images - of_rare.sum())
        most = int(codes.max()) + 1
        difficulty = self.difficulty * rng.normal(size=most)[codes]
        found = []
        for mean in truth:
            own = self.image * rng.normal(size=most)[codes]
            of_seeds = self.seed * rng.normal(size=(MOST, 1))
            logit = self.easy + self.shift(mean) + difficulty + own + of_seeds
            scores = (rng.random((MOST, images)) < 1 / (1 + np.exp(-logit))).astype(float)
            scores[rng.random(MOST) < diverging] = rng.random(images) < GUESSER
            found.append(scores)
        return found, Images(weights, codes if groups else None)


def cells() -> Iterator[Cell]:
    """All worlds, with what is true in them."""

    def world(name: str, truth: Sequence[float], draw: Callable, **how: object) -> Cell:
        return Cell(name, tuple(truth), partial(draw, truth=tuple(truth), **how))

    binary = Logistic()
    for policies in (3, 6, 12):
        for images in (0.5, 1.0, 2.0):
            yield world(
                f"equal {policies}, images {images:g}", [0.0] * policies, smooth, images=images
            )
    yield world("equal 6, no interaction", [0.0] * 6, smooth, interaction=0.0)
    yield world("equal 6, interaction 2", [0.0] * 6, smooth, interaction=2.0)
    rates = np.geomspace(0.5, 2, 6)
    yield world("equal 6, noise with the rate", [0.0] * 6, smooth, scales=rates)
    yield world("equal 6, ten times in one", [0.0] * 6, smooth, scales=[1] * 5 + [10])
    yield world("equal 6, ten times baseline", [0.0] * 6, smooth, scales=[10] + [1] * 5)
    yield world("equal 6, one in ten diverges", [0.0] * 6, smooth, diverging=0.1)
    for better in (0.5, 1.0, 2.0):
        for images in (0.5, 1.0, 2.0):
            name = f"one of 5 better by {better:g} sd, images {images:g}"
            yield world(name, [0, 0, 0, 0, better * SD], smooth, images=images)
    for images in (0.5, 1.0, 2.0):
        truth = [0, MARGIN, -MARGIN, MARGIN]
        yield world(f"off by the margin, images {images:g}", truth, smooth, images=images)
    yield world("equal 5, right or wrong", [0.0] * 5, binary)
    yield world("equal 5, 50 images", [0.0] * 5, binary, images=50)
    yield world("equal 5, 1000 images", [0.0] * 5, binary, images=1000)
    yield world("equal 5, in 30 groups", [0.0] * 5, binary, groups=30)
    yield world("equal 5, a class of 10 %", [0.0] * 5, binary, rare=0.1)
    yield world("equal 5, one in ten guesses", [0.0] * 5, binary, diverging=0.1)
    for images in (IMAGES, 1000):
        for better in (0.02, 0.03):
            name = f"one of 5 better by {100 * better:g} points, {images} images"
            yield world(name, [0, 0, 0, 0, better], binary, images=images)
    for images in (50, IMAGES, 1000):
        name = f"off by the margin, {images} images"
        yield world(name, [0, MARGIN, -MARGIN, MARGIN], binary, images=images)
    still = Logistic(difficulty=4.0, image=4.0, seed=0.0, easy=8.0)
    yield world("off by the margin, few images move", [0, MARGIN, -MARGIN], still)


def simulate(cell: Cell, tries: int, seed: int) -> dict[str, Tally]:
    """So many procedures of every kind in one world."""
    rng = np.random.default_rng([seed, *cell.name.encode()])
    tallies = {"confirm": Tally(), "which": Tally(), "fixed": Tally()}
    for _ in range(tries):
        drawn, images = cell.draw(rng)
        none = np.full((MOST, 1), math.nan)  # losses have no verdict
        scores = {str(policy): Scores(right, none) for policy, right in enumerate(drawn)}
        first = {name: one.first(CONFIRMED) for name, one in scores.items()}
        tallies["confirm"].count(compare(first, "0", images, MARGIN, plan=False), cell.truth)
        tallies["which"].count(looked(scores, "0", images, MARGIN, plan=False), cell.truth)
        tallies["fixed"].count(compare(scores, "0", images, MARGIN, plan=False), cell.truth)
    return tallies


HEAD = (
    f"{'':<46}{'confirm, 10 seeds':^39}{'which, 5, 10, 20 seeds':^39}{'20 seeds':^15}{'which':>6}\n"
    f"{'policies':<46}" + 2 * f"{'false':>7}{'margin':>8}{'power':>7}{'same':>7}{'covered':>9} "
    f"{'false':>7}{'power':>7}{'runs':>7}"
)


def line(cell: Cell, tallies: dict[str, Tally]) -> str:
    def percent(values: list[bool], width: int) -> str:
        return f"{100 * np.mean(values):>{width}.1f}" if values else f"{'':>{width}}"

    words = f"{cell.name:<46}"
    for kind in ("confirm", "which"):
        t = tallies[kind]
        words += f"{share(t.false, t.tries):>7}{percent(t.beyond, 8)}{percent(t.seen, 7)}"
        words += f"{percent(t.same, 7)}{percent(t.covered, 9)} "
    fixed = tallies["fixed"]
    words += f"{share(fixed.false, fixed.tries):>7}{percent(fixed.seen, 7)}"
    return words + f"{100 * tallies['which'].runs / fixed.runs:>7.0f}"


def expected() -> None:
    """What to expect before anything was measured, from the functions that plan."""
    print(f"\npower of 10 seeds, 4 comparisons, were the noise {GUESS}:")
    for images in (IMAGES, 1000):
        for points in (1, 2, 3):
            seen = 100 * float(power(GUESS, points / 100, 10, images, comparisons=4))
            seeds = seeds_needed(GUESS, points / 100, images, comparisons=4)
            settled = f"{seeds} seeds for 80 %" if seeds else "seeds alone do not reach 80 %"
            print(f"  {points} points, {images:>4} images: seen in {seen:3.0f} %; {settled}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=1000, help="procedures in every world")
    parser.add_argument("--only", default="", help="worlds whose name has these words")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    worlds = [cell for cell in cells() if args.only in cell.name]
    print(f"{args.tries} procedures each, {IMAGES} images, a margin of {MARGIN}; percent\n{HEAD}")
    broken = []
    with ProcessPoolExecutor(args.jobs) as pool:
        work = [pool.submit(simulate, cell, args.tries, args.seed) for cell in worlds]
        for cell, future in zip(worlds, work, strict=True):
            tallies = future.result()
            print(line(cell, tallies), flush=True)
            if any(tally.broken() for tally in tallies.values()):
                tallies = pool.submit(simulate, cell, AGAIN * args.tries, args.seed + 1).result()
                print(line(cell, tallies), f"  again, {AGAIN} times as many", flush=True)
            for kind, tally in tallies.items():
                broken += [f"{cell.name}, {kind}: {why}" for why in tally.broken()]
    expected()
    print("\nbroken bounds:", *(broken or ["none"]), sep="\n  ")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
