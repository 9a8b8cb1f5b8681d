"""Runs whose rates were too low for their length, and runs that got stuck before the end.

In the regime of low rates the weights follow the gradient: where they are depends on the rate
times the number of steps alone. *Learning time* is therefore the sum of the schedule's height over
the epochs, and twice the rate goes twice as far on the same curve. What the last doubling of
learning time was worth is told from the run's own rows, under every schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate, pairwise

from lrexp.judge.kinds.facts import WARNING, Facts, Row, Verdict, finite, found, percent
from lrexp.judge.kinds.images import labels as wrong_labels

LEAST_EPOCHS = 6  # fewer say nothing of how steadily it goes
LEAST_STEPS = 4  # between epochs, in the second half of the learning time
STEADY = 0.9  # of those steps, at least this share made the training loss lower
GAINED = 0.02  # accuracy that the last doubling of learning time brought at least
FELL = 0.02  # of the loss, that it fell by at least
GAINED_MUCH, FELL_MUCH, VERY_STEADY = 0.03, 0.05, 0.95  # likewise, where steps are not that short
GAINS = ((GAINED, FELL), (GAINED_MUCH, FELL_MUCH))
ROOM = 0.95  # accuracy on training images, below which a higher rate has something to gain
LOW_RATIO = 2e-3  # update ratio that no group exceeds where rates are low
USUAL_RATIO = 7e-3  # and where they are not high
VERY_LOW_RATIO = 3e-4  # and where they are so low that progress hardly shows
NEAR = 0.1  # of the weights' size: a network that guesses is still near where it began
SETTLED = 0.01  # accuracy, that a settled run gained less than over the last doubling
SETTLED_LOSS = 0.05  # of the loss, likewise
LEARNED = 0.8  # of the loss of a guess: one that has hardly begun is on no plateau
HIGH = 0.5  # of the peak: rates that are still high
LATE = 0.1  # of the peak: rates that have come down
UNSOLVED_ACCURACY, UNSOLVED_LOSS = 0.9, 0.25  # of training images; of the loss of a guess


@dataclass(frozen=True)
class Doubling:
    """What the last doubling of a run's learning time was worth; better is positive."""

    first: int  # epoch at half the learning time, or shortly before
    last: int
    loss: float  # by which the mean loss of both splits fell, as a share of what it was
    accuracy: float  # by which the mean accuracy of both splits rose
    steady: float  # share of the epochs since that made the training loss lower
    rate: float  # height of the schedule over these epochs, the mean
    least_rate: float  # and the lowest
    rate_at_end: float


def last_doubling(facts: Facts) -> Doubling | None:
    """Over the second half of the learning time; None for too few epochs or unknown numbers."""
    rows, levels = facts.rows, facts.levels
    if len(rows) < LEAST_EPOCHS or not facts.trained or facts.diverged or not any(levels):
        return None
    times = list(accumulate(levels))
    at = max(i for i, time in enumerate(times) if not i or time <= times[-1] / 2)
    then, now, since = rows[at], rows[-1], rows[at:]
    if len(since) - 1 < LEAST_STEPS or not all(map(_known, since)):
        return None
    losses, accuracies = ([_mean(row, m) for row in (then, now)] for m in ("loss", "accuracy"))
    steps = list(pairwise(row["train_eval/loss"] for row in since))
    return Doubling(
        first=then["epoch"],
        last=now["epoch"],
        loss=1 - losses[1] / losses[0] if losses[0] else 0.0,
        accuracy=accuracies[1] - accuracies[0],
        steady=sum(b < a for a, b in steps) / len(steps),
        rate=sum(levels[at + 1 :]) / len(levels[at + 1 :]),
        least_rate=min(levels[at + 1 :]),
        rate_at_end=levels[-1],
    )


def too_slow(facts: Facts) -> Verdict | None:
    """Both splits still get better steadily at the end, while steps are short.

    In the last doubling of learning time the training loss fell in nearly every epoch, and
    validation is at its best. Then one of three: accuracy rose by 2 points or more and no group's
    steps are half as long as they are where learning goes well; they are not longer than that,
    accuracy rose by 3 points and there is room on training images; or steps are very short and
    training images far from solved, where the next doublings are still to come.
    """
    half, ratio = last_doubling(facts), largest_ratio(facts)
    if half is None or not finite(ratio) or half.steady < STEADY or not _still_at_best(facts):
        return None
    if facts.guessing and not facts.drift < NEAR:  # thrown to where nothing is learned
        return None
    if wrong_labels(facts):  # which a higher rate would learn by heart
        return None
    room = facts.last["train_eval/accuracy"] < ROOM and half.steady >= VERY_STEADY
    much = half.accuracy >= GAINED_MUCH and half.loss >= FELL_MUCH and room
    some, most = ({"accuracy_gained": a, "loss_fell": b} for a, b in GAINS)
    limits: list[tuple[float, bool, dict[str, float]]] = [
        (LOW_RATIO, half.accuracy >= GAINED and half.loss >= FELL, some),
        (USUAL_RATIO, much, most),
        (VERY_LOW_RATIO, _unsolved(facts), {"train_eval/accuracy": UNSOLVED_ACCURACY}),
    ]
    found_by = next(((at, held) for at, holds, held in limits if holds and ratio <= at), None)
    if found_by is None:
        return None
    limit, held = found_by
    message = (
        f"too slow: from epoch {half.first} to {half.last}, the second half of the learning time,"
        f" accuracy changed by {100 * half.accuracy:+.1f} points and the loss fell by"
        f" {100 * half.loss:.3g}%, steadily; a typical step changes at most {ratio:.1e}"
        " of a group's weights"
    )
    higher = "10 and 100" if limit == VERY_LOW_RATIO else "3 and 10"
    advice = f"try optimizer.lr {higher} times higher, or train longer: a larger trainer.epochs"
    return found(
        "too_slow",
        WARNING,
        message,
        advice,
        epochs=[half.first, half.last],
        values={
            "accuracy_gained": half.accuracy,
            "loss_fell": half.loss,
            "steady": half.steady,
            "largest_update_ratio": ratio,
            "train_eval/accuracy": facts.last["train_eval/accuracy"],
        },
        threshold=held | {"steady": STEADY, "largest_update_ratio": limit},
    )


