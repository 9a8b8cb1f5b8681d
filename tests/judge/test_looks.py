"""Looking several times: what is spent, who is decided when, and that error is not spent twice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lrexp.judge.comparison import Images, Scores, compare
from lrexp.judge.looks import LOOKS, levels, looked, open_at

NONE = np.full((1, 1), math.nan)


def flat(means: np.ndarray, images: int = 30) -> Scores:
    """Seeds that score the same on every image."""
    return Scores(np.repeat(means[:, None], images, axis=1), NONE)


def test_levels_are_what_o_brien_and_flemings_spending_adds() -> None:
    """Cumulative figures of printed tables (Lan and DeMets 1983, five equal looks at 5 %)."""
    five = np.cumsum(levels((1, 2, 3, 4, 5)))
    assert five == pytest.approx([0.00001, 0.0019, 0.0114, 0.0284, 0.05], abs=1e-4)
    assert levels(LOOKS) == pytest.approx([0.0000886, 0.005487, 0.044425], abs=1e-6)
    for level in (0.05, 0.01):
        assert sum(levels(LOOKS, level)) == pytest.approx(level)
    assert levels((10,)) == pytest.approx((0.05,))
    for wrong in ((), (10, 5), (5, 5)):
        with pytest.raises(ValueError, match="that grow"):
            levels(wrong)


def policies(seeds: int = 20) -> dict[str, Scores]:
    up_and_down = (-1.0) ** np.arange(seeds)
    return {
        "base": flat(np.full(seeds, 0.5)),
        "far": flat(0.6 + 0.002 * up_and_down),
        "better": flat(0.52 + 0.012 * up_and_down),
        "same": flat(0.5 + 0.03 * up_and_down),
        "open": flat(0.512 + 0.03 * up_and_down),
    }


def test_what_is_decided_stops_and_the_rest_goes_on() -> None:
    found = {one.name: one for one in looked(policies(), "base", Images(), margin=0.02)}
    assert {name: (one.word, one.difference.seeds) for name, one in found.items()} == {
        "far": ("better", 5),
        "better": ("better", 10),
        "same": ("no difference", 20),
        "open": ("undecided", 20),
    }
    assert [one.needs is None for one in found.values()] == [True, True, True, False]


def test_who_stopped_needs_no_more_seeds_and_all_comes_out_the_same() -> None:
    there = policies()
    whole = looked(there, "base", Images(), margin=0.02)
    short = {
        n: one.first(5 if n == "far" else 10 if n == "better" else 20) for n, one in there.items()
    }
    assert looked(short, "base", Images(), margin=0.02) == whole


def test_looks_follow_until_all_is_decided_or_no_look_is_left() -> None:
    there, margin = policies(), 0.02
    asked = []
    for seeds in (5, 10, 20):
        part = {name: one.first(seeds) for name, one in there.items()}
        asked.append(open_at(looked(part, "base", Images(), margin)))
    assert asked == [(10, ["better", "same", "open"]), (20, ["same", "open"]), (0, [])]
    sure = {name: there[name].first(5) for name in ("base", "far")}
    assert open_at(looked(sure, "base", Images())) == (0, [])


def test_before_the_first_look_nothing_is_decided() -> None:
    part = {name: one.first(4) for name, one in policies().items()}
    found = looked(part, "base", Images(), margin=0.02)
    assert {one.word for one in found} == {"undecided"}
    assert {one.difference.seeds for one in found} == {4}
    assert open_at(found) == (5, ["far", "better", "same", "open"])


def test_who_lags_is_judged_by_the_last_look_it_has_seeds_for() -> None:
    there = policies()
    there["same"] = there["same"].first(13)
    found = {one.name: one for one in looked(there, "base", Images(), margin=0.001)}
    assert found["same"].difference.seeds == 10
    assert open_at(list(found.values()))[0] == 20


def test_one_look_alone_is_a_comparison() -> None:
    there = policies(10)
    once = looked(there, "base", Images(), 0.02, looks=(10,))
    whole = compare(there, "base", Images(), 0.02)
    assert [(a.word, a.p, a.p_adjusted) for a in once] == [
        (b.word, b.p, b.p_adjusted) for b in whole
    ]


def test_an_interval_leaves_zero_out_exactly_where_the_word_does() -> None:
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(40):
        there = {str(i): flat(0.5 + 0.004 * (i > 2) + rng.normal(0, 0.01, 20)) for i in range(5)}
        for one in looked(there, "0", Images(), margin=0.004, plan=False):
            beyond = one.interval[0] > 0 or one.interval[1] < 0
            assert beyond == (one.word in ("better", "worse"))
            told += beyond
    assert told


def test_equal_policies_are_told_apart_in_at_most_one_of_twenty_over_all_looks() -> None:
    """Three looks at 5 % each, Holm and all, come to twice the error; the intervals cover."""
    rng, tries = np.random.default_rng(0), 250
    false = unspent = covered = 0
    for _ in range(tries):
        there = {str(i): flat(rng.normal(0.5, 0.01, 20), images=2) for i in range(3)}
        found = looked(there, "0", Images(), plan=False)
        false += any(one.word != "undecided" for one in found)
        covered += sum(one.interval[0] <= 0 <= one.interval[1] for one in found)
        at = [{n: s.first(seeds) for n, s in there.items()} for seeds in LOOKS]
        each = [compare(part, "0", Images(), plan=False) for part in at]
        unspent += any(one.word != "undecided" for look in each for one in look)
    assert false / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)
    assert unspent / tries > 0.075
    assert covered / tries / 2 >= 0.93


def test_the_margin_is_claimed_in_at_most_one_of_twenty_at_its_edge() -> None:
    rng, tries = np.random.default_rng(0), 400
    within = 0
    for _ in range(tries):
        there = {"a": flat(np.full(20, 0.5), 2), "b": flat(rng.normal(0.52, 0.02, 20), 2)}
        within += looked(there, "a", Images(), 0.02, plan=False)[0].word == "no difference"
    assert within / tries <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / tries)
