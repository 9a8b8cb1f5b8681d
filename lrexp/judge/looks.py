"""Looking several times, at more and more seeds: how the error is spent."""

from __future__ import annotations

from collections.abc import Sequence

LOOKS = (5, 10, 20)  # seeds


def levels(looks: Sequence[int] = LOOKS, level: float = 0.05) -> tuple[float, ...]:
    """The level of every look, which add up to `level`: increments of O'Brien and Fleming's spending.

    α(t) = 2 − 2Φ(z / √t), t = seeds / most seeds, z the two-sided quantile of `level`.
    """
    ...
