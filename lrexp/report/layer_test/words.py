"""What is said of a test of layers, the same in a terminal and on a page."""

from __future__ import annotations

import math

from lrexp.judge.layer_test import (
    Change,
    LayerTest,
    factor_words,
    settling,
    wants,
)
from lrexp.plan.multiplied import Part

GONE = "–"


def rate_words(found: LayerTest, part: Part) -> str:
    """The rate that a part's layers have under the policy, at the peak of the schedule."""
    if not part.trained:
        return "frozen"
    low, high = (f"{found.base_lr * scale:.3g}" for scale in (part.low, part.high))
    return low if low == high else f"{low} to {high}"


def loss_words(one: Change) -> str:
    """`−0.051 ± 0.012`."""
    if math.isnan(one.loss):
        return GONE
    places = decimals(one.loss_se)
    return f"{one.loss:+.{places}f} ± {one.loss_se:.{places}f}".replace("-", "−")


def decimals(se: float) -> int:
    """As many as the two leading digits of an error need."""
    return min(6, max(0, 1 - math.floor(math.log10(se)))) if 0 < se < math.inf else 3


def accuracy_words(one: Change) -> str:
    """`+1.2 ± 0.5`, in points."""
    if math.isnan(one.accuracy):
        return GONE
    return f"{100 * one.accuracy:+.1f} ± {100 * one.accuracy_se:.1f}".replace("-", "−")


def p_words(one: Change) -> str:
    """p after Holm."""
    if math.isnan(one.loss):
        return GONE
    return "< 0.001" if one.p_adjusted < 0.001 else f"{one.p_adjusted:.3f}"


def verdict_words(one: Change) -> str:
    """Its word, and of one that diverged in how many seeds."""
    if one.word == "diverges":
        return f"diverges ({one.lost} of {one.seeds})"
    return one.word


def needs_words(found: LayerTest, one: Change) -> str:
    """What would settle one within noise."""
    return settling(found, one) if one.word == "within noise" and one.loss_se > 0 else ""


def wants_of(found: LayerTest, part: int) -> str:
    """What a part wants, in a few words."""
    if not found.parts[part].trained:
        return "frozen already"
    return wants(found.of_part(part))


def reading(found: LayerTest) -> str:
    """How to read the numbers."""
    seeds = ", ".join(map(str, found.seeds[:3])) + (", …" if len(found.seeds) > 3 else "")
    count = len(found.changes)
    return (
        f"Change of val loss (less is better) and val accuracy (points) when one layer's rate alone"
        f" is multiplied, against lr_policy={found.policy} as it is, at the best epoch of each run"
        f" by {found.monitor}; same seeds ({seeds}) and images. ± is the standard error over seeds"
        f" and images; p is after Holm over {count} comparison{'s' * (count != 1)}."
    )


def caveats(found: LayerTest) -> list[str]:
    """What belongs beside the numbers."""
    said = list(found.remarks)
    if found.paste:
        said.append(
            "The multipliers were measured one at a time, on validation images, in runs of this"
            " length; tune optimizer.lr again with them, and compare on the test split with lrexp"
            " which or confirm."
        )
    return said


def title(found: LayerTest, one: Change) -> str:
    """`conv, rate × 4`."""
    return f"{found.parts[one.part].name}, {factor_words(one.factor)}"
