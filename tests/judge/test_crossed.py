"""One error for seeds and images: against tables of variance, closed forms, and what is known."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest

from lrexp.judge.crossed import crossed, degrees
from lrexp.judge.epoch import variance_of_mean


def drawn(seeds: int, images: int, a: float = 1, b: float = 1, c: float = 1) -> np.ndarray:
    """(S, n) of seeds, images and what both move, with these standard deviations."""
    rng = np.random.default_rng([seeds, images])
    of_seeds, of_images = rng.normal(size=(seeds, 1)), rng.normal(size=images)
    return 0.3 + a * of_seeds + b * of_images + c * rng.normal(size=(seeds, images))


def test_mean_squares_are_those_of_a_two_way_table() -> None:
    """MS_seed = n·s²_seed and MS_image = S·s²_image, from the sums of the textbook's table."""
    values = drawn(4, 7)
    correction = values.sum() ** 2 / 28
    of_seeds = (values.sum(axis=1) ** 2).sum() / 7 - correction
    of_images = (values.sum(axis=0) ** 2).sum() / 4 - correction
    rest = (values**2).sum() - correction - of_seeds - of_images
    found = crossed(values)
    assert found.seed_variance == pytest.approx(of_seeds / 3 / 7)
    assert found.image_variance == pytest.approx(of_images / 6 / 4)
    assert found.residual_variance == pytest.approx(rest / 18)
    assert found.se**2 == pytest.approx((of_seeds / 3 + of_images / 6 - rest / 18) / 28)
    assert found.mean == pytest.approx(values.mean())


def test_the_error_is_that_of_means_over_other_seeds_and_other_images() -> None:
    """Over many worlds se² is the variance of the mean, of which each part alone falls short."""
    draws = []
    rng = np.random.default_rng(0)
    for _ in range(2000):
        of_seeds, of_images = rng.normal(size=(6, 1)), 2 * rng.normal(size=15)
        draws.append(crossed(of_seeds + of_images + 1.5 * rng.normal(size=(6, 15))))
    truth = 1 / 6 + 4 / 15 + 1.5**2 / 90
    assert np.var([one.mean for one in draws]) == pytest.approx(truth, rel=0.08)
    assert np.mean([one.se**2 for one in draws]) == pytest.approx(truth, rel=0.04)


def test_it_is_never_below_the_error_of_seeds_or_that_of_images() -> None:
    """Of noise alone the three parts are alike, and taking one off could leave next to nothing."""
    floors = 0
    for seed in range(30):
        found = crossed(np.random.default_rng(seed).normal(size=(4, 6)))
        parts = found.seed_variance / 4, found.image_variance / 6
        assert found.se**2 >= max(parts) - 1e-12
        floors += sum(parts) - found.residual_variance / 24 < max(parts)
    assert floors > 5


def test_one_seed_or_one_image_has_no_error_and_two_seeds_claim_nothing() -> None:
    one, two, three = (crossed(drawn(seeds, 20)) for seeds in (1, 2, 3))
    assert math.isnan(one.se)
    assert math.isnan(one.df)
    assert one.image_variance > 0
    assert two.se > 0
    assert math.isnan(two.df)
    assert three.df > 0
    lone = crossed(drawn(5, 1))
    assert math.isnan(lone.se)
    assert math.isnan(lone.df)
    assert lone.seed_variance > 0
    assert math.isnan(crossed(drawn(5, 20), clusters=np.zeros(20)).se)
    with pytest.raises(ValueError, match="nothing to average"):
        crossed(np.empty((0, 4)))


def test_differences_that_are_all_alike_show_no_error() -> None:
    for value in (0.0, 0.1, -1 / 3):
        found = crossed(np.full((5, 9), value))
        assert (found.se, found.seed_variance, found.image_variance) == (0, 0, 0)
        assert found.mean == pytest.approx(value)
        assert found.df == 4


def test_where_images_are_alike_it_is_the_error_of_seeds_and_the_reverse() -> None:
    rng = np.random.default_rng(0)
    of_seeds, of_images = rng.normal(size=(6, 1)), rng.normal(size=(1, 40))
    found = crossed(np.repeat(of_seeds, 40, axis=1))
    assert found.se == pytest.approx(of_seeds.std(ddof=1) / math.sqrt(6))
    assert found.df == pytest.approx(5)
    found = crossed(np.repeat(of_images, 6, axis=0))
    assert found.se == pytest.approx(of_images.std(ddof=1) / math.sqrt(40))
    assert 20 < found.df <= 39


