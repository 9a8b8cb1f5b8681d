"""Runs that ended without a number, or worth no more than a guess."""

from __future__ import annotations

import math
from typing import Any

from lrexp.judge.kinds.facts import ERROR, WARNING, Facts, Row, Verdict, finite, found, percent
from lrexp.judge.words import NOT_FINITE, compact

FALLEN = ("loss", "accuracy")
BELOW = 0.9  # of the loss of a guess: something had been learned
STILL = 0.01  # ‖w − w₀‖ / ‖w₀‖ below which no group has moved
SURE = 3  # epochs, before which it may merely not have begun
FAR = 2.0  # likewise: nothing is left of how the network began
EXPLODED = 3.0  # times the loss of a guess, or of saying all classes alike: steps far too long


def diverged(facts: Facts) -> Verdict | None:
    """A loss of the last epoch is no finite number."""
    if not facts.diverged:
        return None
    last = facts.last
    return found(
        "diverged",
        ERROR,
        NOT_FINITE,
        "lower optimizer.lr or set scheduler.warmup",
        epochs=[last["epoch"]],
        values={key: last[key] for key in ("train/loss", "val/loss") if key in last},
    )


def guess(facts: Facts) -> Verdict | None:
    """Of a network that is worth no more than answering with the class shares, now or at its best.

    It collapsed if it did not guess in some epoch before, and the loss is now above the lowest of
    such an epoch, and above its best by more than 2 standard errors; a fall of accuracy will do
    where the loss had been below nine tenths of that of a guess. Else it never was better:
    `majority` where classes are uneven and it says the largest, else `dead`.
    """
    if not facts.trained or facts.diverged:
        return None
    if not facts.guessing:
        return _best_guesses(facts)
    last, bound = facts.last, facts.val.bound()
    loss, accuracy = (last[f"overfit/{m}"] > bound * last[f"overfit/{m}_se"] for m in FALLEN)
    learned = [row for row in facts.rows if not row.get("guessing")]
    low = min((_number(row["val/loss"]) for row in learned), default=math.inf)
    risen = loss and last["val/loss"] > low  # not only above that of another guess
    if learned and (risen or (accuracy and low < BELOW * facts.guess_loss)):
        return _collapsed(facts)
    return _majority(facts) or _dead(facts)


def _best_guesses(facts: Facts) -> Verdict | None:
    if not facts.best.get("guessing"):
        return None
    message = f"{_kept(facts)} are no better than a guess: {_no_better(facts, facts.best)}"
    advice = f"choose by another trainer.monitor than {facts.monitor}"
    return found("best_guesses", ERROR, message, advice, **_evidence(facts, facts.best))


def _collapsed(facts: Facts) -> Verdict:
    last = facts.last
    learned = [row for row in facts.rows if not row.get("guessing")]
    peak = min(learned, key=lambda row: _number(row["val/loss"]))
    message = (
        f"collapsed by epoch {last['epoch']}: {_no_better(facts, last)}; in epoch {peak['epoch']}"
        f" val loss was {compact(peak['val/loss'], 3)}, val accuracy"
        f" {percent(peak['val/accuracy'])}"
    )
    if facts.best.get("guessing"):
        message = f"{message}; {_kept(facts)} are no better than a guess either"
    advice = "lower optimizer.lr, or set scheduler.warmup or trainer.clip_grad_norm"
    return found("collapsed", ERROR, message, advice, **_evidence(facts, last))


def _majority(facts: Facts) -> Verdict | None:
    """No better than the largest class: it learned how often each class comes, and no more.

    Classes are uneven, and nearly every answer is that class: accuracy is its share of validation
    to within two errors, √(p (1 − p) / n).
    """
    known = facts.classes.get("majority") or {}
    share = (known.get("accuracy") or {}).get("val")
    if not facts.classes.get("uneven") or not finite(share) or "class" not in known:
        return None
    last, images = facts.last, facts.images.get("val", 0)
    near = 2 * math.sqrt(share * (1 - share) / max(1, images))
    if abs(last["val/accuracy"] - share) > near:
        return None
    message = (
        f"no better than the largest class by epoch {last['epoch']}: saying {known['class']} of"
        f" every image has val accuracy {percent(share)}, the network"
        f" {percent(last['val/accuracy'])}, balanced {percent(last['val/balanced_accuracy'])}"
    )
    why, way = _where_to(facts)
    message = f"{message}{why}"
    advice = (
        f"{way}; loss.class_weights=balanced makes the rare classes count, and"
        " trainer.monitor=val/balanced_accuracy shows progress on them"
    )
    evidence = _evidence(facts, last)
    evidence["values"]["largest_drift"] = None if math.isnan(facts.drift) else facts.drift
    evidence["threshold"] |= {"largest_class": known["class"], "accuracy": share}
    return found("majority", WARNING, message, advice, **evidence)


def _dead(facts: Facts) -> Verdict:
    """Never better than a guess beyond noise; a single epoch is too few to call it dead."""
    last, alone = facts.last, len(facts.rows) == 1
    why, way = _where_to(facts)
    began = (
        "learned nothing in its one epoch"
        if alone
        else f"dead, learned nothing by epoch {last['epoch']}"
    )
    message = f"{began}: {_no_better(facts, last)}{why}"
    longer = "train more epochs; if it stays so, " if alone else ""
    advice = f"{longer}{way}; if nothing learns, check the labels"
    evidence = _evidence(facts, last)
    evidence["values"]["largest_drift"] = None if math.isnan(facts.drift) else facts.drift
    severity = ERROR if len(facts.rows) >= SURE else WARNING
    return found("dead", severity, message, advice, **evidence)


def _where_to(facts: Facts) -> tuple[str, str]:
    """What the weights of a network that never learned did, and in which direction to try."""
    drift = facts.drift
    highest = max((v for v in facts.column("train/loss") if math.isfinite(v)), default=0.0)
    untrained = math.log(max(2, facts.classes.get("total") or 2))  # what it may well begin with
    lower = "try optimizer.lr ten times lower, or set scheduler.warmup or trainer.clip_grad_norm"
    if drift < STILL:
        moved = f"; no group ended farther than {drift:.1e} of its first size from where it began"
        return moved, "try optimizer.lr ten times higher, and more epochs"
    if highest > EXPLODED * max(facts.guess_loss, untrained):
        return f"; the training loss was as high as {compact(highest, 3)}", lower
    if drift > FAR:
        return f"; weights moved by up to {drift:.2g} times their first size", lower
    return "", "try optimizer.lr ten times higher and lower, and more epochs"


def _kept(facts: Facts) -> str:
    return f"the weights of epoch {facts.best['epoch']}, best by {facts.monitor},"


def _no_better(facts: Facts, row: Row) -> str:
    return (
        f"val loss {compact(row['val/loss'], 3)} (answering with the training set's class shares"
        f" has {compact(facts.guess_loss, 3)}), val accuracy {percent(row['val/accuracy'])},"
        f" balanced {percent(row['val/balanced_accuracy'])}"
    )


def _evidence(facts: Facts, row: Row) -> dict[str, Any]:
    keys = ("val/loss", "train_eval/loss", "val/accuracy", "val/balanced_accuracy")
    values = {key: row[key] for key in keys if key in row}
    return {
        "epochs": [row["epoch"]],
        "values": values,
        "threshold": {"guess_loss": facts.guess_loss},
    }


def _number(value: float) -> float:
    return value if math.isfinite(value) else math.inf