def stuck(facts: Facts) -> Verdict | None:
    """Nothing got better over the last doubling, and training images are far from solved.

    With rates that stayed high, after a fifth of a guess's loss was gone, it is a `plateau`; with
    rates that came down, and new images doing as well as training images, the network is
    `underfitting`.
    """
    half = last_doubling(facts)
    if half is None or facts.guessing or not _settled(half) or not _unsolved(facts):
        return None
    if too_slow(facts):
        return None
    last = facts.last
    values = {
        "accuracy_gained": half.accuracy,
        "loss_fell": half.loss,
        "train_eval/loss": last["train_eval/loss"],
        "train_eval/accuracy": last["train_eval/accuracy"],
        "update_ratios": _ratios(facts.rows[-1]),
    }
    threshold = {"accuracy_gained": SETTLED, "loss_fell": SETTLED_LOSS}
    threshold |= {"train_eval/accuracy": UNSOLVED_ACCURACY}
    since = (
        f"since epoch {half.first} accuracy changed by {100 * half.accuracy:+.1f} points; of"
        f" training images {percent(last['train_eval/accuracy'])} are right"
    )
    epochs = [half.first, half.last]
    evidence = {"epochs": epochs, "values": values, "threshold": threshold}
    learned = last["train_eval/loss"] <= LEARNED * facts.guess_loss
    if half.least_rate >= HIGH and learned and not largest_ratio(facts) <= VERY_LOW_RATIO:
        message = f"plateau: {since}{_moving(facts)}"
        advice = "try a lower optimizer.lr (a third and a tenth), or scheduler=cosine"
        return found("plateau", WARNING, message, advice, **evidence)
    if half.rate_at_end <= LATE and _gap_within_noise(facts):
        message = f"underfitting: {since}, and new images do as well within noise"
        advice = (
            "try a larger model, more layers that train, or less of optimizer.weight_decay,"
            " data.augment and loss.label_smoothing; labels that are wrong cannot be fitted so"
        )
        return found("underfitting", WARNING, message, advice, **evidence)
    return None


def _settled(half: Doubling) -> bool:
    return abs(half.accuracy) < SETTLED and abs(half.loss) < SETTLED_LOSS


def settled(facts: Facts) -> bool | None:
    """Whether the last doubling of learning time brought next to nothing; None: not known."""
    half = last_doubling(facts)
    return None if half is None else _settled(half)


def _unsolved(facts: Facts) -> bool:
    """Whether training images themselves are far from being known."""
    last = facts.last
    return (
        last["train_eval/accuracy"] < UNSOLVED_ACCURACY
        and last["train_eval/loss"] > UNSOLVED_LOSS * facts.guess_loss
    )


def _gap_within_noise(facts: Facts) -> bool:
    last, bound = facts.last, facts.val.bound()
    gap, se = last.get("gap/loss", math.nan), last.get("gap/loss_chance_se", math.nan)
    return abs(gap) <= bound * se


def _still_at_best(facts: Facts) -> bool:
    """Whether validation is not known to be worse than at its best."""
    last, bound = facts.last, facts.val.bound()
    return all(
        last[f"overfit/{m}"] <= bound * last[f"overfit/{m}_se"] or not last[f"overfit/{m}"] > 0
        for m in ("loss", "accuracy")
    )


def largest_ratio(facts: Facts) -> float:
    """The update ratio of the group that moves most, of its highest rates; NaN where unknown."""
    found = []
    for group in facts.groups("update_ratio"):
        seen = high_ratios(facts, group)
        if seen:
            found.append(seen[len(seen) // 2])
    return max(found, default=math.nan)


def high_ratios(facts: Facts, group: str) -> list[float]:
    """A group's update ratios, ascending, of epochs in which its rate was at least half its peak.

    An epoch whose rate began lower, as in a warmup, is none of them.
    """
    ends, ratios = facts.level(group), facts.column(f"update_ratio/{group}")
    before = [ends[0], *ends[:-1]] if ends else []
    return sorted(
        ratio
        for ratio, start, end in zip(ratios, before, ends, strict=True)
        if math.isfinite(ratio) and min(start, end) >= HIGH
    )


def _ratios(row: Row) -> dict[str, float]:
    prefix = "update_ratio/"
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def _moving(facts: Facts) -> str:
    """Which layers still move at the end: `; a step still moves conv1 by 2e-03, fc by 1e-05`."""
    ratios = {group: value for group, value in _ratios(facts.last).items() if finite(value)}
    if not ratios:
        return ""
    order = sorted(ratios, key=lambda group: -ratios[group])
    shown = order if len(order) <= 4 else [*order[:2], *order[-2:]]
    said = ", ".join(f"{group} by {ratios[group]:.1e}" for group in shown)
    return f"; a step still moves {said} of its weights"


def _known(row: Row) -> bool:
    keys = ("train_eval/loss", "val/loss", "train_eval/accuracy", "val/accuracy")
    return all(finite(row.get(key)) for key in keys)


def _mean(row: Row, metric: str) -> float:
    """Of both splits: the same images do not decide alone."""
    return (row[f"train_eval/{metric}"] + row[f"val/{metric}"]) / 2