def test_what_is_not_a_number_is_not_averaged_away() -> None:
    values = drawn(3, 4)
    values[1, 2] = math.inf
    found = astuple(crossed(values))
    assert found[3:5] == (3, 4)
    assert all(math.isnan(one) for one in found[:3] + found[5:])


def test_weights_are_those_of_a_mean_and_add_no_error_of_their_own() -> None:
    """Balanced accuracy is the mean of the classes' means."""
    values = drawn(5, 30)
    rare = np.arange(30) < 6
    weights = np.where(rare, 15 / 6, 15 / 24)
    found = crossed(values, weights=weights)
    balanced = (values[:, rare].mean() + values[:, ~rare].mean()) / 2
    assert found.mean == pytest.approx(balanced)
    assert crossed(values, weights=np.ones(30)) == crossed(values)
    assert found.df < crossed(values).df  # six images carry half of it
    alike = crossed(np.repeat(drawn(5, 1), 30, axis=1), weights=weights)
    assert alike.image_variance == alike.residual_variance == 0


def test_clusters_of_one_size_are_images_that_are_their_means() -> None:
    values = drawn(5, 24)
    clusters = np.repeat(["a", "b", "c", "d", "e", "f"], 4)
    means = values.reshape(5, 6, 4).mean(axis=2)
    assert astuple(crossed(values, clusters)) == pytest.approx(astuple(crossed(means)))
    mixed = np.random.default_rng(1).permutation(24)
    assert astuple(crossed(values[:, mixed], clusters[mixed])) == pytest.approx(
        astuple(crossed(means))
    )


def test_an_image_counted_twice_is_one_cluster_and_not_news() -> None:
    values, twice = drawn(5, 12), np.repeat(np.arange(12), 2)
    assert astuple(crossed(values[:, twice], twice)) == pytest.approx(astuple(crossed(values)))
    assert crossed(values[:, twice]).se < crossed(values).se  # what counting them as two would say


def test_unequal_clusters_have_the_error_of_a_ratio() -> None:
    """A little above the known estimator, which comes out too small for clusters that differ."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(10), np.arange(3, 13))
    few = np.repeat(np.arange(10), [60, *[5] * 9])
    for groups, largest in ((codes, 1.15), (few, 4.0)):
        of_images = rng.normal(size=10)[groups] + rng.normal(size=len(groups))
        found = crossed(np.repeat(of_images[None], 3, axis=0), groups)
        ratio = (found.image_variance / 10) / variance_of_mean(of_images, groups)
        assert 1 <= ratio < largest
    assert found.images == 10
    assert found.df < 2  # one cluster has more than half of the images


def test_variances_of_unequal_clusters_are_right_on_average() -> None:
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(8), [30, 20, 10, 10, 5, 5, 5, 5])
    draws = [rng.normal(size=8)[codes] for _ in range(1500)]
    said = np.mean([crossed(np.stack([d, d, d]), codes).se ** 2 for d in draws])
    assert said == pytest.approx(np.var([d.mean() for d in draws]), rel=0.08)


def test_few_images_that_make_up_the_error_give_it_few_degrees_of_freedom() -> None:
    """Two of 200 images differ: about as much is known of the error as from four."""
    one = np.zeros(200)
    one[:2] = 1
    assert crossed(np.stack([one, one, one, one])).df == pytest.approx(4, abs=0.2)
    spread = np.random.default_rng(0).normal(size=200)
    assert crossed(np.stack([spread, spread, spread])).df > 150


def test_degrees_of_freedom_are_satterthwaites_with_a_cautious_part_of_seeds() -> None:
    upper = 4 / 0.710723  # χ² with 4 degrees of freedom at 5 %, of printed tables
    a, b, c = 2e-4 * upper, 3e-4, 1e-4
    plain = (a + b - c) ** 2 / (a**2 / 4 + b**2 / 99 + c**2 / 396)
    assert float(degrees(2e-4, 3e-4, 1e-4, 4, 99)) == pytest.approx(plain, rel=1e-5)
    assert float(degrees(2e-4, 0.0, 0.0, 4, 99)) == pytest.approx(4)
    assert float(degrees(0.0, 3e-4, 0.0, 4, 99)) == pytest.approx(99)
    assert float(degrees(0.0, 0.0, 0.0, 4, 99)) == 4
