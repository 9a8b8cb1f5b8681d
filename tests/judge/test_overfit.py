"""Overfitting is claimed where it is, and not where the best epoch was chosen by noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from lrexp.judge.epoch import Track
from lrexp.judge.evaluate import Evaluation
from lrexp.judge.noise import Sample
from lrexp.judge.overfit import Overfit, first_rise, overfitting
from lrexp.judge.words import overfit_in_words


def rows_of(losses: np.ndarray) -> list[dict[str, Any]]:
    """Rows of epochs whose per-image losses (T, n) are these, with flat losses on training images.

    An image is right where its loss is below 1.
    """
    track, nothing = Track("val/loss"), np.zeros(1, dtype=np.int64)
    rows = []
    for epoch, of_images in enumerate(losses, 1):
        val = Evaluation(of_images, (of_images < 1).astype(float), nothing, nothing, nothing)
        row = {"epoch": epoch, "val/loss": val.loss, "train_eval/loss": 0.1}
        rows.append(row | track.overfit(epoch, val))
    return rows


def row(epoch: int, loss: float, **more: Any) -> dict[str, Any]:
    zeros = dict.fromkeys(("overfit/loss", "overfit/loss_se"), 0.0)
    zeros |= dict.fromkeys(("overfit/accuracy", "overfit/accuracy_se"), 0.0)
    named = {key.replace("__", "/"): value for key, value in more.items()}
    return {"epoch": epoch, "val/loss": loss, "train_eval/loss": 0.2, **zeros, **named}


def claims(simulate: Any, epochs: int, tries: int = 300, images: int = 150) -> tuple[float, float]:
    """Share of runs that claim a rise at the last epoch: by our rule, and by 2 errors."""
    ours = plain = 0
    for seed in range(tries):
        rows = rows_of(simulate(np.random.default_rng(seed), epochs, images))
        found = overfitting(rows, Sample(images))
        assert found is not None
        ours += found.loss_says == "changed"
        plain += found.loss > 2 * found.loss_se
    return ours / tries, plain / tries


def flat(rng: np.random.Generator, epochs: int, images: int) -> np.ndarray:
    """Images of different difficulty, and noise from epoch to epoch that leads nowhere."""
    return rng.exponential(size=images) + rng.normal(scale=0.3, size=(epochs, images))


def test_a_flat_curve_is_claimed_to_rise_in_at_most_every_twentieth_run() -> None:
    ours, plain = claims(flat, epochs=15)
    assert ours <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)
    assert plain > 0.1  # what 2 standard errors do


def test_a_true_rise_is_found() -> None:
    def rising(rng: np.random.Generator, epochs: int, images: int) -> np.ndarray:
        drift = np.abs(np.arange(epochs) - 5) * 0.02  # 0.18 at the last: about 5 paired errors
        return flat(rng, epochs, images) + drift[:, None]

    ours, _ = claims(rising, epochs=15, tries=100)
    assert ours > 0.9


def test_at_any_epoch_a_flat_curve_is_marked_in_at_most_every_twentieth_run() -> None:
    marked = lax = 0
    for seed in range(200):
        rows = rows_of(flat(np.random.default_rng(seed), 12, 100))
        marked += first_rise(rows, Sample(100)) is not None
        lax += any(r["overfit/loss"] > 2 * r["overfit/loss_se"] for r in rows)
    assert marked / 200 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert lax / 200 > 0.2


def test_the_mark_is_the_first_epoch_that_rises() -> None:
    losses = np.full((6, 50), 0.5) + np.random.default_rng(0).normal(scale=0.01, size=(6, 50))
    losses[3:] += 0.2
    assert first_rise(rows_of(losses), Sample(50)) == 4
    assert first_rise(rows_of(losses[:3]), Sample(50)) is None
    assert first_rise(rows_of(losses[:1]), Sample(50)) is None


def test_a_spike_on_both_sides_is_no_overfitting() -> None:
    losses = np.full((4, 50), 0.5) + np.random.default_rng(0).normal(scale=0.01, size=(4, 50))
    losses[2] += 1
    rows = rows_of(losses)
    assert first_rise(rows, Sample(50)) == 3
    rows[2]["train_eval/loss"] += 0.9
    assert first_rise(rows, Sample(50)) is None


def test_rows_without_the_numbers_say_nothing() -> None:
    assert (
        overfitting([{"epoch": 1, "val/loss": 1.0}, {"epoch": 2, "val/loss": 2.0}], Sample(9))
        is None
    )


def test_the_reference_on_training_images_is_the_epoch_of_the_lowest_val_loss() -> None:
    """And not the monitor's best: here epoch 1, from which the training loss has fallen."""
    rows = [
        row(1, 2.0, train_eval__loss=2.0),
        row(2, 1.0, train_eval__loss=0.9),
        row(3, 1.8, train_eval__loss=1.7, overfit__loss=0.8, overfit__loss_se=0.1),
    ]
    found = overfitting(rows, Sample(100))
    assert found is not None
    assert (found.reference, found.on_train) == (2, pytest.approx(0.8))
    assert found.kind == "deteriorated"
    words = overfit_in_words(found.as_dict())
    assert "worse on training images too" in words
    assert "overfits" not in words


@pytest.mark.parametrize(
    ("loss", "accuracy", "kind", "said"),
    [
        (
            (0.5, 0.1),
            (0.045, 0.025),
            "overfitting",
            "4.5 ± 2.5 points below its best: within noise",
        ),
        ((0.5, 0.1), (0.235, 0.025), "overfitting", "23.5 ± 2.5 points below its best: changed"),
        ((0.5, 0.1), (0.002, 0.004), "overconfident", "is measured to hold (0.2 ± 0.4 points"),
        ((0.1, 0.1), (0.0, 0.0), "", "val loss is 0.100 ± 0.100 above that of epoch 1: within"),
        ((0.1, 0.1), (0.235, 0.025), "", "23.5 ± 2.5 points below its best: changed"),
        ((0.1, math.nan), (0.0, 0.0), "", "above that of epoch 1: cannot tell"),
        ((0.0, 0.0), (0.0, 0.0), "", "val loss was lowest in the last epoch"),
    ],
)
def test_loss_and_accuracy_are_told_with_error_and_one_word_each(
    loss: tuple[float, float], accuracy: tuple[float, float], kind: str, said: str
) -> None:
    measured = dict(zip(("overfit__loss", "overfit__loss_se"), loss, strict=True))
    measured |= dict(zip(("overfit__accuracy", "overfit__accuracy_se"), accuracy, strict=True))
    found = overfitting([row(1, 0.5), row(2, 0.6 if loss[0] else 0.4, **measured)], Sample(100))
    assert found is not None
    assert found.kind == kind
    words = overfit_in_words(found.as_dict())
    assert said in words
    assert "holds" not in words  # nothing is said to hold that is not measured to
    assert ("it overfits" in words) == (kind == "overfitting")


def test_before_the_second_epoch_and_after_divergence_nothing_is_said() -> None:
    assert overfitting([], Sample(9)) is overfitting([row(0, 1.0)], Sample(9)) is None
    assert overfitting([row(1, 1.0)], Sample(9)) is None
    assert overfitting([row(1, 1.0), row(2, math.nan)], Sample(9)) is None


def test_one_large_group_leaves_it_open() -> None:
    rows = [row(1, 0.5), row(2, 1.5, overfit__loss=1.0, overfit__loss_se=0.01)]
    found = overfitting(rows, Sample(10, True, 0.4))
    assert isinstance(found, Overfit)
    assert (found.kind, found.loss_says) == ("", "cannot tell")
