"""How surely a difference is seen: against noncentral t, and against what simulations see."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrexp.judge.comparison import Images, Scores, compare
from lrexp.judge.power import (
    GUESS,
    Noise,
    images_needed,
    power,
    seeds_needed,
    smallest,
)


@pytest.mark.parametrize(("difference", "seeds"), [(0.01, 5), (0.02, 5), (0.01, 20), (0.005, 10)])
def test_where_images_do_not_matter_it_is_that_of_a_t_test(difference: float, seeds: int) -> None:
    from statsmodels.stats.power import TTestPower

    found = power(Noise(seed=0.01, image=0.0), difference, seeds, 10_000)
    expected = TTestPower().power(difference / 0.01, seeds, 0.05)
    assert float(found) == pytest.approx(expected, abs=0.01)


def test_two_seeds_have_no_power_and_shapes_follow_what_is_asked() -> None:
    found = power(GUESS, 0.1, np.arange(1, 6), 179)
    assert found.shape == (5,)
    assert list(found[:2]) == [0, 0]
    assert (np.diff(found[1:]) > 0).all()
    assert np.isfinite(power(Noise(0.0, 0.0), 1.0, 5, 10))  # nothing moves it at all


def test_more_comparisons_cost_power_and_a_margin_asks_for_room() -> None:
    one, four = (float(power(GUESS, 0.02, 10, 1000, comparisons=n)) for n in (1, 4))
    assert four < one
    inside, edge = (float(power(GUESS, d, 10, 1000, margin=0.02)) for d in (0.0, 0.02))
    assert edge <= 0.05 < 0.5 < inside


def test_seeds_needed_are_the_fewest() -> None:
    for margin in (None, 0.05):
        least = seeds_needed(GUESS, 0.02, 1000, comparisons=4, margin=margin)
        assert least is not None
        at = power(GUESS, 0.02, np.array([least - 1, least]), 1000, 4, margin)
        assert at[0] < 0.8 <= at[1]


def test_where_seeds_do_not_settle_it_images_are_told() -> None:
    assert seeds_needed(GUESS, 0.01, 179, comparisons=4) is None
    least = images_needed(GUESS, 0.01, comparisons=4)
    assert least is not None
    assert 179 < least < 2000
    assert seeds_needed(GUESS, 0.01, least, comparisons=4) is not None
    assert images_needed(Noise(seed=1.0, image=0.1), 0.001) is None
    assert seeds_needed(GUESS, 0.0, 179) is None


def test_the_smallest_margin_is_shown_in_four_of_five_with_seeds_without_end() -> None:
    margin = smallest(GUESS, 1000)
    assert float(power(GUESS, 0.0, 10**6, 1000, margin=margin)) == pytest.approx(0.8, abs=0.01)


def test_it_is_what_comparisons_see() -> None:
    noise, images, seeds, tries = Noise(seed=0.015, image=0.1, both=0.1), 200, 8, 400
    rng, seen = np.random.default_rng(0), 0
    none = np.full((1, 1), math.nan)
    base = Scores(np.zeros((seeds, images)), none)
    for _ in range(tries):
        right = (
            0.03 + noise.seed * rng.normal(size=(seeds, 1)) + noise.image * rng.normal(size=images)
        )
        right = right + noise.both * rng.normal(size=(seeds, images))
        found = compare({"a": base, "b": Scores(right, none)}, "a", Images(), plan=False)[0]
        seen += found.word == "better"
    assert seen / tries == pytest.approx(float(power(noise, 0.03, seeds, images)), abs=0.06)
