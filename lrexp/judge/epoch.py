"""What an epoch's evaluations say: its metrics, the gap, overfitting, and which epoch is best."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lrexp.config.schema import MONITORS
from lrexp.judge.evaluate import Evaluation
from lrexp.judge.gap import gap, paired_difference

Row = dict[str, float]


def evaluated(
    train_eval: Evaluation,
    val: Evaluation,
    train_size: int,
    train_eval_groups: np.ndarray | None = None,
    val_groups: np.ndarray | None = None,
) -> Row:
    """Metrics of both splits as `train_eval/...` and `val/...`, and their gaps with errors.

    Args:
        train_eval: of the training subset.
        val: of validation.
        train_size: images that the subset was drawn from.
        train_eval_groups: codes of groups whose images are alike, if there are any.
        val_groups: likewise.
    """
    known = (train_size, val_groups, train_eval_groups)
    loss, loss_se = gap(val.losses, train_eval.losses, *known)
    accuracy, accuracy_se = gap(1 - val.correct, 1 - train_eval.correct, *known)
    return {
        **{f"train_eval/{name}": value for name, value in train_eval.metrics.items()},
        **{f"val/{name}": value for name, value in val.metrics.items()},
        "gap/loss": loss,
        "gap/loss_se": loss_se,
        "gap/accuracy": accuracy,
        "gap/accuracy_se": accuracy_se,
    }


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
        self.best, self.lowest_loss, self.highest_accuracy = Best(), Best(), Best()

    @property
    def bests(self) -> dict[str, Best]:
        """All three by name."""
        return {
            "monitor": self.best,
            "val_loss": self.lowest_loss,
            "val_accuracy": self.highest_accuracy,
        }

    def overfit(self, epoch: int, val: Evaluation, groups: np.ndarray | None = None) -> Row:
        """How much worse validation is than at its best so far, over the same images.

        Args:
            epoch: the number of the epoch.
            val: its evaluation.
            groups: (n,) codes of groups whose images are alike, if there are any.

        Returns:
            `overfit/loss` and `overfit/accuracy`, each with its standard error.
        """
        lowest, highest = self.lowest_loss, self.highest_accuracy
        if not lowest.known or val.loss < lowest.value:
            lowest.epoch, lowest.value, lowest.per_image = epoch, val.loss, val.losses
        if not highest.known or val.accuracy > highest.value:
            highest.epoch, highest.value, highest.per_image = epoch, val.accuracy, val.correct
        loss, loss_se = paired_difference(val.losses, lowest.per_image, groups)
        accuracy, accuracy_se = paired_difference(highest.per_image, val.correct, groups)
        return {
            "overfit/loss": loss,
            "overfit/loss_se": loss_se,
            "overfit/accuracy": accuracy,
            "overfit/accuracy_se": accuracy_se,
        }

    def see(self, epoch: int, row: Mapping[str, float]) -> None:
        """Update the best epoch, earliest on ties, and notice divergence."""
        losses = [row["val/loss"], row["train_eval/loss"], row.get("train/loss", 0.0)]
        self.diverged = not all(map(math.isfinite, losses))
        value = row.get(self.monitor, math.nan)
        sign = 1 if MONITORS[self.monitor] == "max" else -1
        if self.diverged or not math.isfinite(value):
            return
        if not self.best.known or sign * value > sign * self.best.value:
            self.best.epoch, self.best.value = epoch, value

    def forget_best(self) -> None:
        """Let the best epoch be one of those to come: the weights of the one so far are lost."""
        self.best.epoch, self.best.value = -1, math.nan
