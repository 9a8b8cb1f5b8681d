"""Runs that lost much of what they had learned on the way, and learned it again."""

from __future__ import annotations

import math

from lrexp.judge.kinds.facts import WARNING, Facts, Verdict, finite, found, percent
from lrexp.judge.noise import CHANGED, judged
from lrexp.judge.overfit import LEVEL

LOST = 0.25  # of what had been learned by then: the loss of a guess minus the lowest so far
LOST_ACCURACY = 0.05
BACK = 0.5  # of what was lost, that must come back: else it is no swing but an end
SWINGS = 2  # one alone may happen to any run
RESTART = 2.0  # times the rate of the epoch before: what a restart does is meant


def swings(facts: Facts) -> list[list[int]]:
    """Runs of epochs in which both losses were far above their lowest so far, and came down again.

    Far is beyond chance on validation (t at 0.05 over all epochs) and a quarter of what had been
    learned, or 5 points of accuracy, on both splits. Epochs after rates rose twofold, or groups
    began to train, are left out: that is meant.
    """
    rows = facts.rows
    if len(rows) < 3 or not facts.trained or not finite(facts.guess_loss):
        return []
    bound = facts.val.bound(LEVEL / len(rows))
    meant, found = _meant(facts), list[list[int]]()
    low = {"val": math.inf, "train_eval": math.inf}
    high = dict.fromkeys(low, 0.0)
    since: list[int] = []  # indices of the swing that is open
    for i, row in enumerate(rows):
        lost = {s: row[f"{s}/loss"] - low[s] for s in low}
        learned = {s: facts.guess_loss - low[s] for s in low}
        fell = {s: high[s] - row[f"{s}/accuracy"] for s in low}
        far = i and not meant[i] and (
            all(lost[s] > LOST * learned[s] > 0 for s in low)
            or all(fell[s] > LOST_ACCURACY for s in low)
        )  # fmt: skip
        known = judged(row["overfit/loss"], row["overfit/loss_se"], bound) == CHANGED
        known = (
            known or judged(row["overfit/accuracy"], row["overfit/accuracy_se"], bound) == CHANGED
        )
        if (far and known) or (not all(map(math.isfinite, lost.values())) and i):
            since.append(i)
        elif since:
            peak = max(rows[j]["val/loss"] for j in since)
            if row["val/loss"] - low["val"] <= (1 - BACK) * (peak - low["val"]):
                found.append([rows[j]["epoch"] for j in since])
            since = []
        for s in low:
            low[s] = min(low[s], row[f"{s}/loss"]) if finite(row[f"{s}/loss"]) else low[s]
            high[s] = max(high[s], row[f"{s}/accuracy"])
    return found


def unstable(facts: Facts) -> Verdict | None:
    """It swung twice or more."""
    if facts.diverged or facts.guessing:
        return None
    swung = swings(facts)
    if len(swung) < SWINGS:
        return None
    epochs = [epoch for swing in swung for epoch in swing]
    rows = {row["epoch"]: row for row in facts.rows}
    worst = max(epochs, key=lambda epoch: rows[epoch]["overfit/loss"])
    rise, fall = rows[worst]["overfit/loss"], rows[worst]["overfit/accuracy"]
    message = (
        f"unstable: {len(swung)} times it lost much of what it had learned and learned it again;"
        f" in epoch {worst} val loss was {rise:.3f} above its lowest so far, val accuracy"
        f" {percent(fall)} below its highest"
    )
    advice = "lower optimizer.lr, or set scheduler.warmup or trainer.clip_grad_norm"
    return found(
        "unstable",
        WARNING,
        message,
        advice,
        epochs=epochs,
        values={"swings": len(swung), "loss_rise": rise, "accuracy_fall": fall},
        threshold={"swings": SWINGS, "share_lost": LOST, "accuracy_lost": LOST_ACCURACY},
    )


def _meant(facts: Facts) -> list[bool]:
    """By epoch whether some group began to train in it, or its rate rose twofold."""
    found = [False] * len(facts.rows)
    for group in facts.groups("lr"):
        rates = facts.column(f"lr/{group}")
        for i in range(1, len(rates)):
            found[i] = found[i] or rates[i] > RESTART * rates[i - 1]
    return found
