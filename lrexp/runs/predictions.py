"""predictions.parquet read back: what the best weights say about the images of a split.

Also how far apart two runs are on the same images, and how surely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrexp.config.errors import UserError
from lrexp.runs.reading import plain_file

if TYPE_CHECKING:
    import numpy as np


MOST_SCORES, MOST_IMAGES, MOST_BYTES = 200_000_000, 5_000_000, 2**31  # unpacked


@dataclass(frozen=True)
class Predictions:
    """Of the n images of a split."""

    images: list[tuple[int, str]]  # id and item, sorted
    classes: str  # names, as JSON
    labels: np.ndarray  # (n,) or (n, classes)
    losses: np.ndarray  # (n,)
    right: np.ndarray  # (n,) 0 or 1
    groups: np.ndarray | None = None  # (n,) int64 of data.group_by; None: not set, or not written


def read_predictions(file: Path, split: str, most_scores: int | None = None) -> Predictions | None:
    """The labels of a split's images, and loss and correctness of what was predicted.

    The loss of an image is −ln of its class's score, or with several labels per image the mean
    binary cross-entropy over classes; it is right when the highest score is its label's, or when
    every score is on its label's side of 0.5.

    Args:
        file: predictions.parquet.
        split: whose images.
        most_scores: a file with more of them is left unread.

    Returns:
        None when there is no such file, it is left unread, or it says nothing of the split.

    Raises:
        UserError: when it cannot be read.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        plain_file(file)
        with pq.ParquetFile(file) as stored:
            if most_scores is not None and _scores_in(stored.metadata) > most_scores:
                return None
            groups = [stored.metadata.row_group(i) for i in range(stored.metadata.num_row_groups)]
            if (
                _scores_in(stored.metadata) > MOST_SCORES
                or stored.metadata.num_rows > MOST_IMAGES
                or sum(group.total_byte_size for group in groups) > MOST_BYTES
            ):
                raise ValueError("it holds more than the scores of any data set here")
            table = stored.read()
        chosen = table.filter(np.array(table["split"].to_pylist()) == split).sort_by("id")
        images = list(zip(chosen["id"].to_pylist(), chosen["item"].to_pylist(), strict=True))
        if not images:
            return None
        labels = np.array(chosen["label"].to_pylist())
        if "scores" in chosen.column_names:
            scores = chosen["scores"].combine_chunks().flatten().to_numpy()
            losses, right = judged(labels, scores.reshape(len(images), -1).astype(np.float64))
        else:  # trainer.predictions wrote what it is compared by alone
            losses, right = _said(chosen)
        groups = _groups(chosen)
        classes = (table.schema.metadata or {}).get(b"class_names", b"").decode()
    except FileNotFoundError:
        return None
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    return Predictions(images, classes, labels, losses, right.astype(np.float64), groups)


def _said(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Columns `loss` and `right`, (n,) each; a ValueError where a value is missing."""
    import numpy as np
    import pyarrow as pa

    columns = table["loss"].cast(pa.float64()), table["right"].cast(pa.bool_())
    if any(column.null_count for column in columns):
        raise ValueError("an image without loss or correctness")
    losses, right = (np.array(column.to_pylist()) for column in columns)
    return losses, right


def _groups(table: Any) -> np.ndarray | None:
    """(n,) int64; None where there is no such column, or images without a group in it."""
    if "group" not in table.column_names or table["group"].null_count:
        return None
    import numpy as np

    return np.array(table["group"].to_pylist(), dtype=np.int64)


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


def paired_differences(a: Path, b: Path) -> list[PairedDifference]:
    """Loss and accuracy of the best weights of two runs over the images of val.

    What they are is said by `read_predictions`; se = s / √n of the differences.

    Args:
        a: predictions.parquet of one run.
        b: of the other.

    Returns:
        Nothing when the two were not tested on the same images and labels.
    """
    first, second = read_predictions(a, "val"), read_predictions(b, "val")
    if first is None or second is None or first.classes != second.classes:
        return []
    if first.images != second.images or first.labels.tolist() != second.labels.tolist():
        return []
    n, found = len(first.images), []
    for metric, difference in (
        ("val/loss", second.losses - first.losses),
        ("val/accuracy", second.right - first.right),
    ):
        se = float(difference.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        found.append(PairedDifference(metric, n, float(difference.mean()), se))
    return found


def _scores_in(metadata: Any) -> int:
    """How many scores a file holds, without reading them; they are its last column."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    return sum(group.column(group.num_columns - 1).num_values for group in groups)


def judged(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
