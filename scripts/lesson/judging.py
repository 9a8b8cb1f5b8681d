"""What was measured, judged: a claim holds, does not hold, or is undecided here."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lrexp.judge.comparison import holm, interval, p_beyond, p_value
from lrexp.judge.crossed import Crossed

Verdict = Literal["holds", "does not hold", "undecided here"]
Wanted = Literal["higher", "lower", "alike"]
Two = tuple[Verdict, Verdict]
HOLDS: Verdict = "holds"
NO: Verdict = "does not hold"
UNDECIDED: Verdict = "undecided here"
LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """A claim, the figures that decide it, and what becomes of it."""

    claim: str
    measured: str
    verdict: Verdict
    expected: Verdict  # what the table of docs/lessons.md says

    @property
    def surprising(self) -> bool:
        """Whether it came out otherwise than expected."""
        return self.verdict != self.expected


@dataclass(frozen=True)
class Measured:
    """A difference of means, or of a mean and a number, and how it is told."""

    difference: Crossed
    said: str  # both means; the difference with its interval is put behind them
    show: Callable[[float], str] = lambda share: f"{100 * share:+.1f}"  # in points
    note: str = ""  # what else was seen

    def __str__(self) -> str:
        mean, low, high = map(self.show, (self.difference.mean, *interval(self.difference)))
        return f"{self.said}: {mean} [{low}, {high}]{self.note}"


@dataclass(frozen=True)
class Question:
    """A claim on what was measured."""

    claim: str
    wanted: Wanted  # what the claim says of the difference
    expected: Verdict
    measured: Measured
    margin: float | None = None  # the difference that matters; None: *no difference* is never said


def exact(claim: str, measured: str, true: bool, expected: Verdict = HOLDS) -> Finding:
    """Of a behaviour that is exact, and needs no statistics."""
    return Finding(claim, measured, HOLDS if true else NO, expected)


def over_seeds(values: np.ndarray) -> Crossed:
    """The mean of a number per seed, (S,), and its error: s / √S with S − 1 degrees of freedom.

    Seeds alone are the sample: what the images do to it is part of what is said of these images.
    """
    values = np.asarray(values, dtype=np.float64)
    count = len(values)
    if count < 3 or not np.isfinite(values).all():
        return Crossed(math.nan, math.nan, math.nan, count, 0, math.nan, math.nan, math.nan)
    variance = float(values.var(ddof=1))
    se = math.sqrt(variance / count)
    return Crossed(float(values.mean()), se, count - 1, count, 1, variance, 0.0, 0.0, count - 1)


def against(measured: Crossed, number: float) -> Crossed:
    """The same mean, counted from a number."""
    return replace(measured, mean=measured.mean - number)


def pairs(one: np.ndarray, other: np.ndarray, what: str, digits: int = 3) -> Measured:
    """Numbers of the same seeds, (S,) each: their difference, paired by seed."""
    said = f"{what} {one.mean():.{digits}f} against {other.mean():.{digits}f}"
    return Measured(over_seeds(one - other), said, plain(digits))


def plain(digits: int) -> Callable[[float], str]:
    """How a difference that is no share is told."""
    return lambda value: f"{value:+.{digits}f}"


def apart(one: Crossed, other: Crossed) -> Crossed:
    """One mean minus another that was measured on other images.

    The errors are added as of independent samples, with the smaller degrees of freedom. The seeds
    are the same, which makes the true error smaller.
    """
    return Crossed(
        one.mean - other.mean,
        math.hypot(one.se, other.se),
        min(one.df, other.df),
        one.seeds,
        min(one.images, other.images),
        *(math.nan, math.nan, math.nan),
        min(one.image_df, other.image_df),
    )


def judged(questions: Sequence[Question]) -> list[Finding]:
    """Every question of a lesson, p after Holm over all of them.

    *Higher* and *lower* hold where the difference is told from zero on that side; they do not hold
    where it is on the other, or where two one-sided tests exclude one beyond the margin. *Alike*
    holds by these two tests, and does not where the difference is told from zero. Intervals are for
    one question, 95 %.
    """
    adjusted = holm([p_value(one.measured.difference) for one in questions])
    return [
        Finding(one.claim, str(one.measured), _verdict(one, p), one.expected)
        for one, p in zip(questions, adjusted, strict=True)
    ]


def _verdict(asked: Question, p: float) -> Verdict:
    difference, margin = asked.measured.difference, asked.margin
    within = margin is not None and p_beyond(difference, margin) < LEVEL
    if asked.wanted == "alike":
        return HOLDS if within else NO if p < LEVEL else UNDECIDED
    if p < LEVEL:
        told = "higher" if difference.mean > 0 else "lower"
        return HOLDS if told == asked.wanted else NO
    return NO if within else UNDECIDED


def fall_at_end(losses: Sequence[float]) -> float:
    """The share by which a loss fell over the last third of its epochs; negative where it rose."""
    before = losses[len(losses) - 1 - len(losses) // 3]
    return 1 - losses[-1] / before


def epochs_to(accuracies: Sequence[float], wanted: float) -> float:
    """The first epoch, from 1, that has reached an accuracy; one more than there are, if none."""
    reached = (epoch for epoch, value in enumerate(accuracies, 1) if value >= wanted)
    return next(reached, len(accuracies) + 1)


def block(lesson: str, question: str, findings: Sequence[Finding]) -> list[str]:
    """A lesson and its findings for the terminal."""
    lines = [f"{lesson}: {question}"]
    for one in findings:
        note = f" (expected: {one.expected})" if one.surprising else ""
        lines += [f"  {one.verdict:<15} {one.claim}{note}"]
        lines += textwrap.wrap(
            one.measured, 96, initial_indent=" " * 18, subsequent_indent=" " * 18
        )
    return [*lines, ""]


def table(rows: Sequence[tuple[str, Finding]]) -> list[str]:
    """Lessons and findings as Markdown."""
    lines = ["| lesson | claim | measured | verdict |", "|---|---|---|---|"]
    for lesson, one in rows:
        note = f" (expected: {one.expected})" if one.surprising else ""
        lines.append(f"| {lesson} | {one.claim} | {one.measured} | *{one.verdict}*{note} |")
    return lines
