"""How good predictions are, image by image and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split, image by image and class by class."""

    losses: np.ndarray  # (n,) float64: plain, no smoothing, no class weights
    correct: np.ndarray  # (n,) float64: 1 where every label of the image is right
    actual: np.ndarray  # (classes,) int64: images of the class
    predicted: np.ndarray  # (classes,) int64: images that the model says are of it
    found: np.ndarray  # (classes,) int64: images of the class of which it says so
    top5: float | None = None  # share of images whose label is among the five largest logits
    multi_label: bool = False  # any number of labels per image, instead of exactly one
    own: Mapping[str, float] = field(default_factory=dict)  # by metrics of the user's own

    @classmethod
    def of_classes(
        cls,
        losses: np.ndarray,
        said: np.ndarray,
        labels: np.ndarray,
        classes: int,
        top5: float | None = None,
    ) -> Evaluation:
        """Of images with exactly one label.

        Args:
            losses: (n,) float.
            said: (n,) int, the predicted class.
            labels: (n,) int, the true one.
            classes: how many there are.
            top5: as below.
        """
        named = (labels, said, labels[said == labels])
        return cls(
            losses.astype(np.float64),
            (said == labels).astype(np.float64),
            *(np.bincount(of_class, minlength=classes) for of_class in named),
            top5=top5,
        )

    @property
    def loss(self) -> float:
        """Mean over images."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of images in [0, 1] with every label right: the subset accuracy of multi-label."""
        return float(self.correct.mean())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that this kind of data has, under the name it has in a row."""
        images = len(self.losses)
        found = {"loss": self.loss, "accuracy": self.accuracy}
        if self.multi_label:  # each label is a question with two answers
            found["label_accuracy"] = 1 - int(self._wrong.sum()) / (images * len(self.actual))
        found["balanced_accuracy"] = self.balanced_accuracy
        found["f1_macro"] = float(np.nanmean(self.f1))
        found |= {} if self.top5 is None else {"top5_accuracy": self.top5}
        return found | dict(self.own)

    @property
    def balanced_accuracy(self) -> float:
        """Mean over classes of the recall; of several labels, of recall and specificity."""
        recalls, images = self.recalls, len(self.losses)
        if self.multi_label:
            rejected = images - self.actual - self.predicted + self.found
            recalls = np.nanmean([recalls, _ratios(rejected, images - self.actual)], axis=0)
        return float(np.nanmean(recalls))

    @property
    def recalls(self) -> np.ndarray:
        """(classes,) found / actual; NaN for a class without images."""
        return _ratios(self.found, self.actual)

    @property
    def f1(self) -> np.ndarray:
        """(classes,) 2·found / (actual + predicted).

        For a class that neither the labels nor the predictions name it is undefined: NaN, and no
        part of the mean, where images have one label; 0, and part of it, in multi-label data. The
        means are those of scikit-learn's f1_score(average="macro") with its defaults.
        """
        scores = _ratios(2 * self.found, self.actual + self.predicted)
        return np.nan_to_num(scores) if self.multi_label else scores

    @property
    def _wrong(self) -> np.ndarray:
        """(classes,) images for which it is wrong whether they are of the class."""
        return self.actual + self.predicted - 2 * self.found


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


def confusion(labels: np.ndarray, said: np.ndarray, classes: int) -> np.ndarray:
    """(classes, classes) int64 counts of images: true classes as rows, predicted as columns.

    Args:
        labels: (n,) int, the true class of each image.
        said: (n,) int, the predicted one.
        classes: how many there are.
    """
    cells = np.bincount(labels * classes + said, minlength=classes**2)
    return cells.reshape(classes, classes)


def class_rows(evaluation: Evaluation, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class: its images and predictions, precision, recall, F1; None where undefined.

    Their means over classes, what is undefined left out, are `balanced_accuracy` (of the recalls,
    with one label per image) and `f1_macro`. Multi-label rows have the accuracy of the label too.
    """
    columns: dict[str, np.ndarray] = {
        "images": evaluation.actual,
        "predicted": evaluation.predicted,
        "precision": _ratios(evaluation.found, evaluation.predicted),
        "recall": evaluation.recalls,
        "f1": evaluation.f1,
    }
    if evaluation.multi_label:
        columns["accuracy"] = 1 - evaluation._wrong / len(evaluation.losses)
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"class": name} | {k: None if v != v else v for k, v in zip(columns, row, strict=True)}
        for name, row in zip(class_names, values, strict=True)
    ]


def worst_classes(
    evaluation: Evaluation,
    class_names: Sequence[str],
    confused: np.ndarray | None,
    limit: int = 3,
) -> list[dict[str, Any]]:
    """The classes with the lowest recall, those with an error alone; of equals the larger first.

    Args:
        evaluation: of a split.
        class_names: (classes,).
        confused: (classes, classes) images by true and predicted class, None for multi-label.
        limit: so many at most.

    Returns:
        Of each its `class`, `images`, how many are `found`, the recall, and, with one label per
        image, the class it is most often `taken_for` and how many `times`.
    """
    recalls = evaluation.recalls
    order = np.lexsort((-evaluation.actual, np.nan_to_num(recalls, nan=1.0)))
    rows = []
    for i in [i for i in order[:limit].tolist() if recalls[i] < 1]:
        row = {
            "class": class_names[i],
            "images": int(evaluation.actual[i]),
            "found": int(evaluation.found[i]),
            "recall": float(recalls[i]),
        }
        if confused is not None:
            others = confused[i].copy()
            others[i] = 0
            row |= {"taken_for": class_names[int(others.argmax())], "times": int(others.max())}
        rows.append(row)
    return rows
