"""What is said of a run first, and that nothing is said that was not measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lrexp.judge.noise import Sample
from lrexp.judge.overfit import overfitting
from lrexp.judge.verdicts import verdicts
from lrexp.judge.words import gap_in_words

VAL = Sample(300)


def row(epoch: int, loss: float, accuracy: float, guessing: bool, **more: Any) -> dict[str, Any]:
    measured = dict.fromkeys(("overfit/loss", "overfit/accuracy", "overfit/accuracy_se"), 0.0)
    measured |= {"overfit/loss_se": 0.01, "val/accuracy": accuracy, "guessing": float(guessing)}
    measured |= {"val/balanced_accuracy": accuracy, "train_eval/loss": loss, "val/loss": loss}
    return {"epoch": epoch, **measured, **{k.replace("__", "/"): v for k, v in more.items()}}


def found(rows: list[dict[str, Any]], best: int, **more: Any) -> list[dict[str, Any]]:
    kept = next((r for r in rows if r["epoch"] == best), {})
    given = {"frozen_random": [], "diverged": False} | more
    return verdicts(rows, kept, "val/loss", VAL, 2.303, overfitting(rows, VAL), **given)


def test_a_network_that_forgets_everything_has_collapsed() -> None:
    rows = [row(1, 1.2, 0.6, False), row(2, 2.31, 0.1, True, overfit__loss=1.1)]
    (verdict,) = found(rows, best=1)
    assert verdict["kind"] == "collapsed"
    assert verdict["severity"] == "error"
    assert verdict["message"] == (
        "collapsed by epoch 2: val loss 2.310 (answering with the training set's class shares has"
        " 2.303), val accuracy 10.0%, balanced 10.0%; in epoch 1 val loss was 1.200, val accuracy"
        " 60.0%"
    )
    assert verdict["evidence"]["guess_loss"] == 2.303


def test_one_that_was_never_better_has_learned_nothing() -> None:
    rows = [row(1, 2.30, 0.1, True), row(2, 2.31, 0.1, True, overfit__loss=0.01)]
    assert [v["kind"] for v in found(rows, best=1)] == ["learned_nothing"]
    assert [v["kind"] for v in found(rows[:1], best=1)] == ["learned_nothing"]
    assert found([rows[0] | {"epoch": 0}], best=0) == []  # nothing was trained


def test_a_monitor_that_keeps_a_guess_is_said_so() -> None:
    rows = [row(1, 2.30, 0.1, True), row(2, 1.2, 0.6, False)]
    (verdict,) = found(rows, best=1)
    assert verdict["kind"] == "best_guesses"
    assert "choose by another trainer.monitor than val/loss" in verdict["advice"]


def test_a_sound_run_has_none_and_an_overfitting_one_its_own() -> None:
    rows = [row(1, 0.5, 0.9, False), row(2, 0.4, 0.9, False)]
    assert found(rows, best=2) == []
    late = row(3, 0.9, 0.9, False, overfit__loss=0.5, train_eval__loss=0.1)
    assert [v["kind"] for v in found([*rows, late], best=2)] == ["overconfident"]


def test_overfitting_is_said_where_the_monitor_was_never_a_number() -> None:
    rows = [row(1, 0.4, 0.9, False), row(2, 0.9, 0.9, False, overfit__loss=0.5)]
    rows[1]["train_eval/loss"] = 0.1
    (verdict,) = found(rows, best=-1)
    assert verdict["advice"] == "trainer.patience ends earlier"


def test_divergence_comes_first_and_random_frozen_tensors_last() -> None:
    rows = [row(1, 0.5, 0.9, False), row(2, math.nan, 0.1, True)]
    kinds = [v["kind"] for v in found(rows, best=1, diverged=True, frozen_random=["conv.weight"])]
    assert kinds == ["diverged", "frozen_random"]
    assert [v["kind"] for v in found([], best=0, frozen_random=["a"])] == ["frozen_random"]


@pytest.mark.parametrize(
    ("gap", "se", "said"),
    [
        (0.02, 0.02, "within noise"),
        (0.04, 0.02, "within noise"),  # two standard errors exactly
        (-0.04, 0.02, "within noise"),
        (-0.05, 0.02, "beyond noise, new images do better than training images"),
        (0.05, 0.02, "beyond noise, training images are known better than new ones"),
        (math.nan, math.nan, "cannot tell, a loss is not a finite number"),
        (math.inf, math.nan, "cannot tell, a loss is not a finite number"),
        (0.05, math.nan, "cannot tell, its error is not known"),
    ],
)
def test_the_gap_in_words(gap: float, se: float, said: str) -> None:
    words = gap_in_words({"gap/loss": gap, "gap/loss_se": se}, {})
    assert words.startswith(f"{gap:.3f} ± {se:.3f}:")
    assert said in words
    assert "overfit" not in words  # that is claimed on overfit/loss alone
    assert "same loss" not in words


def test_the_gap_is_judged_against_chance_and_tells_the_other_error() -> None:
    measured = {"gap/loss": 0.05, "gap/loss_se": 0.01, "gap/loss_chance_se": 0.04}
    words = gap_in_words(measured, {})
    assert words.startswith("0.050 ± 0.040 (against this training set ± 0.010): within noise")


@pytest.mark.parametrize(
    ("val", "gap", "said"),
    [
        (Sample(9, True, 0.5), 5.0, "cannot tell, one group holds 50 % of the images"),
        (Sample(5, True, 0.2), 0.25, "within noise"),  # 2.5 errors, and t(4) is 2.78
        (Sample(5, True, 0.2), 0.35, "(5 groups are few: the error is likely too small)"),
        (Sample(100), 0.25, "beyond noise"),
    ],
)
def test_a_gap_over_few_groups_needs_more(val: Sample, gap: float, said: str) -> None:
    samples = {"val": vars(val), "train_eval": vars(Sample(500))}
    assert said in gap_in_words({"gap/loss": gap, "gap/loss_se": 0.1}, samples)
