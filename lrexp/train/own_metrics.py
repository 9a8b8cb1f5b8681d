"""Metrics of the user's own, which see the scores of all images of a split at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lrexp.judge.evaluate import Evaluation
from lrexp.train.experiment import Metrics
from lrexp.train.ranks import ALONE, Ranks


class Kept:
    """Batches of logits (K, B, classes) and labels, whose scores are kept where they are wanted.

    Args:
        batches: to pass on, once.
        metrics: that want them; with none nothing is kept.
    """

    def __init__(self, batches: Iterable[tuple[Tensor, Tensor]], metrics: Metrics):
        self._batches, self._metrics = batches, metrics
        self._scores: list[np.ndarray] = []  # each (K, B, classes)
        self._labels: list[np.ndarray] = []

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for logits, labels in self._batches:
            if self._metrics:
                self._scores.append(scores_of(logits, labels))
                self._labels.append(labels.cpu().numpy())
            yield logits, labels

    def measured(self, found: list[Evaluation], ranks: Ranks = ALONE) -> list[Evaluation]:
        """The evaluations of the K networks, those of all ranks' images, with the metrics."""
        if not self._metrics:
            return found
        parts = ranks.gathered((self._scores, self._labels))
        scores = np.concatenate([one for of_rank, _ in parts for one in of_rank], axis=1)
        labels = np.concatenate([one for _, of_rank in parts for one in of_rank])
        return [
            replace(
                one, own={name: measure(own, labels) for name, measure in self._metrics.items()}
            )
            for one, own in zip(found, scores, strict=True)
        ]


def scores_of(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Float64 in [0, 1] of logits (..., classes): softmax, or a sigmoid each of several labels."""
    logits = logits.detach().to("cpu", torch.float64)
    several = labels.is_floating_point()
    return (torch.sigmoid(logits) if several else torch.softmax(logits, -1)).numpy()
