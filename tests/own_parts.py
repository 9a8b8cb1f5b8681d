"""Parts of a user's own, as tests name them: a module that LREXP_ALLOW_TARGETS may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrexp.models.layer_map import LayerMap
from lrexp.plan.plan import Plan, Treatment, make_plan

NUMBER = 3


def stripes(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (count, 8, 8)).astype(np.uint8)
    labels = np.arange(count) % 2
    images[labels == 0, ::3] += 100
    images[labels == 1, :, ::3] += 100
    return images, labels


def slower(layers: LayerMap, factor: float = 0.5) -> list[float]:
    return [factor ** (layers.depth - 1 - i) for i in range(layers.depth)]


def says(layers: LayerMap, what: str, base_lr: float) -> Any:
    """What a policy may and may not return."""
    names = layers.layer_names
    kept = [parameter for parameter in layers.parameters if not parameter.head]
    return {
        "names": {"backbone": 0.1, names[1]: 0.5},
        "frozen": [0, 1, 1],
        "rules": [{"layers": "backbone", "lr": base_lr / 4}],
        "plan": make_plan(layers, lambda p: Treatment(0.5, 0.0)),
        "part": Plan(make_plan(LayerMap(tuple(kept)), lambda p: Treatment(0.5, 0.0)).rows),
        "few": [1.0],
        "unknown": {"convolution": 1.0},
        "negative": [1, -1, 1],
        "text": ["slow", "fast", "fast"],
        "nothing": None,
        "rule": [{"layer": "backbone", "scale": 1}],
        "empty rule": [{"layers": "backbone"}],
    }[what]


def halves(step: int, total_steps: int, times: int = 2) -> float:
    return 0.5 ** (step * times // total_steps)


def falls_below(step: int) -> float:
    return 1.0 - step


def focal(logits: Tensor, labels: Tensor, gamma: float = 2.0) -> Tensor:
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (1 - torch.exp(-losses)) ** gamma * losses


def mean_of_focal(logits: Tensor, labels: Tensor) -> Tensor:
    return focal(logits, labels).mean()


def sum_of_focal(logits: Tensor, labels: Tensor) -> Tensor:
    return focal(logits, labels).sum()


def of_values(logits: Tensor, labels: Tensor) -> Tensor:
    """What no stack can do: it looks at a value."""
    return focal(logits, labels, gamma=2.0 if float(logits.detach().sum()) > 0 else 1.0)


class Weighed(nn.Module):
    """A loss with something to learn, which nobody would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.weight * focal(logits, labels)


class Margin(nn.Module):
    def __init__(self, num_classes: int, margin: float = 1.0):
        super().__init__()
        self.loss = nn.MultiMarginLoss(margin=margin, weight=torch.ones(num_classes))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self.loss(logits, labels)


def by_class(logits: Tensor, labels: Tensor) -> Tensor:
    return F.log_softmax(logits, 1)


def detached(logits: Tensor, labels: Tensor) -> Tensor:
    return focal(logits, labels).detach()


def brier(scores: np.ndarray, labels: np.ndarray) -> float:
    return ((scores - np.eye(scores.shape[1])[labels]) ** 2).sum(1).mean()


def right(scores: np.ndarray, labels: np.ndarray, at_least: float = 0.0) -> float:
    return float(np.mean((scores.argmax(1) == labels) & (scores.max(1) >= at_least)))


def fails(scores: np.ndarray, labels: np.ndarray) -> float:
    raise RuntimeError("no such thing")


def nested(scores: np.ndarray, labels: np.ndarray) -> Sequence[float]:
    return [0.0, 1.0]
