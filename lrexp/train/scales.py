"""Scales of rates that a measured policy sets before every epoch, from gradients over weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.data import draws
from lrexp.optim.groups import measured_groups
from lrexp.train.experiment import Experiment
from lrexp.train.step import gradients

MEASURED_BATCHES = 5  # at most


def scales_of(experiment: Experiment) -> dict[str, float]:
    """The lr_scale of the groups whose plan says that it is measured."""
    groups = measured_groups(experiment.optimizer, experiment.plan)
    return {name: group["lr_scale"] for name, group in groups.items()}


def set_scales(experiment: Experiment, scales: Mapping[str, float]) -> None:
    """Give measured groups their lr_scale, by name."""
    for name, group in measured_groups(experiment.optimizer, experiment.plan).items():
        group["lr_scale"] = scales[name]


def measure_scales(experiment: Experiment, seed: int, epoch: int, batch_size: int) -> None:
    """Set anew the lr_scale of every group whose plan says that it is measured, before an epoch."""
    model, loss, plan = experiment.model, experiment.loss, experiment.plan
    train = experiment.dataset.train
    order = draws.order(seed, "measure", train.ids, epoch)
    batches = train.batches(draws.cut(order, batch_size)[:MEASURED_BATCHES])
    scales = measured_scales(relative_gradient_norms(model, loss, batches, plan.measured))
    for name, group in measured_groups(experiment.optimizer, plan).items():
        group["lr_scale"] = scales[plan.groups[name][0].measured]


def relative_gradient_norms(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterable[tuple[Tensor, Tensor]],
    units: Mapping[str, list[str]],
) -> dict[str, float]:
    """Mean over batches of ‖g‖ / ‖w‖ for every unit, all its tensors taken as one vector.

    Measured in eval mode, so that neither dropout nor BatchNorm statistics take part; weights,
    gradients and buffers stay as they are. Infinite where weights are 0 and gradients are not.

    Args:
        model: the network.
        loss: (B, classes) logits and (B,) labels → scalar.
        batches: of (B, C, H, W) images and (B,) labels.
        units: names of the parameters that are measured together, all of which train.
    """
    model.eval()
    tensors = dict(model.named_parameters())
    measured = [tensors[name] for names in units.values() for name in names]
    kept = [weight.grad for weight in measured]
    ends = np.cumsum([len(names) for names in units.values()])[:-1]
    ratios = []
    for images, labels in batches:
        gradients(model, loss, images, labels, measured)
        found = [torch.zeros_like(w) if w.grad is None else w.grad for w in measured]
        both = torch.stack([norms_of(found), norms_of([w.detach() for w in measured])])
        norms = both.cpu().double().numpy()  # (2, tensors)
        squares = [part.sum(axis=1) for part in np.split(norms**2, ends, axis=1)]  # each (2,)
        ratios.append([ratio(math.sqrt(g), math.sqrt(w)) for g, w in squares])
    for weight, gradient in zip(measured, kept, strict=True):
        weight.grad = gradient
    return dict(zip(units, np.mean(ratios, axis=0).tolist(), strict=True))


def measured_scales(ratios: Mapping[str, float]) -> dict[str, float]:
    """Each ratio divided by the largest finite one, which becomes 1.

    A ratio that is not finite (weights that are all 0) gets 1 too: nothing should move more. When
    no finite ratio is above 0, every scale is 1.
    """
    largest = max((r for r in ratios.values() if math.isfinite(r)), default=0.0)
    return {
        unit: ratio / largest if largest > 0 and math.isfinite(ratio) else 1.0
        for unit, ratio in ratios.items()
    }


def ratio(change: float, size: float) -> float:
    """The quotient; of a size of 0 it is infinite, but 0 where nothing changes."""
    return change / size if size else math.inf if change else 0.0


def norms_of(tensors: list[Tensor]) -> Tensor:
    """(tensors,) Euclidean norms."""
    return torch.stack([torch.linalg.vector_norm(t) for t in tensors])
