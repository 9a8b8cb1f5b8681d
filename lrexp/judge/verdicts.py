"""What is found of a run as far as it is trained: summary.json's verdicts, worst first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lrexp.judge.kinds import endings, images, layers, speed, swings
from lrexp.judge.kinds.facts import ERROR, INFO, WARNING, Facts, Verdict, found, percent
from lrexp.judge.words import HELPS, compact, overfit_in_words


@dataclass(frozen=True)
class Kind:
    """What a kind of verdict means to those who read many runs."""

    # Of points of a sweep, in words behind `it` or `3`: what they came to; empty: not said.
    counted: str = ""
    guesses: bool = False  # the network does not look at the images any more, or never did


# Of equals the first is the headline.
KINDS: dict[str, Kind] = {
    "diverged": Kind(),  # a status of its own, counted as such
    "collapsed": Kind("collapsed", guesses=True),
    "dead": Kind("never learned", guesses=True),
    "learned_nothing": Kind("learned nothing", guesses=True),  # of older runs: dead or majority
    "best_guesses": Kind("kept at a guess", guesses=True),
    "majority": Kind("learned the largest class alone", guesses=True),
    "leak": Kind(),  # as of the data and the plan, all points have it
    "noisy_labels": Kind(),
    "deteriorated": Kind("got worse on training images too"),
    "unstable": Kind("grew unstable"),
    "overfitting": Kind("overfit"),
    "overconfident": Kind("grew overconfident"),
    "too_slow": Kind("learned too slowly"),
    "plateau": Kind("reached a plateau"),
    "underfitting": Kind("underfit"),
    "thrashing": Kind("thrashed"),
    "frozen_in_effect": Kind(),
    "frozen_random": Kind(),
    "easier_validation": Kind(),
    "healthy": Kind(),
}
# A network that does not look at the images any more, or never did: said before anything else.
GUESSES = tuple(name for name, kind in KINDS.items() if kind.guesses)
OVERFIT = ("overfitting", "overconfident", "deteriorated")
COUNTED = {name: kind.counted for name, kind in KINDS.items() if kind.counted}
TALLIED = tuple(name for name in KINDS if name != "healthy")  # by points in files and tables
SEVERITIES = (ERROR, WARNING, INFO)


def verdicts(facts: Facts) -> list[Verdict]:
    """Each with its kind, severity, message, evidence and advice; the first is the headline."""
    every = [one for judge in JUDGES if (one := judge(facts)) is not None]
    if not every and (well := healthy(facts)):
        return [well]
    order = list(KINDS)
    return sorted(
        every, key=lambda one: (SEVERITIES.index(one["severity"]), order.index(one["kind"]))
    )


def after_best(facts: Facts) -> Verdict | None:
    """Validation got worse after its best: overfitting, overconfident or deteriorated."""
    overfit = facts.overfit
    if not overfit or not overfit.kind or facts.guessing or facts.diverged:
        return None
    known = facts.best.get("epoch")
    kept = f"checkpoints/best.pt holds epoch {known}; " if known is not None else ""
    advice = HELPS if overfit.kind == "deteriorated" else f"{kept}trainer.patience ends earlier"
    values = overfit.as_dict()
    return found(
        overfit.kind,
        WARNING,
        overfit_in_words(values),
        advice,
        epochs=[overfit.reference, overfit.epoch],
        values={key: values[key] for key in VALUES},
        threshold={"standard_errors": overfit.bound},
    )


def healthy(facts: Facts) -> Verdict | None:
    """Nothing was found, of a run that came to its end and no longer got better.

    Of one that still did nothing can be said: more epochs or a higher rate may be better.
    """
    last = facts.last
    if not facts.ended or not facts.best or facts.val.unjudged or not facts.trained:
        return None
    if not speed.settled(facts):
        return None
    message = (
        f"nothing to mend was found in {last['epoch']} epochs, and accuracy settled: val loss"
        f" {compact(last['val/loss'], 3)}, val accuracy {percent(last['val/accuracy'])}"
    )
    advice = "compare rates and policies on several seeds: lrexp which"
    values = {key: last[key] for key in ("val/loss", "val/accuracy", "train_eval/loss")}
    return found("healthy", INFO, message, advice, epochs=[last["epoch"]], values=values)


VALUES = ("loss", "loss_se", "accuracy", "accuracy_se", "on_train")
JUDGES: tuple[Callable[[Facts], Verdict | None], ...] = (
    endings.diverged,
    endings.guess,
    after_best,
    images.leak,
    images.labels,
    swings.unstable,
    speed.too_slow,
    speed.stuck,
    layers.thrashing,
    layers.frozen_in_effect,
    layers.frozen_random,
)


def counted_kinds(kinds: Mapping[str, int]) -> str:
    """`2 collapsed, 1 overfit`, of points by verdict; empty for none."""
    return ", ".join(f"{kinds[kind]} {word}" for kind, word in COUNTED.items() if kinds.get(kind))
