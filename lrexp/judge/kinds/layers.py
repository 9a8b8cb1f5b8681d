"""Groups of parameters that stand still, or are thrown about."""

from __future__ import annotations

from statistics import median

from lrexp.judge.kinds.facts import INFO, WARNING, Facts, Verdict, finite, found
from lrexp.judge.kinds.speed import high_ratios

FROZEN_RATIO = 1e-5  # a step's share of the weights, by the median
FROZEN_DRIFT = 1e-3  # and of where they began, that they have moved in all
MOVES = 10.0  # times the steps of a group that stands still
THRASHING_RATIO = 0.1
ON_PURPOSE = 0.1  # of the largest lr_scale: a group that is to learn slowly
LEAST_EPOCHS = 3


def frozen_random(facts: Facts) -> Verdict | None:
    """Tensors that never train and were never loaded from weights."""
    tensors = list(facts.plan.frozen_random)
    if not tensors:
        return None
    return found(
        "frozen_random",
        WARNING,
        "frozen tensors were never loaded from weights: random features",
        "load a pretrained network with model.weights, or train everything",
        values={"tensors": tensors},
    )


def frozen_in_effect(facts: Facts) -> Verdict | None:
    """Groups that train and yet end where they began.

    Where rates were high, half of their steps moved weights by less than 1e-5 of their size, they
    ended within a thousandth of where they began, and another group moves. A group whose lr_scale
    is a tenth of the largest or less was meant to be slow: information. Where no group moves the
    rate itself is too low, which other kinds say.
    """
    ratios = _ratios(facts)
    still = {
        group: ratio
        for group, ratio in ratios.items()
        if ratio < FROZEN_RATIO and facts.last.get(f"drift/{group}", 1.0) < FROZEN_DRIFT
    }
    moves = max(ratios.values(), default=0.0)
    if not still or len(still) == len(ratios) or moves < MOVES * max(still.values()):
        return None
    meant = set(still) <= _slow_on_purpose(facts)
    drifts = {group: facts.last[f"drift/{group}"] for group in still}
    names = _named(still)
    message = (
        f"frozen in effect: {names} moved by {max(drifts.values()):.1e} of its weights in all, a"
        f" step by {max(still.values()):.1e}"
    )
    if meant:
        message = f"{message}, as its small lr_scale asks for"
        advice = "if it is not to move, freezing it (lr_policy) gives nearly the same for less time"
    else:
        advice = f"raise the rates of {names} in lr_policy, or freeze it and save the time"
    return found(
        "frozen_in_effect",
        INFO if meant else WARNING,
        message,
        advice,
        epochs=[facts.rows[0]["epoch"], facts.last["epoch"]],
        values={"update_ratios": still, "drifts": drifts},
        threshold={"update_ratio": FROZEN_RATIO, "drift": FROZEN_DRIFT},
    )


def thrashing(facts: Facts) -> Verdict | None:
    """Groups of which half of the steps change a tenth of the weights or more."""
    wild = {group: ratio for group, ratio in _ratios(facts).items() if ratio > THRASHING_RATIO}
    if not wild or facts.diverged:
        return None
    names = _named(wild)
    message = f"thrashing: a step changes {names} by {max(wild.values()):.2g} of its weights"
    return found(
        "thrashing",
        WARNING,
        message,
        f"lower the rates of {names}: optimizer.lr, or its scale in lr_policy",
        epochs=[facts.rows[0]["epoch"], facts.last["epoch"]],
        values={"update_ratios": wild},
        threshold={"update_ratio": THRASHING_RATIO},
    )


def _ratios(facts: Facts) -> dict[str, float]:
    """By group the median update ratio of the epochs with high rates; of enough epochs alone."""
    if len(facts.rows) < LEAST_EPOCHS or not facts.trained:
        return {}
    seen = {group: high_ratios(facts, group) for group in facts.groups("update_ratio")}
    return {group: median(ratios) for group, ratios in seen.items() if ratios}


def _slow_on_purpose(facts: Facts) -> set[str]:
    """Groups whose lr_scale is small beside the largest, by the plan or as it was measured."""
    scales = {name: rows[0].lr_scale for name, rows in facts.plan.groups.items()}
    scales |= {
        group: value
        for group in facts.groups("lr_scale")
        if finite(value := facts.last.get(f"lr_scale/{group}"))
    }
    largest = max(scales.values(), default=0.0)
    return {group for group, scale in scales.items() if scale <= ON_PURPOSE * largest}


def _named(groups: dict[str, float]) -> str:
    names = list(groups)
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])
