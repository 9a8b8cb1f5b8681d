"""Networks that do not look at the images are told from those that do."""

from __future__ import annotations

import numpy as np
import pytest

from lrexp.judge.chance import guess_losses, guesses
from lrexp.judge.evaluate import Evaluation

RNG = np.random.default_rng(0)


def test_the_loss_of_answering_class_shares_by_hand() -> None:
    train, labels = np.array([0, 0, 0, 1]), np.array([0, 1, 2])
    losses = guess_losses(labels, train, 3)  # shares 4/7, 2/7, 1/7
    assert losses == pytest.approx(-np.log([4 / 7, 2 / 7, 1 / 7]))
    even = guess_losses(np.arange(10), np.repeat(np.arange(10), 50), 10)
    assert even == pytest.approx(np.full(10, np.log(10)))


def test_the_loss_of_answering_label_shares_by_hand() -> None:
    train = np.array([[1.0, 0.0], [1.0, 0.0]])  # shares 3/4 and 1/4
    losses = guess_losses(np.array([[1.0, 1.0], [0.0, 0.0]]), train, 2)
    by_hand = [np.log(3 / 4) + np.log(1 / 4), np.log(1 / 4) + np.log(3 / 4)]
    assert losses == pytest.approx(-np.array(by_hand) / 2)


def evaluation(said: np.ndarray, labels: np.ndarray, losses: np.ndarray) -> Evaluation:
    return Evaluation.of_classes(losses, said, labels, int(labels.max()) + 1)


def test_a_network_that_knows_something_does_not_guess() -> None:
    labels = np.arange(200) % 4
    guess = guess_losses(labels, labels, 4)
    losses = np.where(RNG.random(200) < 0.6, 0.3, 2.0)
    assert not guesses(evaluation(labels, labels, losses), guess)


def test_one_answer_for_every_image_is_a_guess_even_at_a_low_loss() -> None:
    labels = np.arange(200) % 4
    guess = guess_losses(labels, labels, 4)
    low = np.full(200, 0.9) + RNG.normal(scale=0.01, size=200)
    assert guesses(evaluation(np.zeros(200, dtype=int), labels, low), guess)
    assert not guesses(evaluation(labels, labels, low), guess)


def test_one_answer_that_nearly_all_images_deserve_is_no_guess() -> None:
    labels = np.zeros(200, dtype=int)
    labels[:4] = 1
    guess = guess_losses(labels, labels, 2)
    low = np.full(200, 0.02) + RNG.normal(scale=0.001, size=200)
    assert not guesses(evaluation(np.zeros(200, dtype=int), labels, low), guess)


def test_a_loss_above_that_of_class_shares_is_a_guess_where_classes_are_uneven() -> None:
    """ln K is no measure there: 0.69 lies below it and above what the shares have."""
    labels = (np.arange(300) % 10 == 0).astype(int)
    guess = guess_losses(labels, labels, 2)
    assert guess.mean() == pytest.approx(0.325, abs=0.01)
    said = RNG.integers(2, size=300)
    at = np.full(300, 0.5) + RNG.normal(scale=0.01, size=300)  # ln 2 = 0.69
    assert abs(evaluation(said, labels, at).balanced_accuracy - 0.5) < 0.1
    assert guesses(evaluation(said, labels, at), guess)
    assert guesses(evaluation(said, labels, np.full(300, np.nan)), guess)


@pytest.mark.parametrize(("constant", "expected"), [(True, True), (False, False)])
def test_all_labels_for_every_image_is_a_guess(constant: bool, expected: bool) -> None:
    labels = (RNG.random((150, 3)) < 0.6).astype(float)
    said = np.ones_like(labels) if constant else labels
    right = (said == labels).all(1).astype(float)
    counts = labels.sum(0), said.sum(0), (labels * said).sum(0)
    found = Evaluation(np.full(150, 0.4) + RNG.normal(scale=0.01, size=150), right,
                       *(part.astype(int) for part in counts), multi_label=True)  # fmt: skip
    assert guesses(found, guess_losses(labels, labels, 3)) == expected


def test_a_network_trained_with_smoothing_does_not_guess_whatever_its_loss() -> None:
    """Right on every image, and less sure than the shares of uneven classes are."""
    labels = (np.arange(1000) % 100 == 0).astype(int)
    guess = guess_losses(labels, labels, 2)
    losses = np.full(1000, 0.105) + RNG.normal(scale=0.001, size=1000)  # -ln 0.9
    assert losses.mean() > guess.mean()
    assert not guesses(evaluation(labels, labels, losses), guess)


def test_labels_weighed_up_are_no_guess_where_they_tell_images_apart() -> None:
    labels = (RNG.random((400, 3)) < 0.03).astype(float)
    labels[0] = 1.0
    said = np.where(RNG.random(labels.shape) < 0.1, 1.0, labels)  # finds all, and too many
    counts = labels.sum(0), said.sum(0), (labels * said).sum(0)
    right = (said == labels).all(1).astype(float)
    found = Evaluation(np.full(400, 0.5) + RNG.normal(scale=0.01, size=400), right,
                       *(part.astype(int) for part in counts), multi_label=True)  # fmt: skip
    assert not guesses(found, guess_losses(labels, labels, 3))


def test_in_one_large_group_the_loss_cannot_tell() -> None:
    labels = np.arange(100) % 2
    guess, said = guess_losses(labels, labels, 2), np.arange(100) % 4 // 2  # half of them right
    groups = np.zeros(100, dtype=int)
    groups[:10] = 1
    at = guess + RNG.normal(scale=0.01, size=100)
    assert guesses(evaluation(said, labels, at), guess)
    assert not guesses(evaluation(said, labels, at), guess, groups)
