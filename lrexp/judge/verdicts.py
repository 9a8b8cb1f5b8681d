"""Findings about a whole run, with what they rest on and what to do about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def verdicts(frozen_random: Sequence[str], diverged_in: int | None) -> list[dict[str, Any]]:
    """What summary.json lists as verdicts: kind, severity, message, evidence, advice.

    Args:
        frozen_random: tensors that never train and were never loaded from weights.
        diverged_in: the epoch after which a loss was no finite number, if there is one.
    """
    found: list[dict[str, Any]] = []
    if frozen_random:
        found.append(
            {
                "kind": "frozen_random",
                "severity": "warning",
                "message": "frozen tensors were never loaded from weights: random features",
                "evidence": {"tensors": frozen_random},
                "advice": "load a pretrained network with model.weights, or train everything",
            }
        )
    if diverged_in is not None:
        found.append(
            {
                "kind": "diverged",
                "severity": "error",
                "message": "the loss is no longer a finite number",
                "evidence": {"epoch": diverged_in},
                "advice": "lower optimizer.lr or set scheduler.warmup",
            }
        )
    return found
