"""Whether a sweep has a winner at all, and what became of its runs, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lrexp.judge.ranking import Configuration
from lrexp.judge.verdicts import COUNTED, GUESSES, OVERFIT, counted_kinds
from lrexp.runs.sweep import DIVERGED, FINISHED, SweepPoint, rate_of


def no_winner(points: Sequence[SweepPoint]) -> tuple[str, str] | None:
    """What became of all points, and what to do, where none that ended is worth choosing.

    That is where every one of them diverged, collapsed, learned nothing or was kept at a guess;
    None where one was not, and where none has ended.
    """
    counts = Counter[str]()
    for point in points:
        guess = next((kind for kind in GUESSES if kind in point.kinds), None)
        if point.status == FINISHED and guess is None:
            return None
        if point.status == DIVERGED or (point.status == FINISHED and guess):
            counts[DIVERGED if point.status == DIVERGED else str(guess)] += 1
    if not counts:
        return None
    diverged = f"{counts[DIVERGED]} diverged" if counts[DIVERGED] else ""
    became = ", ".join(filter(None, (diverged, counted_kinds(counts))))
    others = len(points) - counts.total()
    became = f"{became}, {others} without a result" if others else became
    rates = sorted(rate for point in points if (rate := rate_of(point.settings)[0]))
    low, high = (f"{rates[0]:.4g}", f"{rates[-1]:.4g}") if rates else ("", "")
    tried = f" ({low} is the lowest tried)" if rates else ""
    advice = []
    if counts[DIVERGED] + counts["collapsed"]:
        advice.append(
            f"lower optimizer.lr ten times{tried}, or set scheduler.warmup or"
            " trainer.clip_grad_norm"
        )
    if any(counts[kind] for kind in ("dead", "majority", "learned_nothing")):
        span = f" (tried: {low} to {high})" if rates else ""
        advice.append(
            f"try optimizer.lr ten times higher and lower{span}, and more epochs; check the labels"
        )
    if counts["best_guesses"]:
        advice.append("choose by another trainer.monitor")
    return became, "; ".join(advice)


def runs_in_words(one: Configuration) -> str:
    """Whether the runs of a configuration overfit, and what else was found of them."""
    kinds = Counter({kind: one.kinds[kind] for kind in COUNTED if one.kinds[kind]})
    runs, overfits = one.counts[FINISHED], any(kinds[kind] for kind in OVERFIT)
    if runs == 1 and len(one.points) == 1:
        said = f"By its last epoch it {' and '.join(COUNTED[kind] for kind in kinds)}."
        none = "It was not found to overfit."
    else:
        said = f"By their last epoch, of its {len(one.points)} runs {counted_kinds(kinds)}."
        none = f"None of its {len(one.points)} runs was found to overfit."
    return " ".join(filter(None, (said if kinds else "", "" if overfits else none)))
