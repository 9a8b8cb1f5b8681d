"""Packs: every run exactly once, as few as can be, none larger than fits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrexp.grid.jobs import halves, pack

FEEDS, LARGEST = st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 12)


@given(FEEDS, LARGEST)
def test_every_run_is_in_exactly_one_pack(feeds: list[int], largest: int) -> None:
    packs = pack(feeds, largest)
    assert sorted(i for members in packs for i in members) == list(range(len(feeds)))


@given(FEEDS, LARGEST)
def test_packs_are_as_few_and_as_equal_as_can_be(feeds: list[int], largest: int) -> None:
    sizes = [len(members) for members in pack(feeds, largest)]
    assert len(sizes) == math.ceil(len(feeds) / largest)
    assert max(sizes) <= largest
    assert max(sizes) - min(sizes) <= 1


@given(FEEDS, LARGEST)
def test_packs_are_in_order_of_their_first_runs(feeds: list[int], largest: int) -> None:
    packs = pack(feeds, largest)
    assert packs == sorted(packs)
    assert all(members == sorted(members) for members in packs)


def test_runs_of_one_feed_stay_together_where_they_must_be_divided() -> None:
    assert pack([0, 1] * 4, 4) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert pack([0, 1] * 4, 8) == [list(range(8))]


@given(st.lists(st.integers(), min_size=2))
def test_halves_are_the_members_in_order_and_equal_but_for_one(members: list[int]) -> None:
    first, second = halves(members)
    assert first + second == members
    assert len(first) - len(second) in (0, 1)


@pytest.mark.parametrize("members", [[], [1]])
def test_what_cannot_be_halved_is_refused(members: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        halves(members)
