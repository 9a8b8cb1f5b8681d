"""What a run trains: everything it needs, built and on its device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.data.dataset import Dataset
from lrexp.data.feeding import placed
from lrexp.models.layer_map import LayerMap
from lrexp.optim.schedulers.plateau import Plateau
from lrexp.plan.plan import Plan
from lrexp.train.computing import PLAIN, Computing


class Loss(Protocol):
    """(B, classes) logits and labels → the loss as optimised, a mean in the sense of the loss."""

    def __call__(self, logits: Tensor, labels: Tensor, /) -> Tensor: ...

    def normaliser(self, labels: Tensor) -> float | Tensor:
        """What the mean divides by: how much these labels count in all."""
        ...

    def over(self, normaliser: float | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The sum of some of the images, divided by the normaliser of all that make a step."""
        ...


# Scores (n, classes) in [0, 1] and labels of a split → how good they are, by a metric of the
# user's own.
Metric = Callable[[np.ndarray, np.ndarray], float]
Metrics = Mapping[str, Metric]  # by name
NO_METRICS: Metrics = {}


@dataclass(frozen=True)
class Experiment:
    """Everything a run needs, built and placed on its device."""

    device: torch.device
    dataset: Dataset
    model: nn.Module
    layers: LayerMap
    plan: Plan
    optimizer: Optimizer
    base_lr: float
    schedule: list[float]  # s(t) for every step t
    steps_per_epoch: int
    loss: Loss
    weights_fingerprint: str | None  # of the file the model was loaded from
    momenta: list[float] = field(default_factory=list)  # m(t), empty when momentum stays put
    plateau: Plateau | None = None  # its own s comes on top of the schedule's
    # parameters around each module without any (dropout), where the plan freezes some
    beside: Mapping[str, frozenset[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # what is odd about plan and schedule
    computing: Computing = PLAIN
    metrics: Metrics = field(default_factory=dict)  # of the user's own
    # Whether the network is the user's own: it may draw from Python's and numpy's generators, and
    # hold tensors that require gradients and are no parameters. No library's network does.
    own_network: bool = True

    def loss_of(self, group: Sequence[np.ndarray]) -> Callable[[Tensor, Tensor], Tensor]:
        """What each batch of a step adds to the step's loss: that loss where there is but one.

        Args:
            group: (B,) positions in the training split of each of its batches.
        """
        return self.loss if len(group) == 1 else self.loss.over(self.normaliser_of(group))

    def normaliser_of(self, group: Sequence[np.ndarray]) -> float | Tensor:
        """What the loss of a step divides by, of all its batches."""
        labels = self.dataset.train.labels
        rows = placed(np.concatenate(group), labels.device)
        return self.loss.normaliser(labels[rows])
