"""Two runs image by image: how far apart they are on the same images, and how surely."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrexp.config.errors import UserError

if TYPE_CHECKING:
    import numpy as np


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

    The loss of an image is −ln of its class's score, or with several labels per image the mean
    binary cross-entropy over classes; it is right when the highest score is its label's, or when
    every score is on its label's side of 0.5. se = s / √n of the differences.

    Args:
        a: predictions.parquet of one run.
        b: of the other.
        split: whose images.

    Returns:
        Nothing when the two were not tested on the same images and labels.
    """
    import numpy as np

    first, second = _by_image(a, split), _by_image(b, split)
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


@dataclass(frozen=True)
class _Predicted:
    images: list[tuple[int, str]]  # id and item, sorted
    classes: str
    labels: np.ndarray  # (n,) or (n, classes)
    losses: np.ndarray  # (n,)
    right: np.ndarray  # (n,) 0 or 1


def _by_image(file: Path, split: str) -> _Predicted | None:
    """What a run says about the images of a split; None when it says nothing of it."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
        of_split = table.filter(np.array(table["split"].to_pylist()) == split).sort_by("id")
        labels = np.array(of_split["label"].to_pylist())
        scores = np.array(of_split["scores"].to_pylist(), dtype=np.float64)
        images = list(zip(of_split["id"].to_pylist(), of_split["item"].to_pylist(), strict=True))
        if not images:
            return None
        losses, right = _judged(labels, scores)
        classes = (table.schema.metadata or {}).get(b"class_names", b"").decode()
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return _Predicted(images, classes, labels, losses, right.astype(np.float64))


def _judged(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every image, and whether it is right, (n,) each.

    Args:
        labels: (n,), or (n, classes) 0 and 1.
        scores: (n, classes).
    """
    import numpy as np

    least = float(np.finfo(np.float32).tiny)  # scores are float32: a smaller one is stored as 0
    if labels.ndim == 2:
        of_label = np.where(labels == 1, scores, 1 - scores)
        losses = -np.log(np.maximum(of_label, least)).mean(1)
        return losses, ((scores > 0.5) == (labels == 1)).all(1)
    if labels.min() < 0:
        raise ValueError(f"label {labels.min()}")
    losses = -np.log(np.maximum(scores[np.arange(len(labels)), labels], least))
    return losses, scores.argmax(1) == labels
