"""Whether validation got worse after its best, by more than choosing the best explains."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrexp.judge.noise import CHANGED, Sample, judged

LEVEL = 0.05  # of false claims, over all epochs that the best was chosen from
HELD = 0.02  # accuracy is measured to hold where it fell by less than this, 2 errors included

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Overfit:
    """Validation at the last epoch against its best, over the same images; worse is positive.

    Losses are in nats, accuracies shares in [0, 1]; `_says` are words of `judge.noise`.
    """

    epoch: int  # the last one
    reference: int  # the epoch of the lowest val loss, the earliest on ties
    loss: float  # val loss above its lowest
    loss_se: float
    loss_says: str
    accuracy: float  # val accuracy below its highest
    accuracy_se: float
    accuracy_says: str
    on_train: float  # train-eval loss above that of `reference`
    bound: float  # so many standard errors make a change

    @property
    def kind(self) -> str:
        """`overfitting`, `overconfident` (accuracy measured to hold), `deteriorated` (worse on
        training images too, by half as much or more), or empty where the loss claims nothing."""
        if self.loss_says != CHANGED:
            return ""
        if not self.on_train < self.loss / 2:
            return "deteriorated"
        return "overconfident" if self.accuracy_holds else "overfitting"

    @property
    def accuracy_holds(self) -> bool:
        """Whether it is measured to, and not merely not measured to fall."""
        return self.accuracy + 2 * self.accuracy_se < HELD

    def as_dict(self) -> dict[str, Any]:
        """As summary.json has it."""
        return asdict(self) | {"kind": self.kind}


def overfitting(rows: Sequence[Row], val: Sample) -> Overfit | None:
    """What the rows of a run say of overfitting at its last epoch.

    The best of T − 1 earlier epochs was chosen by the very noise that the difference is judged by:
    on a flat curve of 15 epochs a bound of 2 errors claims a rise in every sixth run. A change is
    therefore beyond t(n − 1) at 0.05 / (T − 1), one-sided (Bonferroni over the earlier epochs), and
    beyond 2 standard errors. Simulated in `scripts/overfit_table.py`.

    Args:
        rows: of all epochs, as metrics.jsonl has them.
        val: the images of validation, or the groups they come in.

    Returns:
        None before the second epoch, and where no loss is a finite number.
    """
    rows = [row for row in rows if row["epoch"] > 0]
    known = [row for row in rows if _finite(row.get("val/loss"))]
    if len(rows) < 2 or not known or known[-1] is not rows[-1]:
        return None
    last, lowest = rows[-1], min(known, key=lambda row: row["val/loss"])
    needed = ("overfit/loss", "overfit/loss_se", "overfit/accuracy", "overfit/accuracy_se")
    loss, loss_se, accuracy, accuracy_se = (float(last.get(key, math.nan)) for key in needed)
    if not math.isfinite(loss):  # rows of somebody else
        return None
    bound = val.bound(LEVEL / (len(rows) - 1))
    return Overfit(
        epoch=last["epoch"],
        reference=lowest["epoch"],
        loss=loss,
        loss_se=loss_se,
        loss_says=judged(loss, loss_se, bound),
        accuracy=accuracy,
        accuracy_se=accuracy_se,
        accuracy_says=judged(accuracy, accuracy_se, bound),
        on_train=_on_train(last, lowest),
        bound=bound,
    )


def first_rise(rows: Sequence[Row], val: Sample) -> int | None:
    """The first epoch at which val loss is above its best by more than chance; None for none.

    An epoch at which training images got worse, too, by half as much or more, is none. As every
    pair of epochs may be the one that shows it, the level of each is 0.05 / (T (T − 1) / 2).
    """
    rows = [row for row in rows if row["epoch"] > 0]
    if len(rows) < 2:
        return None
    bound = val.bound(LEVEL / (len(rows) * (len(rows) - 1) / 2))
    lowest = rows[0]
    for row in rows:
        lowest = row if row["val/loss"] < lowest["val/loss"] else lowest
        loss, se = (row.get(key, math.nan) for key in ("overfit/loss", "overfit/loss_se"))
        if judged(loss, se, bound) == CHANGED and _on_train(row, lowest) < loss / 2:
            return row["epoch"]
    return None


def _on_train(row: Row, reference: Row) -> float:
    """How much worse than at a reference the loss on training images is."""
    return row.get("train_eval/loss", math.nan) - reference.get("train_eval/loss", math.nan)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
