"""What a range test reads off curves whose answers are known."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from lrexp.judge.range_test import (
    RULES,
    Ramp,
    default_of,
    longest_falling,
    longest_slope,
    minimum_tenth,
    ramp_rates,
    steepest,
    suggested,
    suggestions,
    valley,
)

RATES = ramp_rates(1e-5, 10, 121)  # 20 steps a decade
LOGS = [math.log10(rate) for rate in RATES]


def ramp_of(losses: list[float], smoothing: float = 0.0, stop: float = 1e9, seed: int = 0) -> Ramp:
    ramp = Ramp(seed, ramp_rates(1e-5, 10, len(losses)), smoothing, stop)
    for loss in losses:
        ramp.see(loss)
    return ramp


def parabola(lowest: float) -> list[float]:
    """A loss that is lowest at a rate, and grows with the square of the distance in log rate."""
    return [1 + (log - math.log10(lowest)) ** 2 for log in LOGS]


def test_the_rate_rises_by_the_same_factor_from_end_to_end() -> None:
    assert (RATES[0], RATES[-1]) == (1e-5, pytest.approx(10))
    factors = [b / a for a, b in itertools.pairwise(RATES)]
    assert factors == pytest.approx([10 ** (6 / 120)] * 120)


def test_the_average_is_that_of_its_formula_and_of_equal_losses_their_value() -> None:
    ramp = ramp_of([3.0, 1.0, 2.0], smoothing=0.5)
    # weights 1/2 for the last, 1/4, 1/8, over their sum
    assert ramp.smoothed == [3.0, (3 + 2 * 1) / 3, (3 + 2 * 1 + 4 * 2) / 7]
    assert ramp_of([2.0] * 30, smoothing=0.98).smoothed == pytest.approx([2.0] * 30)


def test_on_a_parabola_rules_find_what_is_known() -> None:
    losses = parabola(lowest=0.1)
    assert math.exp(minimum_tenth(np.log(RATES).tolist(), losses)) == pytest.approx(0.01)
    # it falls from the first step to the lowest: the middle of both is half way in log rate
    for rule in (valley, longest_slope):
        assert rule(LOGS, losses) == pytest.approx(-3.0, abs=0.03)
    assert steepest(LOGS, losses) == pytest.approx(-5.0, abs=0.051)  # a parabola: at its end


def test_steepest_is_where_a_sigmoid_falls_fastest() -> None:
    losses = [2 - 1 / (1 + math.exp(-4 * (log + 2))) for log in LOGS]
    assert steepest(LOGS, losses) == pytest.approx(-2.0, abs=0.03)


def test_the_valley_passes_over_a_rise_and_the_slope_does_not() -> None:
    losses = [10.0 - 0.1 * i for i in range(60)]
    losses[40] = 9.0  # one step rises
    logs = [float(i) for i in range(60)]
    assert valley(logs, losses) == pytest.approx(30, abs=1)
    assert longest_slope(logs, losses) == pytest.approx(19.5, abs=1)


def test_the_longest_falling_subsequence_is_that_of_trying_them_all() -> None:
    draw = random.Random(0)
    for _ in range(50):
        values = [draw.randrange(12) for _ in range(9)]
        longest = max(
            len(chosen)
            for n in range(10)
            for chosen in itertools.combinations(values, n)
            if all(a > b for a, b in itertools.pairwise(chosen))
        )
        places = longest_falling(values)
        found = [values[i] for i in places]
        assert len(found) == longest
        assert places == sorted(places)
        assert all(a > b for a, b in itertools.pairwise(found))


@pytest.mark.parametrize("bad", [math.nan, math.inf, 50.0])
def test_a_ramp_ends_at_the_first_loss_that_is_too_high_and_does_not_use_it(bad: float) -> None:
    losses = [2.0] * 20 + [1.0] * 20 + [bad] + [0.1] * 20
    ramp = ramp_of(losses, stop=4.0)
    assert len(ramp.losses) == 41
    assert ramp.over
    assert ramp.usable == 40
    assert ("4 × its lowest" in ramp.reason) == math.isfinite(bad)
    assert ramp_of([2.0] * 20, stop=4.0).reason == ""


def test_a_loss_that_does_not_fall_suggests_nothing() -> None:
    draw = np.random.default_rng(0)
    flat = [(2.3 + 0.1 * draw.normal(size=150)).tolist() for _ in range(200)]
    fooled = [ramp for losses in flat if (ramp := ramp_of(losses, smoothing=0.9)).falls]
    assert len(fooled) <= 20  # of 200: the lowest of many averages is below the first by chance
    assert suggestions(ramp_of([2.3] * 150)) == {}
    assert suggestions(ramp_of(list(np.linspace(2, 3, 150)))) == {}
    assert suggestions(ramp_of([3.0, math.nan])) == {}
    assert suggested([ramp_of([2.3] * 150, seed=s) for s in range(3)]) == []


def test_of_several_seeds_the_median_and_both_ends_are_given() -> None:
    ramps = [ramp_of(parabola(lowest), seed=i) for i, lowest in enumerate((0.01, 0.1, 1.0))]
    made = {one.rule: one for one in suggested(ramps)}
    assert list(made) == list(RULES)
    tenth = made["minimum/10"]
    assert (tenth.low, tenth.rate, tenth.high) == pytest.approx((0.001, 0.01, 0.1))
    assert tenth.seeds == 3
    assert default_of(list(made.values())) in made.values()
    assert default_of([]) is None
    one_flat = suggested([*ramps, ramp_of([2.3] * 121, seed=3)])
    assert {one.seeds for one in one_flat} == {3}
    assert suggested([*ramps[:1], ramp_of([2.3] * 121, seed=3)]) == []  # half of them is too few


def test_a_loss_that_is_lowest_at_the_end_says_so() -> None:
    assert ramp_of([3 - i / 150 for i in range(150)]).open_end
    assert not ramp_of(parabola(0.1)).open_end


def test_the_longest_fall_is_the_first_of_the_longest_that_every_pair_makes() -> None:
    draws = np.random.default_rng(0)
    for _ in range(200):
        values = draws.integers(0, 8, size=draws.integers(1, 14)).tolist()
        lengths, before = [1] * len(values), [-1] * len(values)
        for i, value in enumerate(values):
            for j in range(i):
                if values[j] > value and lengths[j] + 1 > lengths[i]:
                    lengths[i], before[i] = lengths[j] + 1, j
        place, wanted = lengths.index(max(lengths)), list[int]()
        while place >= 0:
            wanted.append(place)
            place = before[place]
        assert longest_falling(values) == wanted[::-1]
