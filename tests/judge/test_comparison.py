"""Better, no difference, undecided: pieces against statsmodels, the whole against simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrexp.judge.comparison import (
    Compared,
    Images,
    Scores,
    compare,
    holm,
    interval,
    p_beyond,
    p_value,
    smallest_margin,
)
from lrexp.judge.crossed import crossed
from lrexp.judge.power import Noise


def scores(right: np.ndarray, losses: np.ndarray | None = None) -> Scores:
    return Scores(right, np.zeros_like(right) if losses is None else losses)


def of_seeds(*means: float, images: int = 30) -> np.ndarray:
    """(S, n) of seeds that score the same on every image."""
    return np.repeat(np.array(means)[:, None], images, axis=1)


def world(rng: np.random.Generator, seeds: int, images: int, mean: float = 0.0) -> Scores:
    """Scores whose error is of seeds and images alike."""
    wide = 0.01 * math.sqrt(images / seeds)
    shape = rng.normal(size=(seeds, 1)), rng.normal(size=images)
    return Scores(mean + 0.01 * shape[0] + wide * shape[1], np.full((1, 1), math.nan))


def compared(*means: list[float], margin: float | None = None, level: float = 0.05) -> Compared:
    """Of a baseline that always scores 0.5, the last of those named."""
    seeds = len(means[0])
    there = {"base": scores(of_seeds(*[0.5] * seeds))}
    there |= {f"p{i}": scores(0.5 + of_seeds(*mean)) for i, mean in enumerate(means)}
    return compare(there, "base", Images(), margin, level)[-1]


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5)]


@pytest.mark.parametrize("seed", [0, *SLOW])
def test_p_after_holm_is_that_of_statsmodels(seed: int) -> None:
    from statsmodels.stats.multitest import multipletests

    p = list(np.random.default_rng(seed).random(7) ** 3)
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    absent = holm(p, comparisons=9)  # two more that have p = 1
    assert absent == pytest.approx(multipletests([*p, 1, 1], method="holm")[1][:7])


def test_without_noise_of_images_the_tests_are_paired_t_tests() -> None:
    from scipy.stats import ttest_1samp
    from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

    rng = np.random.default_rng(0)
    a, b = rng.normal(0.90, 0.01, 8), rng.normal(0.905, 0.01, 8)
    found = compare(
        {"a": scores(of_seeds(*a)), "b": scores(of_seeds(*b))}, "a", Images(), margin=0.02
    )[0]
    assert found.p == pytest.approx(ttest_1samp(b - a, 0).pvalue)
    assert found.interval == pytest.approx(DescrStatsW(b - a).tconfint_mean())
    assert found.p_margin == pytest.approx(ttost_paired(b, a, -0.02, 0.02)[0])


def test_words() -> None:
    assert compared([0.02, 0.021, 0.019, 0.02]).word == "better"
    assert compared([-0.02, -0.021, -0.019, -0.02], margin=0.05).word == "worse"
    near = [0.001, -0.001, 0.0015, -0.0012]
    assert compared(near).word == "undecided"
    assert compared(near).p_margin is None
    assert compared(near, margin=0.01).word == "no difference"
    assert compared(near, margin=0.001).word == "undecided"
    assert compared([0.02, 0.021]).word == "undecided"  # two seeds claim nothing
    with pytest.raises(ValueError, match="not above zero"):
        compared(near, margin=0.0)


def test_two_seeds_and_one_seed_have_no_interval_and_say_what_they_need() -> None:
    for seeds, more in (([0.02, 0.021], 1), ([0.02], 2)):
        found = compared(seeds, margin=0.5)
        assert (found.p, found.p_margin, found.word) == (1, 1, "undecided")
        assert all(math.isnan(end) for end in found.interval)
        assert found.needs is not None
        assert found.needs.seeds == more


def test_a_difference_is_only_better_after_holm() -> None:
    """p is 0.03: enough alone, not for one of two, and enough beside one that is sure."""
    weak, none = [0.02, 0.01, 0.03, 0.0, 0.02], [0.01, -0.01, 0.02, -0.02, 0.0]
    sure = [0.1, 0.101, 0.099, 0.1, 0.1]
    alone = compared(weak)
    assert 0.025 < alone.p < 0.05
    assert alone.word == "better"
    assert compared(none, weak).word == "undecided"
    assert compared(sure, weak).word == "better"


def test_one_that_left_still_counts_for_holm() -> None:
    there = {
        "base": scores(of_seeds(*[0.5] * 5)),
        "p": scores(of_seeds(0.52, 0.51, 0.53, 0.5, 0.52)),
    }
    alone, beside = (compare(there, "base", Images(), comparisons=n)[0] for n in (1, 4))
    assert (alone.word, beside.word) == ("better", "undecided")
    assert beside.p_adjusted == pytest.approx(4 * alone.p)


def test_images_that_show_no_difference_may_hide_one() -> None:
    """None of n images differs: with 0.02 of them differing that happens in 0.98ⁿ of test sets."""
    for images, word in ((50, "undecided"), (179, "no difference")):
        same = scores(np.ones((5, images)))
        found = compare({"a": same, "b": same}, "a", Images(), margin=0.02)[0]
        assert found.difference.se == 0
        assert (found.p, found.word) == (1, word)
        assert found.p_margin == pytest.approx(0.98**images)
        assert found.interval[1] == -found.interval[0] == pytest.approx(1 - 0.025 ** (1 / images))


def test_images_that_all_differ_are_tested_by_their_signs() -> None:
    from scipy.stats import binomtest

    for images in (4, 5, 6, 12):
        difference = crossed(np.ones((3, images)))
        assert p_value(difference) == pytest.approx(binomtest(images, images).pvalue)
        assert (interval(difference)[0] > 0) == (p_value(difference) < 0.05)
    assert p_beyond(crossed(np.full((3, 40), 0.1)), 0.2) == pytest.approx((0.8 / 0.9) ** 40)


def test_losses_stand_beside_without_a_verdict() -> None:
    rng = np.random.default_rng(0)
    right, losses = of_seeds(0.5, 0.51, 0.49), rng.random((3, 30))
    base = scores(right, losses)
    for more, disagrees in ((0.3, True), (-0.3, False)):
        found = compare({"a": base, "b": scores(right + 0.1, losses + more)}, "a", Images())[0]
        assert found.loss is not None
        assert found.loss.mean == pytest.approx(more)
        assert found.disagrees is disagrees
    broken = losses.copy()
    broken[1] = math.nan
    found = compare({"a": base, "b": scores(right + 0.1, broken)}, "a", Images())[0]
    assert (found.loss, found.disagrees) == (None, False)


def test_scores_of_other_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"'b' have the shape \(3, 29\), those of 'a' \(3, 30\)"):
        compare({"a": scores(np.ones((3, 30))), "b": scores(np.ones((3, 29)))}, "a", Images())


def test_weights_and_clusters_reach_the_error() -> None:
    rng = np.random.default_rng(0)
    a, b = (scores((rng.random((4, 40)) < 0.8).astype(float)) for _ in range(2))
    weights, clusters = np.where(np.arange(40) < 8, 2.5, 0.625), np.arange(40) // 4
    found = compare({"a": a, "b": b}, "a", Images(weights, clusters))[0]
    assert found.difference == crossed(b.right - a.right, clusters, weights)


def test_needs_tell_seeds_where_they_settle_it_and_images_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    base = scores(np.zeros((5, 100)))
    noisy = 0.02 + of_seeds(0.03, -0.03, 0.03, -0.03, 0.03, images=100)
    found = compare({"a": base, "b": scores(noisy)}, "a", Images())[0]
    assert found.needs is not None
    assert found.needs.images is None
    assert found.needs.seeds is not None
    assert 3 < found.needs.seeds < 95
    few = 0.2 * rng.normal(size=100) + 0.01 * rng.normal(size=(5, 1))
    few = few - few.mean() + 0.02
    found = compare({"a": base, "b": scores(few)}, "a", Images())[0]
    assert found.needs is not None
    assert found.needs.seeds is None
    assert found.needs.images is not None
    assert 300 < found.needs.images < 2000
    nothing = noisy - noisy.mean()
    found = compare({"a": base, "b": scores(nothing)}, "a", Images())[0]
    assert found.needs is not None
    assert (found.needs.seeds, found.needs.images) == (None, None)
    found = compare({"a": base, "b": scores(nothing)}, "a", Images(), margin=0.01)[0]
    assert found.needs is not None
    assert found.needs.seeds is not None


def test_the_smallest_margin_is_what_images_alone_leave() -> None:
    rng = np.random.default_rng(0)
    base, of_images = scores(np.zeros((5, 400))), 0.1 * rng.normal(size=400)
    b = scores(np.tile(of_images - of_images.mean(), (5, 1)))
    found = compare({"a": base, "b": b}, "a", Images())
    assert smallest_margin(found) == pytest.approx(2.927 * of_images.std(ddof=1) / 20)
    far = compare({"a": base, "b": b, "c": scores(1 + 9 * b.right)}, "a", Images())
    assert [one.word for one in far] == ["undecided", "better"]
    assert smallest_margin(far) == smallest_margin(found)  # what is decided needs no margin
    same = compare({"a": base, "b": base}, "a", Images())
    assert smallest_margin(same) == pytest.approx(1 - 0.05 ** (1 / 400))
    assert math.isnan(smallest_margin([]))


def test_noise_of_seeds_that_meets_images_is_not_that_of_images() -> None:
    """Right and wrong by chance alone: more seeds would help, images do not stand in the way."""
    rng = np.random.default_rng(0)
    noise = Noise.of(crossed(rng.normal(size=(10, 400))))
    assert noise.both == pytest.approx(1, abs=0.05)
    assert noise.image < 0.15  # where √s²_image is about 0.32
    assert noise.seed < 0.05


def test_equal_policies_are_told_apart_in_at_most_one_of_twenty() -> None:
    """Seven equal policies, seeds and images alike. Without Holm it were one of five; by the error
    of seeds alone, or of images alone, one of three."""
    rng, tries = np.random.default_rng(0), 250
    false = plain = 0
    for _ in range(tries):
        there = {str(i): world(rng, 5, 40) for i in range(7)}
        found = compare(there, "0", Images(), plan=False)
        false += any(one.word != "undecided" for one in found)
        plain += any(one.p < 0.05 for one in found)
    assert false / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)
    assert plain / tries > 0.12


def test_intervals_cover_and_the_margin_is_claimed_in_one_of_twenty_at_its_edge() -> None:
    rng, tries = np.random.default_rng(0), 600
    covered = within = 0
    for _ in range(tries):
        there = {"a": world(rng, 5, 40), "b": world(rng, 5, 40, mean=0.03)}
        found = compare(there, "a", Images(), margin=0.03, plan=False)[0]
        covered += found.interval[0] <= 0.03 <= found.interval[1]
        within += found.p_margin is not None and found.p_margin < 0.05
    assert covered / tries >= 0.93
    assert within / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)
