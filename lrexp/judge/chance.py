"""What a network is worth that looks at no image: it answers with the shares of the classes."""

from __future__ import annotations

import math

import numpy as np

from lrexp.judge.epoch import paired_difference
from lrexp.judge.evaluate import Evaluation
from lrexp.judge.noise import Sample

ONE_ANSWER = 0.99  # share of images that get the same answer
RARELY_OTHERWISE = 0.95  # a class with this share of the images may well be all that is answered


def guess_losses(labels: np.ndarray, train_labels: np.ndarray, classes: int) -> np.ndarray:
    """(n,) the loss per image of answering every image with the training set's class shares.

    A class with c of N training images has the share (c + 1) / (N + classes), a label that c of N
    have (c + 1) / (N + 2): never 0, so that no loss is infinite (Laplace's rule of succession).

    Args:
        labels: (n,) int64 class of each image, or (n, classes) float of 0 and 1.
        train_labels: likewise, of the whole training set.
        classes: how many there are.
    """
    if labels.ndim == 1:
        counts = np.bincount(train_labels, minlength=classes)
        return -np.log((counts + 1) / (len(train_labels) + classes))[labels]
    shares = (train_labels.sum(0) + 1.0) / (len(train_labels) + 2)
    return -(labels * np.log(shares) + (1 - labels) * np.log1p(-shares)).mean(1)


def guesses(found: Evaluation, guess: np.ndarray, groups: np.ndarray | None = None) -> bool:
    """Whether an evaluation looks like one of a network that does not look at the images.

    Balanced accuracy is not above 1 / classes (1 / 2 for several labels) by 2 standard errors, and
    either at least 99 % of images get the same answer, although fewer than 95 % deserve it, or the
    loss is not below that of `guess_losses` by 2 standard errors, paired over images. A loss that
    is no finite number is below nothing. The loss alone says little: of a network that was trained
    with class weights or smoothing, or is sure of its mistakes, it is high.

    Args:
        found: of a split.
        guess: (n,) of `guess_losses` on the same images.
        groups: (n,) codes of groups whose images are alike, if there are any.
    """
    chance = 0.5 if found.multi_label else 1 / np.count_nonzero(found.actual)
    if found.balanced_accuracy > chance + 2 * _balanced_se(found) + 1e-9:
        return False
    below, se = paired_difference(guess, found.losses, groups)
    bound = Sample.of(len(guess), groups).bound()
    return (not below > bound * se and not math.isnan(bound)) or _one_answer(found)


def _one_answer(found: Evaluation) -> bool:
    """Whether nearly all images get the same answer, and not nearly all deserve it."""
    images = len(found.losses)
    predicted, actual = found.predicted / images, found.actual / images
    if found.multi_label:
        same = np.maximum(predicted, 1 - predicted) >= ONE_ANSWER
        open_ = np.maximum(actual, 1 - actual) < RARELY_OTHERWISE
        return bool(same.all() and open_.any())
    answer = int(predicted.argmax())
    return bool(predicted[answer] >= ONE_ANSWER and actual[answer] < RARELY_OTHERWISE)


def _balanced_se(found: Evaluation) -> float:
    """Of balanced accuracy: √Σ r(1 − r) / n over K, of classes with n images and recall r."""

    def variances(hits: np.ndarray, of: np.ndarray) -> np.ndarray:
        hits, of = hits[of > 0], of[of > 0]
        return hits / of * (1 - hits / of) / of

    parts = variances(found.found, found.actual)
    if found.multi_label:
        others = len(found.losses) - found.actual
        rejected = others - found.predicted + found.found
        parts = np.concatenate([parts, variances(rejected, others)])
    return math.sqrt(parts.sum()) / max(1, len(parts))
