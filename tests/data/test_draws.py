"""Draws are pure functions that look random."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrexp.data.draws import cut, draw, draw_each, order

seeds = st.integers(0, 2**63)
counters = st.lists(st.integers(0, 2**40), max_size=3)


@given(seeds, st.text(), counters)
def test_a_draw_is_a_function_of_its_arguments_that_fits_a_generator(
    seed: int, purpose: str, at: list[int]
) -> None:
    value = draw(seed, purpose, *at)
    draw(seed + 1, purpose, *at)  # another draw in between changes nothing
    assert value == draw(seed, purpose, *at)
    assert 0 <= value < 2**63


def splitmix64(state: int) -> int:
    """Steele, Lea and Flood's generator: its next output from `state`, written once more."""
    z = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_mixing_is_splitmix64() -> None:
    assert splitmix64(1234567) == 6457827717110365317  # as published with the algorithm
    state = draw(3, "augment", 4)
    drawn = draw_each(3, "augment", np.array([0, 1, 2**60]), 4)
    assert drawn.tolist() == [splitmix64(i ^ state) for i in (0, 1, 2**60)]


def test_draws_never_change() -> None:
    # A difference here changes every run there ever was.
    assert draw(0, "init") == 3848402713798334190
    assert order(0, "order", np.arange(8), 1).tolist() == [7, 4, 1, 6, 0, 5, 2, 3]


@given(st.integers(0, 3000), st.integers(1, 300))
def test_batches_are_as_few_as_can_be_and_equal_but_for_one_image(n: int, most: int) -> None:
    batches = cut(np.arange(n), most)
    sizes = [len(batch) for batch in batches]
    assert np.concatenate(batches).tolist() == list(range(n))
    assert len(batches) == max(1, -(-n // most))
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= min(most, sizes[-1] + 1)


def test_every_part_of_the_address_matters() -> None:
    addresses = [
        (seed, purpose, *at)
        for seed in (0, 1, 2**40)
        for purpose in ("order", "dropout", "")
        for at in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))
    ]
    assert len({draw(*address) for address in addresses}) == len(addresses)


@given(st.lists(st.integers(0, 2**60), min_size=1, unique=True), seeds, st.randoms())
def test_what_a_sample_draws_does_not_depend_on_the_others(
    samples: list[int], seed: int, shuffler: object
) -> None:
    ids = np.array(samples)
    together = draw_each(seed, "augment", ids, 3)
    alone = [int(draw_each(seed, "augment", ids[i : i + 1], 3)[0]) for i in range(len(ids))]
    assert together.tolist() == alone
    backwards = draw_each(seed, "augment", ids[::-1], 3)
    assert backwards[::-1].tolist() == alone


@given(st.integers(1, 200), seeds, st.integers(0, 1000))
def test_order_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    positions = order(seed, "order", np.arange(size), epoch)
    assert sorted(positions.tolist()) == list(range(size))


def test_order_ranks_samples_whatever_their_place_in_the_array() -> None:
    ids = np.array([7, 1, 90, 4, 33])
    ranked = ids[order(5, "order", ids)].tolist()
    assert ranked == ids[::-1][order(5, "order", ids[::-1])].tolist()
    # A subset keeps the order it has in the whole, which makes limits nested.
    subset = np.array([4, 90, 1])
    assert subset[order(5, "order", subset)].tolist() == [i for i in ranked if i in (1, 4, 90)]


def test_epochs_purposes_and_seeds_give_unrelated_orders() -> None:
    ids = np.arange(1000)
    first = order(0, "order", ids, 1)
    for other in (
        order(0, "order", ids, 2),
        order(0, "split val", ids, 1),
        order(1, "order", ids, 1),
    ):
        # Rank correlation of independent permutations has standard deviation 1/√999.
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(999)
        # The number of fixed points is Poisson(1): more than 9 has probability 1e-7.
        assert (first == other).sum() < 10


def test_draws_are_uniform() -> None:
    # χ² with 99 degrees of freedom exceeds 180 with probability 1e-6.
    n, cells = 100_000, 100
    for values in (
        draw_each(0, "augment", np.arange(n), 1) / 2.0**64,
        np.array([draw(0, "dropout", t) for t in range(n)]) / 2.0**63,
        np.array([draw(seed, "init") for seed in range(n)]) / 2.0**63,
    ):
        counts = np.bincount((values * cells).astype(int), minlength=cells)
        assert ((counts - n / cells) ** 2 / (n / cells)).sum() < 180


def test_where_a_sample_lands_is_uniform_over_epochs() -> None:
    # Each position of 10 is hit Binomial(2000, 1/10): five standard deviations are 67.
    landed = np.array([order(0, "order", np.arange(10), epoch) for epoch in range(2000)])
    for position in range(10):
        counts = np.bincount(landed[:, position], minlength=10)
        assert abs(counts - 200).max() < 67
