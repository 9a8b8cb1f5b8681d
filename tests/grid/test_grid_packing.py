"""Packs: every point exactly once, only compatible points together, none larger than fits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrexp.grid.stack.packing import Point, halves, pack

POINTS = st.lists(
    st.builds(
        Point,
        shared=st.none() | st.integers(0, 3),
        bytes=st.integers(0, 50),
        feed=st.integers(0, 4),
    ),
    max_size=40,
)
CAPACITY, LARGEST = st.integers(0, 200), st.integers(1, 12)


@given(POINTS, CAPACITY, LARGEST)
def test_every_point_is_in_exactly_one_pack(
    points: list[Point], capacity: int, largest: int
) -> None:
    packs = pack(points, capacity, largest)
    assert sorted(i for members in packs for i in members) == list(range(len(points)))
    assert all(packs)


@given(POINTS, CAPACITY, LARGEST)
def test_only_compatible_points_are_together_and_no_more_than_fit(
    points: list[Point], capacity: int, largest: int
) -> None:
    for members in pack(points, capacity, largest):
        assert len(members) <= largest
        if len(members) > 1:
            assert len({points[i].shared for i in members}) == 1
            assert points[members[0]].shared is not None
            assert sum(points[i].bytes for i in members) <= capacity


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 12))
def test_packs_are_as_few_and_as_equal_as_can_be(keys: list[int], largest: int) -> None:
    points = [Point(key, 10) for key in keys]
    packs = pack(points, 10**6, largest)
    for key in set(keys):
        sizes = [len(members) for members in packs if points[members[0]].shared == key]
        assert len(sizes) == math.ceil(keys.count(key) / largest)
        assert max(sizes) - min(sizes) <= 1


@given(POINTS, CAPACITY, LARGEST)
def test_packs_are_in_order_of_their_first_points(
    points: list[Point], capacity: int, largest: int
) -> None:
    packs = pack(points, capacity, largest)
    assert packs == sorted(packs)
    assert all(members == sorted(members) for members in packs)


@given(POINTS, CAPACITY, LARGEST, st.integers(0, 3))
def test_what_others_do_does_not_move_a_kind_of_points(
    points: list[Point], capacity: int, largest: int, key: int
) -> None:
    # Points of other kinds, left out, change no pack of this kind but for the numbers.
    own = [i for i, point in enumerate(points) if point.shared == key]
    among_all = [m for m in pack(points, capacity, largest) if points[m[0]].shared == key]
    alone = pack([points[i] for i in own], capacity, largest)
    assert [[own[i] for i in members] for members in alone] == among_all


def test_points_of_one_feed_stay_together_where_a_kind_must_be_divided() -> None:
    points = [Point("net", 1, feed=seed) for _ in range(4) for seed in (0, 1)]
    assert pack(points, 4, 16) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert pack(points, 8, 16) == [list(range(8))]


def test_a_point_too_large_for_the_memory_is_a_pack_of_its_own() -> None:
    assert pack([Point("net", 50), Point("net", 50)], 40, 16) == [[0], [1]]


def test_a_point_that_shares_with_nobody_is_not_packed_with_its_like() -> None:
    assert pack([Point(None, 1), Point(None, 1)], 100, 16) == [[0], [1]]


@given(st.lists(st.integers(), min_size=2))
def test_halves_are_the_members_in_order_and_equal_but_for_one(members: list[int]) -> None:
    first, second = halves(members)
    assert first + second == members
    assert len(first) - len(second) in (0, 1)


@pytest.mark.parametrize("members", [[], [1]])
def test_what_cannot_be_halved_is_refused(members: list[int]) -> None:
    with pytest.raises(ValueError, match="cannot be halved"):
        halves(members)
