"""What a run trains: everything it needs, built and on its device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrexp.data.dataset import Dataset
from lrexp.models.layer_map import LayerMap
from lrexp.optim.schedulers.plateau import Plateau
from lrexp.plan.plan import Plan
from lrexp.train.computing import PLAIN, Computing

Loss = Callable[[Tensor, Tensor], Tensor]  # (B, classes) logits and labels → scalar


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
