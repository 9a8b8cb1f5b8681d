"""The picture of a test of layers: what every factor on every layer changed, with its interval."""

from __future__ import annotations

import math
from pathlib import Path

from lrexp.judge.layer_test import Change, LayerTest
from lrexp.report.figure import COLOURS, Interval, Intervals
from lrexp.report.layer_test.words import (
    accuracy_words,
    loss_words,
    title,
    verdict_words,
)
from lrexp.report.plots import PAGE, write_plots

PICTURE = "layer_test"


def write_layer_plots(folder: Path, found: LayerTest) -> list[Path]:
    """Write the picture into a folder's plots/, as PNG (300 dpi) and SVG.

    Returns:
        The files; none where nothing was measured.
    """
    figure = layers_figure(found)
    return write_plots(folder, {PICTURE: [figure]}, PAGE) if figure else []


def layers_figure(found: LayerTest) -> Intervals | None:
    """A row per layer and factor, from the input to the head; None where nothing is known."""
    if not any(math.isfinite(one.low) for one in found.changes):
        return None
    return Intervals(
        "Change of val loss with its 95 % interval, one layer's rate changed at a time",
        [_row(found, one) for one in found.changes],
        label=f"change of val loss against lr_policy={found.policy} as it is",
        sides=("better", "worse"),
        note=(
            "Full dots help or hurt, after Holm's correction for all comparisons; open dots are"
            " within noise. An interval is for one comparison by itself, so that of an open dot may"
            " leave zero out. A colour is a factor."
        ),
    )


def _row(found: LayerTest, one: Change) -> Interval:
    known = math.isfinite(one.loss)
    words = f"{loss_words(one)}, accuracy {accuracy_words(one)} points" if known else ""
    return Interval(
        title(found, one),
        one.loss,
        one.low,
        one.high,
        text=words,
        verdict=verdict_words(one),
        colour=list(found.factors).index(one.factor) % len(COLOURS),
        shape="dot" if one.word in ("helps", "hurts") else "open",
    )
