"""What chance can do to a mean, and when that cannot be told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrexp.judge.noise import Sample, judged


def test_a_sample_counts_groups_whatever_their_codes() -> None:
    assert Sample.of(9, None) == Sample(9)
    codes = np.array([7, 7, 7, 0, 0, 3, 3, 3, 3, 3])
    assert Sample.of(10, codes) == Sample(3, grouped=True, largest=0.5)


@pytest.mark.parametrize(
    ("sample", "two_sided"),
    [
        (Sample(10_000), 2.0),
        (Sample(12), 2.0),
        (Sample(30, True, 0.05), 2.0),
        (Sample(10, True, 0.2), 2.2622),
        (Sample(5, True, 0.3), 2.7764),
    ],
)
def test_few_groups_have_students_t_for_a_bound(sample: Sample, two_sided: float) -> None:
    """The figures are those of printed tables of t at 97.5 %."""
    assert sample.bound() == pytest.approx(two_sided, abs=1e-4)


def test_a_level_of_its_own_is_students_t_and_never_below_two_errors() -> None:
    assert Sample(11).bound(0.005) == pytest.approx(3.1693, abs=1e-4)  # t(10) at 99.5 %
    assert Sample(10**7).bound(0.001) == pytest.approx(3.0902, abs=1e-4)  # the normal's
    assert Sample(10**7).bound(0.05) == 2.0


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        (Sample(1), "there is but one image"),
        (Sample(1, True, 1.0), "there is but one group"),
        (Sample(9, True, 0.31), "one group holds 31 % of the images"),
    ],
)
def test_of_one_unit_or_one_large_group_nothing_can_be_told(sample: Sample, why: str) -> None:
    assert sample.unjudged == why
    assert math.isnan(sample.bound())
    assert judged(5.0, 0.1, sample.bound()) == "cannot tell"


def test_few_groups_are_said_to_be_few() -> None:
    assert Sample(5, True, 0.2).caution.startswith("5 groups are few")
    assert Sample(6, True, 0.2).caution == Sample(5).caution == ""


def test_a_sample_survives_its_file() -> None:
    for sample in (Sample(9), Sample(4, True, 0.4)):
        assert Sample.of_file(vars(sample)) == sample
    assert Sample.of_file(None) is Sample.of_file({"units": "9"}) is None


@pytest.mark.parametrize(("value", "se"), [(math.nan, 0.1), (0.1, math.nan), (math.inf, math.inf)])
def test_what_is_no_number_cannot_be_judged(value: float, se: float) -> None:
    assert judged(value, se, 2.0) == "cannot tell"


def test_coverage_of_few_groups() -> None:
    """Means of 8 groups: within the bound of their clustered error in about 95 % of draws."""
    from lrexp.judge.epoch import variance_of_mean

    rng, groups = np.random.default_rng(0), np.repeat(np.arange(8), 10)
    sample, tries = Sample.of(80, groups), 2000
    inside = plain = 0
    for _ in range(tries):
        values = rng.normal(size=8)[groups] + rng.normal(size=80)
        se = math.sqrt(variance_of_mean(values, groups))
        inside += judged(values.mean(), se, sample.bound()) == "within noise"
        plain += judged(values.mean(), se, 2.0) == "within noise"
    assert inside / tries == pytest.approx(0.95, abs=0.015)
    assert plain / tries < 0.93  # 2 errors are not enough for so few
