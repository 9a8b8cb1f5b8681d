"""What the table of verdicts takes for so: outcomes on test images, and what other runs came to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

SCRIPTS = ROOT / "scripts"
CLEAR, NONE, NOT_CLEAR = (0.4, 0.1), (0.0, 0.1), (0.2, 0.1)  # 4, 0 and 2 errors from zero


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))


@pytest.fixture
def truth() -> Any:
    return import_module("verdict_truth")


def outcome(truth: Any, **changes: Any) -> Any:
    """A run that learned, ended at its best and has no fault."""
    known = {
        "problem": "plain",
        "policy": "uniform",
        "rate": 0.1,
        "seed": 0,
        "folder": "0",
        "status": "finished",
        "accuracy": 0.9,
        "last_accuracy": 0.9,
        "rise": NONE,
        "fall": NONE,
        "peak": CLEAR,
        "best_learned": (CLEAR, CLEAR),
        "last_learned": (CLEAR, CLEAR),
        "above_largest": CLEAR,
        "undone": {"all": (1.0, 0.5)},
        "random_frozen": False,
    }
    return truth.Outcome(**(known | changes))


def seeds(truth: Any, accuracies: list[float], **changes: Any) -> list[Any]:
    return [
        outcome(truth, seed=seed, accuracy=value, last_accuracy=value, **changes)
        for seed, value in enumerate(accuracies)
    ]


def so(truth: Any, **changes: Any) -> dict[str, bool | None]:
    """What is so of a lone run, with two seeds as there must be."""
    return truth.truths([outcome(truth, seed=seed, **changes) for seed in (0, 1)])[0]


@pytest.mark.parametrize(
    ("difference", "found"),
    [
        (CLEAR, True),
        (NONE, False),
        ((-0.5, 0.1), False),
        (NOT_CLEAR, None),
        ((0.0, 0.0), False),
        ((0.1, 0.0), True),
        ((float("nan"), 0.1), None),
        ((0.4, float("nan")), None),
    ],
)
def test_a_difference_is_clear_absent_or_neither(
    truth: Any, difference: tuple[float, float], found: bool | None
) -> None:
    assert truth.beyond(difference) is found


def test_a_rate_is_too_slow_where_a_higher_one_is_better_by_a_point_and_two_errors(
    truth: Any,
) -> None:
    slow = seeds(truth, [0.80, 0.81, 0.82], rate=0.01)
    good = seeds(truth, [0.90, 0.91, 0.92], rate=0.1)
    fast = seeds(truth, [0.50, 0.51, 0.52], rate=1.0)
    found = truth.truths([*slow, *good, *fast])
    assert [one["too_slow"] for one in found] == [True] * 3 + [False] * 6
    assert [one["too_fast"] for one in found] == [False] * 6 + [True] * 3
    assert [one["healthy"] for one in found][:6] == [False] * 3 + [True] * 3


def test_a_difference_below_a_point_or_two_errors_makes_no_rate_too_slow(truth: Any) -> None:
    slow = seeds(truth, [0.800, 0.810, 0.820], rate=0.01)
    half_a_point = seeds(truth, [0.805, 0.815, 0.825], rate=0.1)
    scattered = seeds(truth, [0.75, 0.81, 1.00], rate=1.0)
    assert not any(one["too_slow"] for one in truth.truths([*slow, *half_a_point, *scattered])[:3])


def test_rates_are_compared_within_a_policy_and_a_problem(truth: Any) -> None:
    ours = seeds(truth, [0.80, 0.81, 0.82], rate=0.01)
    theirs = seeds(truth, [0.90, 0.91, 0.92], rate=0.1, policy="layerwise_decay")
    others = seeds(truth, [0.90, 0.91, 0.92], rate=0.1, problem="small")
    found = truth.truths([*ours, *theirs, *others])
    assert not any(one["too_slow"] for one in found)
    assert [one["improvable"] for one in found] == [True] * 3 + [False] * 6


def test_a_rate_is_too_fast_by_the_last_weights_too(truth: Any) -> None:
    good = seeds(truth, [0.90, 0.91], rate=0.1)
    fast = [
        outcome(truth, seed=seed, rate=1.0, accuracy=0.905, last_accuracy=0.5) for seed in (0, 1)
    ]
    assert [one["too_fast"] for one in truth.truths([*good, *fast])] == [False, False, True, True]


@pytest.mark.parametrize(
    ("changes", "name", "found"),
    [
        ({"rise": CLEAR, "fall": CLEAR}, "overfitting", True),
        ({"rise": NOT_CLEAR}, "overfitting", None),
        ({}, "overfitting", False),
        ({"rise": CLEAR, "fall": NONE}, "overconfident", True),
        ({"rise": CLEAR, "fall": CLEAR}, "overconfident", False),
        ({"rise": CLEAR, "fall": NOT_CLEAR}, "overconfident", None),
        ({"rise": NOT_CLEAR}, "healthy", None),
        ({"last_learned": (CLEAR, NONE)}, "collapsed", True),
        ({"last_learned": (CLEAR, NOT_CLEAR)}, "collapsed", None),
        ({"last_learned": (CLEAR, NONE), "rise": CLEAR}, "overfitting", False),
        ({"best_learned": (NONE, NONE)}, "best_guesses", True),
        ({"above_largest": NONE}, "majority", True),
        ({}, "majority", False),
        ({"undone": {"conv": (0.001, 0.001), "head": (1.0, 0.5)}}, "undone", True),
        ({"undone": {"conv": (0.001, 0.02)}}, "undone", False),
        ({"planted": ("leak",)}, "leak", True),
        ({"planted": ("leak",)}, "healthy", False),
    ],
)
def test_what_is_so_of_a_run_by_its_outcome(
    truth: Any, changes: dict[str, Any], name: str, found: bool | None
) -> None:
    assert so(truth, **changes)[name] is found


def test_what_never_was_above_chance_is_dead_and_not_collapsed(truth: Any) -> None:
    never = {"best_learned": (NONE, NONE), "last_learned": (NONE, NONE), "peak": NONE}
    assert so(truth, **never)["dead"] is True
    assert so(truth, **never)["collapsed"] is False
    for peak in (CLEAR, NOT_CLEAR):  # in an epoch whose weights are gone
        assert so(truth, **never | {"peak": peak})["dead"] is None
        assert so(truth, **never | {"peak": peak})["collapsed"] is None
    assert so(truth, last_learned=(NONE, NONE))["collapsed"] is True


def test_a_diverged_run_has_no_other_outcome(truth: Any) -> None:
    found = so(truth, status="diverged", rise=CLEAR, best_learned=(), last_learned=(), undone={})
    assert [name for name, value in found.items() if value] == ["diverged"]


def test_planted_training_sets_leave_the_test_images_alone() -> None:
    planted = import_module("make_planted")
    for name, problem in planted.PROBLEMS.items():
        parts = planted.parts_of(name, 1)
        assert [len(parts[part][1]) for part in ("train", "validation")] == [
            problem.train,
            problem.val,
        ]
        kept = {track for part in ("train", "validation") for track in parts[part][2].tolist()}
        assert not kept & set(parts["test"][2].tolist())
        images = planted.digits().images[:, 0] / 16
        assert np.array_equal(parts["test"][0], images[parts["test"][2]])
        assert len(parts["test"][1]) > 500


def test_what_is_planted_is_there() -> None:
    planted = import_module("make_planted")
    labels = planted.digits().labels
    train = planted.parts_of("noisy", 1)["train"]
    assert np.mean(labels[train[2]] != train[1]) == planted.FLIPPED
    parts = planted.parts_of("leaking", 1)
    copies = np.isin(parts["validation"][2], parts["train"][2])
    assert np.mean(copies) == planted.COPIED
    parts = planted.parts_of("tracks", 1)
    assert np.isin(parts["validation"][2], parts["train"][2]).mean() > 0.5
    assert planted.parts_of("imbalanced", 1)["train"][1].mean() < 0.2


def test_what_is_not_clear_counts_for_neither_side(truth: Any) -> None:
    said = [True, True, True, False, False]
    true = [True, False, None, True, None]
    found = truth.counted(said, true)
    assert found == truth.Count(right=1, wrong=1, unclear=1, missed=1)
    assert (found.precision, found.recall) == ((1, 2), (1, 2))
    assert truth.wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # of a textbook
    assert truth.wilson(0, 0) == (0.0, 1.0)


def test_a_twin_is_trained_as_the_advice_has_it_and_else_the_same(
    truth: Any, tmp_path: Any
) -> None:
    table = import_module("verdict_table")
    one = outcome(truth, problem="narrow", rate=0.3)
    own = table.command("narrow", tmp_path, "auto")
    twin = table.command("narrow", tmp_path, "auto", one, "underfitting")
    assert {"model.hidden=4", "scheduler=cosine"} <= set(own)
    assert {"model.hidden=50", "scheduler=cosine", "lr_policy=uniform", "optimizer.lr=0.3"} <= set(
        twin
    )
    keys = [word.partition("=")[0] for word in twin]
    assert len(keys) == len(set(keys))


def test_every_kind_that_has_a_truth_is_a_kind(truth: Any) -> None:
    table = import_module("verdict_table")
    assert set(table.TRUE_IF) | {*table.FOUND_BY} <= set(table.KINDS)
    known = {*so(truth), *table.TWINS}
    assert {*table.TRUE_IF.values(), *table.FIRST} <= known
    assert set(table.WORDS) == {*table.TRUE_IF.values()}


def test_the_table_counts_what_was_said_and_what_was_so(truth: Any) -> None:
    table = import_module("verdict_table")
    slow = seeds(truth, [0.80, 0.81, 0.82], rate=0.01)
    good = seeds(truth, [0.90, 0.91, 0.92], rate=0.1)
    kinds = ["too_slow", "too_slow", "overfitting", "too_slow", "healthy", "healthy"]
    said = [[{"kind": kind, "message": kind}] for kind in kinds]
    outcomes = [*slow, *good]
    judged = [
        table.Judged(*each) for each in zip(outcomes, said, truth.truths(outcomes), strict=True)
    ]
    lines = table.kind_lines(judged)
    shares = "0.67 (2/3; 0.21-0.94)"  # two of three that were said, and of three that were so
    assert f"| too_slow | {table.WORDS['too_slow']} | 3 |  | {shares} | {shares} |" in lines
    confusion = table.confusion_lines(judged)
    assert [line for line in confusion if line.startswith("| overfitting |")] == [
        "| overfitting |  |  |  |  |  |  |  | 1 |  |  |  |"
    ]
    wrong = table.row_lines(judged, "too_slow")
    assert [line.split(":")[0] for line in wrong if not line.startswith(" ")] == [
        "so, not said",
        "said, not so",
    ]
