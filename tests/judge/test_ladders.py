"""Which rates are tried, and what a budget leaves of that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lrexp.config.errors import UserError
from lrexp.folder.files import strict_json
from lrexp.judge.ladders import EXTENSIONS, Ladder, extended, fitted

PLAIN = Ladder("uniform", middle=0.05)
WITH_SETTING = Ladder("decayed", middle=0.05, setting="lr_policy.decay", values=(0.5, 0.75))


def test_rates_are_half_decades_around_the_middle_which_is_kept_as_it_is() -> None:
    assert Ladder("a", middle=0.0312).rates == (0.0031, 0.0099, 0.0312, 0.099, 0.31)
    assert Ladder("a", middle=1e-4).axes[1] == "optimizer.lr=1e-05,3.2e-05,0.0001,0.00032,0.001"


def test_tries_are_rates_times_values() -> None:
    assert (PLAIN.tries, WITH_SETTING.tries) == (5, 10)
    assert WITH_SETTING.axes[:2] == ["lr_policy=decayed", "lr_policy.decay=0.5,0.75"]


def test_a_policy_that_gives_every_rate_itself_is_tried_once() -> None:
    own = Ladder("own", key="")
    assert (own.rates, own.tries, own.axes) == ((), 1, ["lr_policy=own"])
    assert extended([own], {"own": "one"}) == [own]


def test_no_rate_lies_below_the_least() -> None:
    bound = Ladder("slice", key="lr_policy.lr_high", middle=0.01, least=0.005)
    assert bound.rates == (0.01, 0.032, 0.1)
    assert extended([bound], {"slice": "lower"}) == [bound], "there is nothing further down"


def test_a_ladder_is_extended_where_its_best_lies_at_an_edge_so_often_and_no_more() -> None:
    ladders = [PLAIN, WITH_SETTING]
    longer = extended(ladders, {"uniform": "upper", "decayed": "inside"})
    assert longer == [replace(PLAIN, up=1), WITH_SETTING]
    assert longer[0].rates == (*PLAIN.rates, 1.6)
    both = extended(longer, {"uniform": "lower", "decayed": "lower"})
    assert both[0].rates == (0.0016, *PLAIN.rates, 1.6)
    assert both[1].rates == (0.0016, *PLAIN.rates)
    for _ in range(EXTENSIONS + 1):
        ladders = extended(ladders, {"uniform": "upper"})
    assert ladders[0].up == EXTENSIONS


def test_a_ladder_is_read_back_as_it_was_saved() -> None:
    for one in (PLAIN, WITH_SETTING, Ladder("own", key="")):
        saved = json.loads(strict_json(one.as_dict()))
        back = Ladder.of_dict(saved)
        assert (back.axes, back.as_dict().keys()) == (one.axes, one.as_dict().keys())


def test_a_budget_takes_the_last_look_first_and_no_policy() -> None:
    five = [replace(PLAIN, policy=name) for name in "abc"]
    five += [replace(WITH_SETTING, policy=name) for name in "de"]
    whole = fitted(five, None)
    assert (whole.seeds, whole.looks, whole.climbing) == (3, (5, 10, 20), 105)
    assert (whole.least, whole.needed, whole.most) == (130, 205, 247)
    for budget in range(40, 300, 7):
        size = fitted(five, budget)
        assert size.needed <= budget
        assert len(size.ladders) == 5
    assert fitted(five, 204).looks == (5, 10)
    assert fitted(five, 154).seeds == 2
    assert {one.tries for one in fitted(five, 119).ladders} == {5}
    assert {one.tries for one in fitted(five, 74).ladders} == {3}


def test_a_budget_too_small_for_a_first_look_is_refused_with_the_smallest() -> None:
    ladders = [PLAIN, WITH_SETTING]
    with pytest.raises(UserError, match="at least 16, of which 6 choose rates"):
        fitted(ladders, 15)
    assert fitted(ladders, 16).looks == (5,)
