"""What is found of a run as far as it is trained: summary.json's verdicts, worst first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrexp.judge.noise import Sample
from lrexp.judge.overfit import Overfit
from lrexp.judge.words import HELPS, NOT_FINITE, compact, overfit_in_words

# A network that does not look at the images any more, or never did: said before anything else.
GUESSES = ("collapsed", "learned_nothing", "best_guesses")
# Of the points of a sweep these are counted, in these words. Divergence is a status of its own.
COUNTED = {
    "collapsed": "collapsed",
    "learned_nothing": "learned nothing",
    "best_guesses": "kept at a guess",
    "deteriorated": "got worse on training images too",
    "overfitting": "overfit",
    "overconfident": "grew overconfident",
}

Row = Mapping[str, Any]


def verdicts(
    rows: Sequence[Row],
    best: Row,
    monitor: str,
    val: Sample,
    guess_loss: float,
    overfit: Overfit | None,
    frozen_random: Sequence[str],
    diverged: bool,
) -> list[dict[str, Any]]:
    """Each with its kind, severity, message, evidence and advice.

    Args:
        rows: of all epochs.
        best: the row of the best epoch by the monitor; empty when there is none.
        monitor: the metric that decides.
        val: what validation's errors are taken over.
        guess_loss: val loss of answering with the training set's class shares.
        overfit: of `judge.overfit.overfitting`.
        frozen_random: tensors that never train and were never loaded from weights.
        diverged: a loss of the last epoch was no finite number.
    """
    found = []
    if diverged:
        evidence = {"epoch": rows[-1]["epoch"] if rows else None}
        advice = "lower optimizer.lr or set scheduler.warmup"
        found.append(_verdict("diverged", "error", NOT_FINITE, evidence, advice))
    elif guess := _guess(rows, best, monitor, val, guess_loss):
        found.append(guess)
    if overfit and overfit.kind and not (found and found[0]["kind"] == "collapsed"):
        evidence, message = overfit.as_dict(), overfit_in_words(overfit.as_dict())
        kept = f"checkpoints/best.pt holds epoch {best['epoch']}; " if best else ""
        advice = f"{kept}trainer.patience ends earlier"
        advice = HELPS if overfit.kind == "deteriorated" else advice
        found.append(_verdict(overfit.kind, "warning", message, evidence, advice))
    if frozen_random:
        message = "frozen tensors were never loaded from weights: random features"
        advice = "load a pretrained network with model.weights, or train everything"
        evidence = {"tensors": list(frozen_random)}
        found.append(_verdict("frozen_random", "warning", message, evidence, advice))
    return found


def _verdict(
    kind: str, severity: str, message: str, evidence: Mapping[str, Any], advice: str
) -> dict[str, Any]:
    said = {"kind": kind, "severity": severity, "message": message}
    return {**said, "evidence": dict(evidence), "advice": advice}


def _guess(
    rows: Sequence[Row], best: Row, monitor: str, val: Sample, guess_loss: float
) -> dict[str, Any] | None:
    """Of a network that is worth no more than answering with the class shares, now or at its best.

    It collapsed if it was better before by more than 2 standard errors, in loss or accuracy;
    otherwise it has learned nothing.
    """
    if not rows or not best or rows[-1]["epoch"] < 1:
        return None
    last, bound = rows[-1], val.bound()
    kept = f"the weights of epoch {best['epoch']}, best by {monitor},"
    if not last.get("guessing"):
        if not best.get("guessing"):
            return None
        message = f"{kept} are no better than a guess: {_no_better(best, guess_loss)}"
        advice = f"choose by another trainer.monitor than {monitor}"
        return _verdict("best_guesses", "error", message, _evidence(best, guess_loss), advice)
    fell = [(last[f"overfit/{m}"], last[f"overfit/{m}_se"]) for m in ("loss", "accuracy")]
    if any(value > bound * se for value, se in fell):
        peak = min(rows, key=lambda row: _number(row["val/loss"]))
        message = (
            f"collapsed by epoch {last['epoch']}: {_no_better(last, guess_loss)}; in epoch"
            f" {peak['epoch']} val loss was {compact(peak['val/loss'], 3)}, val accuracy"
            f" {_percent(peak['val/accuracy'])}"
        )
        if best.get("guessing"):
            message = f"{message}; {kept} are no better than a guess either"
        advice = "lower optimizer.lr, or set scheduler.warmup or trainer.clip_grad_norm"
        return _verdict("collapsed", "error", message, _evidence(last, guess_loss), advice)
    message = f"learned nothing by epoch {last['epoch']}: {_no_better(last, guess_loss)}"
    advice = "try optimizer.lr ten times higher and lower, and more epochs; check the labels"
    return _verdict("learned_nothing", "warning", message, _evidence(last, guess_loss), advice)


def _no_better(row: Row, guess_loss: float) -> str:
    return (
        f"val loss {compact(row['val/loss'], 3)} (answering with the training set's class shares"
        f" has {compact(guess_loss, 3)}), val accuracy {_percent(row['val/accuracy'])}, balanced"
        f" {_percent(row['val/balanced_accuracy'])}"
    )


def _evidence(row: Row, guess_loss: float) -> dict[str, Any]:
    keys = ("epoch", "val/loss", "train_eval/loss", "val/accuracy", "val/balanced_accuracy")
    return {**{key: row[key] for key in keys}, "guess_loss": guess_loss}


def _number(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def counted_kinds(kinds: Mapping[str, int]) -> str:
    """`2 collapsed, 1 overfit`, of points by verdict; empty for none."""
    return ", ".join(f"{kinds[kind]} {word}" for kind, word in COUNTED.items() if kinds.get(kind))
