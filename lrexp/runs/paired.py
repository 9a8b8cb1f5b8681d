"""Two runs image by image: how far apart they are on the same images, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lrexp.runs.predictions import read_predictions


@dataclass(frozen=True)
class PairedDifference:
    """B − A of the mean over the same images."""

    metric: str
    images: int
    mean: float
    se: float  # of the mean; NaN for one image

    @property
    def beyond_noise(self) -> bool:
        """Whether it is at least two standard errors from zero."""
        return abs(self.mean) >= 2 * self.se and self.mean != 0


def paired_differences(a: Path, b: Path, split: str = "val") -> list[PairedDifference]:
    """Loss and accuracy of the best weights of two runs over the images of a split.

    What they are is said by `read_predictions`; se = s / √n of the differences.

    Args:
        a: predictions.parquet of one run.
        b: of the other.
        split: whose images.

    Returns:
        Nothing when the two were not tested on the same images and labels.
    """
    import numpy as np

    first, second = read_predictions(a, split), read_predictions(b, split)
    if first is None or second is None or first.classes != second.classes:
        return []
    if first.images != second.images or not np.array_equal(first.labels, second.labels):
        return []
    n = len(first.images)
    found = []
    for metric, was, now in (
        (f"{split}/loss", first.losses, second.losses),
        (f"{split}/accuracy", first.right, second.right),
    ):
        difference = now - was
        se = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        found.append(PairedDifference(metric, n, float(difference.mean()), se))
    return found
