"""Runs that lost much of what they had learned on the way, and learned it again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lrexp.judge.kinds.facts import WARNING, Facts, Verdict, finite, found
from lrexp.judge.kinds.speed import LOW_RATIO, largest_ratio
from lrexp.judge.noise import CHANGED, judged
from lrexp.judge.overfit import LEVEL

LOST = 0.25  # of what had been learned by then: the loss of a guess minus the lowest so far
LOST_MOST = 0.5  # likewise, in one swing at least
BACK = 0.5  # of what was lost, that must come back: else it is no swing but an end
SWINGS = 2  # one alone may happen to any run
RESTART = 2.0  # times the rate of the epoch before: what a restart does is meant


@dataclass(frozen=True)
class Swing:
    """Consecutive epochs in which much of what had been learned was gone, until it came back."""

    epochs: tuple[int, ...]
    lost: float  # largest share of what had been learned, on the split that lost less


def swings(facts: Facts) -> list[Swing]:
    """Runs of epochs in which both losses were far above their lowest so far, and came down again.

    Far is beyond chance on validation (t at 0.05 over all epochs) and a quarter of what had been
    learned on both splits. Epochs in which rates rose twofold, or groups began to train, are left
    out: that is meant.
    """
    rows = facts.rows
    if len(rows) < 3 or not facts.trained or not finite(facts.guess_loss):
        return []
    bound = facts.val.bound(LEVEL / len(rows))
    meant, every = _meant(facts), list[Swing]()
    low: dict[str, float] = {"val": math.inf, "train_eval": math.inf}
    open_: list[tuple[int, float]] = []  # indices of the swing that goes on, and what was lost
    for i, row in enumerate(rows):
        learned = {s: facts.guess_loss - low[s] for s in low}
        lost = min(
            (row[f"{s}/loss"] - low[s]) / learned[s] if 0 < learned[s] < math.inf else 0.0
            for s in low
        )
        if not math.isfinite(lost):  # a loss that is no finite number is of another kind
            return []
        chance = judged(row["overfit/loss"], row["overfit/loss_se"], bound) != CHANGED
        if lost > LOST and not chance and not meant[i]:
            open_.append((i, lost))
        elif open_:
            peak = max(rows[j]["val/loss"] for j, _ in open_)
            if row["val/loss"] - low["val"] <= (1 - BACK) * (peak - low["val"]):
                epochs = tuple(rows[j]["epoch"] for j, _ in open_)
                every.append(Swing(epochs, max(share for _, share in open_)))
            open_ = []
        low = {s: min(low[s], row[f"{s}/loss"]) for s in low}
    return every


def unstable(facts: Facts) -> Verdict | None:
    """It swung twice or more, once by half of what it had learned, and its steps are not short."""
    ratio = largest_ratio(facts)
    if facts.diverged or facts.guessing or ratio <= LOW_RATIO:
        return None
    swung = swings(facts)
    most = max((swing.lost for swing in swung), default=0.0)
    if len(swung) < SWINGS or most < LOST_MOST:
        return None
    epochs = [epoch for swing in swung for epoch in swing.epochs]
    rows = {row["epoch"]: row for row in facts.rows}
    worst = max(epochs, key=lambda epoch: rows[epoch]["overfit/loss"])
    rise, fall = rows[worst]["overfit/loss"], rows[worst]["overfit/accuracy"]
    message = (
        f"unstable: {len(swung)} times it lost a quarter or more of what it had learned, and"
        f" learned it again; in epoch {worst} val loss was {rise:.3f} above its lowest so far, val"
        f" accuracy {100 * fall:.1f} points below its highest"
    )
    advice = "lower optimizer.lr, or lower it over time (scheduler=cosine); scheduler.warmup or"
    advice = f"{advice} trainer.clip_grad_norm may take the peaks off"
    return found(
        "unstable",
        WARNING,
        message,
        advice,
        epochs=epochs,
        values={"swings": len(swung), "lost": most, "loss_rise": rise, "accuracy_fall": fall},
        threshold={"swings": SWINGS, "each_lost": LOST, "one_lost": LOST_MOST},
    )


def _meant(facts: Facts) -> list[bool]:
    """By epoch whether some group began to train in it, or its rate rose twofold."""
    found = [False] * len(facts.rows)
    for group in facts.groups("lr"):
        rates = facts.column(f"lr/{group}")
        for i in range(1, len(rates)):
            found[i] = found[i] or rates[i] > RESTART * rates[i - 1]
    return found
