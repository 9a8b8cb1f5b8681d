"""The verdicts on a run: its headline, a table of all with their evidence, marks in the curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from lrexp.judge.verdicts import GUESSES, OVERFIT
from lrexp.judge.words import capital
from lrexp.report.figure import Mark
from lrexp.report.html.page import element, is_finite, join
from lrexp.runs.run import Run

# Of these the epochs are a stretch, whose beginning is marked; of all others every epoch is.
SINCE = {"too_slow": "slow since", "plateau": "flat since", "underfitting": "flat since"}
# What is not marked: it is of the whole run, or the chart of overfitting marks it.
UNMARKED = {*OVERFIT, "diverged", "healthy", "frozen_in_effect", "thrashing", "best_guesses"}
MOST_MARKS = 8


def first_finding(run: Run) -> dict[str, Any]:
    """The headline of a run, where it is bad and nothing else says it: else empty."""
    first = next(iter(run.summary["verdicts"]), {})
    elsewhere = {"diverged", "frozen_random", *GUESSES, *OVERFIT}
    return {} if first.get("severity") == "info" or first.get("kind") in elsewhere else first


def finding_marks(run: Run) -> list[Mark]:
    """Where in the curves over epochs verdicts happened."""
    marks, drawn = list[Mark](), {row["epoch"] for row in run.rows}
    for verdict in run.summary["verdicts"]:
        kind, epochs = str(verdict.get("kind")), _epochs(verdict)
        if kind in UNMARKED or not epochs:
            continue
        bad = "bad" if verdict.get("severity") == "error" else "note"
        word = SINCE.get(kind, kind.replace("_", " "))
        shown = epochs[:1] if kind in SINCE else epochs
        marks += [Mark(epoch, word, bad) for epoch in shown if epoch in drawn]
    return marks[:MOST_MARKS]


def findings(run: Run) -> Markup:
    """A paragraph per verdict, worst first: what was measured, and what it was held against."""
    said = list[Markup]()
    for one in run.summary["verdicts"]:
        kind, epochs = str(one.get("kind", "")).replace("_", " "), _epochs(one)
        when = f"epoch{'s' * (len(epochs) > 1)} {', '.join(map(str, epochs))}" if epochs else ""
        head = ", ".join(filter(None, (str(one.get("severity", "")), when)))
        advice = capital(str(one.get("advice") or ""))
        text = " ".join(
            f"{part}." for part in (capital(str(one.get("message", ""))), advice) if part
        )
        measured = f" Measured: {words}." if (words := _evidence(one)) else ""
        said.append(
            element("p", join(element("strong", kind), f" ({head}). {text}",
                              element("small", measured)))
        )  # fmt: skip
    return join(*said)


def _epochs(verdict: Mapping[str, Any]) -> list[int]:
    """Those it happened at; of an older run none are known."""
    evidence = verdict.get("evidence")
    found = evidence.get("epochs") if isinstance(evidence, Mapping) else None
    return [e for e in found if isinstance(e, int)] if isinstance(found, list) else []


def _evidence(verdict: Mapping[str, Any]) -> str:
    """`accuracy gained 0.155 (0.02), steady 1 (0.9)`; numbers alone."""
    evidence = verdict.get("evidence")
    evidence = evidence if isinstance(evidence, Mapping) else {}
    values, threshold = (evidence.get(name) or {} for name in ("values", "threshold"))
    if not isinstance(values, Mapping) or not isinstance(threshold, Mapping):
        return ""
    said = [
        f"{key.replace('_', ' ')} {value:.3g}"
        + (f" ({threshold[key]:.3g})" if is_finite(threshold.get(key)) else "")
        for key, value in values.items()
        if is_finite(value)
    ]
    rest = [
        f"{key.replace('_', ' ')}: {value:.3g}"
        for key, value in threshold.items()
        if is_finite(value) and key not in values
    ]
    held = f"; held against {', '.join(rest)}" if rest else ""
    return f"{', '.join(said)}{held}"
