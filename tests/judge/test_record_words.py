"""Sentences and names that the terminal and the reports share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrexp.judge.words import brief, in_short, value_in_short


def test_of_leaks_the_terminal_has_the_counts() -> None:
    line = "leaks  exact copies: 2 of 9 val images in train, 1 of 9 in test; a.png = b.png; ..."
    counts = "leaks  exact copies: 2 of 9 val images in train, 1 of 9 in test"
    assert brief(line) == f"{counts} (summary.json lists them)"
    assert brief(counts) == counts
    assert brief("note   a; b") == "note   a; b"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("1000000.0", "1e+06"),
        ("1000000000.0", "1e+09"),
        ("0.10", "0.1"),
        ("0.1", "0.1"),
        ("1e-05", "1e-05"),
        ("1000000", "1000000"),  # a number of steps
        ("0.12345678", "0.12345678"),
        ("1234567.0", "1234567.0"),
        ("nan", "nan"),
        ("layer1.conv", "layer1.conv"),
    ],
)
def test_a_number_is_as_short_as_it_stays_the_same(typed: str, shown: str) -> None:
    assert value_in_short(typed) == shown


@given(st.floats(allow_nan=False))
def test_a_number_in_short_is_the_same_number(value: float) -> None:
    assert float(value_in_short(str(value))) == value


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"lr_policy": "ulmfit", "optimizer.lr": "1000000.0"}, "ulmfit lr=1e+06"),
        ({"seed": "0", "data.seed": "1"}, "seed=0 data.seed=1"),
        ({"lr_policy.decay": None, "optimizer": "adam"}, "adam"),
    ],
)  # fmt: skip
def test_overrides_are_named_as_people_say_them(chosen: dict[str, str | None], said: str) -> None:
    assert in_short(chosen) == said
