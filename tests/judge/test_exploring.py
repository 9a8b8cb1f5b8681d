"""Who is behind the best of a sweep: claimed where seeds and images leave no other explanation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats
from simulated_sweeps import Cell, allowed, claimed, seen

from lrexp.judge.exploring import Standing, Tried, needs, standings, student, studentized

EVEN = np.zeros(4)  # images that all say the same


def tried(name: str, *values: float, spread: np.ndarray = EVEN, **more: Any) -> Tried:
    """With a value per seed, and images around it."""
    images = np.array([value + spread - spread.mean() for value in values])
    return Tried(
        name, {(seed, 0): value for seed, value in enumerate(values)}, images=images, **more
    )


A = tried("a", 1.00, 1.10, 1.20)
B = tried("b", 2.00, 2.12, 2.21)
C = tried("c", 1.05, 1.19, 1.21)


def only(*some: Tried, sign: int = 1) -> Standing:
    (found,) = standings(some, sign)
    return found


def test_of_two_the_bound_is_students_paired_t() -> None:
    found = only(A, C)
    differences = np.array([0.05, 0.09, 0.01])
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    assert found.behind == pytest.approx(0.05)
    assert found.interval == pytest.approx((low, high))
    assert not found.clear
    assert only(A, B).clear
    assert only(*(replace(one, values={k: -v for k, v in one.values.items()}, images=-one.images)
                  for one in (A, B) if one.images is not None), sign=-1) == only(A, B)  # fmt: skip


def test_of_three_it_is_the_largest_of_range_and_own_t() -> None:
    _, found = standings([A, C, B], 1)
    values = np.array([list(one.values.values()) for one in (A, C, B)])
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    spread = math.sqrt((rest**2).sum() / 4 / 3)  # 4 = (3 − 1)(3 − 1)
    own = np.std(values[2] - values[0], ddof=1) / math.sqrt(3)
    bounds = (stats.studentized_range.ppf(0.95, 3, 4) * spread, stats.t.ppf(0.9875, 2) * own)
    assert found.margin == pytest.approx(max(bounds))


def test_what_noise_is_its_own_does_not_hide_among_the_others() -> None:
    """One that varies ten times as much is the lowest by luck; the range alone would claim it."""
    quiet = [tried(f"q{i}", *(5 + 0.01 * np.sin([i, i + 1, i + 2]))) for i in range(11)]
    noisy = tried("noisy", 2.0, 4.0, 3.4)
    found = standings([noisy, *quiet], 1)
    noise = found[0].noise[0]
    of_range = studentized(12, 22) * math.sqrt(noise.pooled / 3)
    assert found[0].behind > of_range
    assert not any(one.clear for one in found)


def test_more_tries_of_the_best_ask_for_more() -> None:
    margins = [only(replace(A, tries=tries), B).margin for tries in (1, 3, 9)]
    assert margins == sorted(set(margins))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"values": {(0, 0): 1.0, (1, 0): 1.1}, "images": None}, "seeds"),
        ({"tuned": False}, "tuning"),
        ({"images": None}, "images"),
        ({"whole": False}, "unfinished"),
    ],
)
def test_no_claim_is_made_whatever_the_numbers_are(change: dict[str, Any], why: str) -> None:
    found = only(replace(A, **change), B)
    assert (found.why, found.clear) == (why, False)
    assert only(A, B).behind == pytest.approx(found.behind, abs=0.02)


def test_two_seeds_and_one_have_no_interval() -> None:
    for seeds in (1, 2):
        some = [tried(name, *values[:seeds]) for name, values in (("a", (1, 1.1)), ("b", (9, 9.1)))]
        found = only(*some)
        assert math.isnan(found.margin)
        assert math.isnan(found.se) == (seeds == 1)


def test_one_that_lacks_seeds_of_the_best_is_not_judged_and_spoils_no_other() -> None:
    lacks = Tried("lacks", {(0, 0): 9.0}, whole=False)
    other, found = standings([A, B, lacks], 1)
    assert (found.why, found.behind, found.seeds) == ("unfinished", 8.0, 1)
    assert other.clear
    apart = Tried("apart", {(7, 0): 3.0, (8, 0): 3.2, (9, 0): 3.1})
    assert only(A, apart).behind == pytest.approx(2.0)
    assert not only(A, apart).clear


def test_a_difference_that_a_few_images_make_is_no_claim() -> None:
    """100 photos, the seeds agree to a hair, and the images do not."""
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=0.57, size=100)
    values = ([0.300, 0.301, 0.302], [0.322, 0.3235, 0.3239])
    a, b = tried("a", *values[0], spread=np.zeros(100)), tried("b", *values[1], spread=hard)
    assert only(tried("a", *values[0]), tried("b", *values[1])).clear, "by the seeds alone"
    found = only(a, b)
    assert found.se == pytest.approx(0.057, rel=0.15)
    assert (found.clear, found.images) == (False, 100)
    needed = needs(found)
    assert needed.seeds is None
    assert needed.images is not None
    assert 2000 < needed.images < 9000  # 100 · ((1.96 + 0.84) · 0.057 / 0.022)² = 5,300


def test_more_seeds_would_tell_where_seeds_are_what_lacks() -> None:
    a, b = tried("a", 0.30, 0.32, 0.28, 0.31, 0.29), tried("b", 0.31, 0.33, 0.31, 0.30, 0.32)
    found = only(a, b)
    assert not found.clear
    needed = needs(found)
    assert needed.images is None
    assert needed.seeds is not None
    n = 5 + needed.seeds
    own = math.sqrt(found.noise[0].own / n)
    assert (student(n - 1) + 0.84) * own <= found.behind < (student(n - 2) + 1) * own * 1.1
    assert needs(only(A, A)) == needs(replace(found, behind=1e-9)), "nothing in reach"


def test_seeds_on_one_split_are_no_repetitions_of_the_split() -> None:
    """Six runs of each, on two splits that disagree: the seeds alone would claim it."""

    def on_splits(name: str, *means: float) -> Tried:
        values = {(s, d): mean + 0.01 * s for d, mean in enumerate(means) for s in range(3)}
        return Tried(name, values, images=np.array([[v] * 4 for v in values.values()]))

    found = only(on_splits("a", 1.0, 1.0), on_splits("b", 1.3, 1.9))
    assert [noise.blocks for noise in found.noise] == [3, 2], "by seed, and by split"
    assert (found.why, found.clear) == ("seeds", False)
    paired = {(i, i): v for i, v in enumerate((1.0, 1.1, 1.2))}
    drawn = only(
        replace(A, values=paired), replace(B, values={k: v + 1 for k, v in paired.items()})
    )
    assert ([noise.blocks for noise in drawn.noise], drawn.why) == ([3], "")


def test_images_of_splits_drawn_anew_are_paired_by_image() -> None:
    """Against the two-way clustered variance, written out."""
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(4, 60)) + rng.normal(size=60)
    there = np.array([rng.permutation(60) < 40 for _ in range(4)])
    differences[~there] = np.nan
    a = Tried("a", {(s, s): 0.0 for s in range(4)}, images=np.where(there, 0.0, np.nan))
    means = np.nanmean(differences, axis=1)
    b = Tried("b", {(s, s): m for s, m in enumerate(means)}, images=differences)
    found = standings([a, b], 1)[0].noise[0].crossed
    assert found is not None
    rest, n = np.where(there, differences - means.mean(), 0.0) / 40 / 4, there.any(0).sum()
    by_image = n / (n - 1) * (rest.sum(0) ** 2).sum()
    assert found.image_variance / n == pytest.approx(by_image)
    assert found.seed_variance == pytest.approx(means.var(ddof=1))
    assert found.mean == pytest.approx(means.mean())


@pytest.mark.parametrize(("df", "comparisons"), [(2, 1), (9, 5), (1e6, 1)])
def test_quantiles_are_those_of_scipy(df: float, comparisons: int) -> None:
    assert student(df, comparisons) == pytest.approx(stats.t.ppf(1 - 0.025 / comparisons, df))
    assert studentized(2, df) == pytest.approx(math.sqrt(2) * stats.t.ppf(0.975, df))


CELLS = [Cell(6, 3, 1), Cell(6, 5, 3, noisy=True), Cell(2, 3, 3, noisy=True), Cell(3, 5, images=2)]


@pytest.mark.parametrize("cell", CELLS)
def test_equal_policies_are_rarely_told_apart(cell: Cell) -> None:
    """scripts/exploratory_table.py has all of them, with more sweeps."""
    assert claimed(cell, 100) <= allowed(100)


def test_a_better_policy_is_seen_and_an_untuned_one_claims_nothing() -> None:
    assert seen(Cell(6, 10, better=2.0), 50)[1] > 0.5
    assert claimed(Cell(6, 3, better=20.0), 10) == 1
    assert claimed(Cell(6, 3, better=20.0, unequal=True), 10) < 1
