"""What an epoch's evaluations say: its metrics, the gap, overfitting, and which epoch is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lrexp.config.schema import MONITORS
from lrexp.judge.evaluate import Evaluation

Row = dict[str, float]


def evaluated(
    train_eval: Evaluation,
    val: Evaluation,
    train_size: int,
    train_eval_groups: np.ndarray | None = None,
    val_groups: np.ndarray | None = None,
) -> Row:
    """Metrics of both splits as `train_eval/...` and `val/...`, and their gaps with two errors.

    `gap/loss_se` is the error against this training set, `gap/loss_chance_se` that against chance
    (see `gap`); likewise of the accuracy.

    Args:
        train_eval: of the training subset.
        val: of validation.
        train_size: images that the subset was drawn from.
        train_eval_groups: codes of groups whose images are alike, if there are any.
        val_groups: likewise.
    """
    groups = val_groups, train_eval_groups
    loss, loss_chance_se = _gap(val.losses, train_eval.losses, train_size, *groups)
    wrong = 1 - val.correct, 1 - train_eval.correct
    accuracy, accuracy_chance_se = _gap(*wrong, train_size, *groups)
    return {
        **{f"train_eval/{name}": value for name, value in train_eval.metrics.items()},
        **{f"val/{name}": value for name, value in val.metrics.items()},
        **_with_errors("gap", loss, accuracy),
        "gap/loss_chance_se": loss_chance_se,
        "gap/accuracy_chance_se": accuracy_chance_se,
    }


def _with_errors(kind: str, loss: tuple[float, float], accuracy: tuple[float, float]) -> Row:
    names = ("loss", "loss_se", "accuracy", "accuracy_se")
    return {f"{kind}/{name}": v for name, v in zip(names, (*loss, *accuracy), strict=True)}


@dataclass
class Best:
    """The best so far of one metric: when, how good, and image by image."""

    epoch: int = -1
    value: float = math.nan
    per_image: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def known(self) -> bool:
        """Whether there has been any."""
        return self.epoch >= 0


class Track:
    """What was best so far: by the monitor, and of validation's loss and accuracy.

    Args:
        monitor: the metric that decides, of `MONITORS`.
    """

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.diverged = False  # whether a loss of the last epoch was not a finite number
        self.bests = {name: Best() for name in ("monitor", "val_loss", "val_accuracy")}

    @property
    def best(self) -> Best:
        """By the monitor."""
        return self.bests["monitor"]

    def overfit(self, epoch: int, val: Evaluation, groups: np.ndarray | None = None) -> Row:
        """How much worse validation is than at its best so far, over the same images.

        Args:
            epoch: the number of the epoch.
            val: its evaluation.
            groups: (n,) codes of groups whose images are alike, if there are any.

        Returns:
            `overfit/loss` and `overfit/accuracy`, each with its standard error.
        """
        lowest, highest = self.bests["val_loss"], self.bests["val_accuracy"]
        if not lowest.known or val.loss < lowest.value:
            lowest.epoch, lowest.value, lowest.per_image = epoch, val.loss, val.losses
        if not highest.known or val.accuracy > highest.value:
            highest.epoch, highest.value, highest.per_image = epoch, val.accuracy, val.correct
        loss = paired_difference(val.losses, lowest.per_image, groups)
        accuracy = paired_difference(highest.per_image, val.correct, groups)
        return _with_errors("overfit", loss, accuracy)

    def see(self, epoch: int, row: Mapping[str, float]) -> None:
        """Update the best epoch, earliest on ties, and notice divergence."""
        losses = [row["val/loss"], row["train_eval/loss"], row.get("train/loss", 0.0)]
        self.diverged = not all(map(math.isfinite, losses))
        value, best = row.get(self.monitor, math.nan), self.best
        sign = 1 if MONITORS[self.monitor] == "max" else -1
        if self.diverged or not math.isfinite(value):
            return
        if not best.known or sign * value > sign * best.value:
            best.epoch, best.value = epoch, value

    def forget_best(self) -> None:
        """Let the best epoch be one of those to come: the weights of the one so far are lost."""
        self.best.epoch, self.best.value = -1, math.nan


def gap(
    val: np.ndarray,
    train_eval: np.ndarray,
    train_size: float,
    val_groups: np.ndarray | None = None,
    train_eval_groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """The mean of validation minus the mean of the training subset, and its standard error.

    gap = mean(val) − mean(train_eval); se = √(v_val + (1 − n_te / N) · v_te) with v the variance of
    a mean (`variance_of_mean`), the second term shrinking because train_eval is drawn without
    replacement from N training images. That is the error of the gap between all new images and
    *this* training set, which by itself may be easier or harder than others. Whether training made
    the gap is judged against chance, with N = ∞: two draws of images that a network treats alike.

    Args:
        val: (n_val,) a value per validation image.
        train_eval: (n_te,) a value per image of the training subset.
        train_size: N, or infinity for the error against chance.
        val_groups: (n_val,) codes of groups whose images are alike, if there are any.
        train_eval_groups: (n_te,) likewise.
    """
    return _gap(val, train_eval, train_size, val_groups, train_eval_groups)[0]


def _gap(
    val: np.ndarray,
    train_eval: np.ndarray,
    train_size: float,
    val_groups: np.ndarray | None,
    train_eval_groups: np.ndarray | None,
) -> tuple[tuple[float, float], float]:
    """The gap with its standard error, and its error against chance: see `gap`."""
    with np.errstate(invalid="ignore"):  # an infinite loss has no variance: NaN
        sampled = 1 - len(train_eval) / train_size
        of_val = variance_of_mean(val, val_groups)
        of_train = variance_of_mean(train_eval, train_eval_groups)
        value = float(val.mean() - train_eval.mean())
        return (value, math.sqrt(of_val + sampled * of_train)), math.sqrt(of_val + of_train)


def paired_difference(
    now: np.ndarray, best: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """mean(now − best) over the same images, and its standard error (`variance_of_mean`).

    Args:
        now: (n,) a value per image.
        best: (n,) likewise, of the same images.
        groups: (n,) codes of groups whose images are alike, if there are any.
    """
    with np.errstate(invalid="ignore"):
        difference = now - best
        return float(difference.mean()), math.sqrt(variance_of_mean(difference, groups))


def variance_of_mean(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The variance of the mean of n values: s² / n, or robust to groups that are alike within.

    With G groups it is G / (G − 1) · Σ_g (Σ_{i in g} (x_i − x̄))² / n², which is s² / n when every
    group has one value (Liang and Zeger 1986, the CR1 estimator of an intercept). NaN where one
    value or one group says nothing of the spread.

    Args:
        values: (n,).
        groups: (n,) int codes from 0, with or without gaps.
    """
    count = len(values)
    if groups is None:
        return float(values.var(ddof=1)) / count if count > 1 else math.nan
    number = np.count_nonzero(np.bincount(groups))
    sums = np.bincount(groups, weights=values - values.mean())
    return number / (number - 1) * float((sums**2).sum()) / count**2 if number > 1 else math.nan
