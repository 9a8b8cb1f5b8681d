"""Scales of rates that a measured policy sets before every epoch, from gradients over weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain, islice

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


def measure_scales(
    experiment: Experiment, seed: int, epoch: int, batch_size: int, accumulate: int
) -> None:
    """Set anew the lr_scale of every group whose plan says that it is measured, before an epoch.

    Of gradients of as many images as a step takes: `accumulate` batches of at most `batch_size`.
    """
    plan, train = experiment.plan, experiment.dataset.train
    order = draws.order(seed, "measure", train.ids, epoch)
    taken = draws.cut(order, batch_size * accumulate)[:MEASURED_BATCHES]
    groups = [draws.cut(rows, batch_size) for rows in taken]
    fed = train.batches([*chain.from_iterable(groups)])
    steps = ((experiment.loss_of(group), islice(fed, len(group))) for group in groups)
    forward = experiment.computing.unscaled.forward(experiment.model)
    ratios = relative_gradient_norms(experiment.model, steps, plan.measured, forward)
    scales = measured_scales(ratios)
    for name, group in measured_groups(experiment.optimizer, plan).items():
        group["lr_scale"] = scales[plan.groups[name][0].measured]


def relative_gradient_norms(
    model: nn.Module,
    steps: Iterable[tuple[Callable[[Tensor, Tensor], Tensor], Iterable[tuple[Tensor, Tensor]]]],
    units: Mapping[str, list[str]],
    forward: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Mean over steps of ‖g‖ / ‖w‖ for every unit, all its tensors taken as one vector.

    Measured in eval mode, so that neither dropout nor BatchNorm statistics take part; weights,
    gradients and buffers stay as they are. Infinite where weights are 0 and gradients are not.

    Args:
        model: the network.
        steps: of each its loss, (B, classes) logits and (B,) labels → scalar, and its batches of
            (B, C, H, W) images and (B,) labels, whose losses add up.
        units: names of the parameters that are measured together, all of which train.
        forward: computes the network; None: as it is.
    """
    model.eval()
    tensors = dict(model.named_parameters())
    measured = [tensors[name] for names in units.values() for name in names]
    kept = [weight.grad for weight in measured]
    ends = np.cumsum([len(names) for names in units.values()])[:-1]
    ratios = []
    for loss, batches in steps:
        for i, (images, labels) in enumerate(batches):
            gradients(forward or model, loss, images, labels, measured, add=i > 0)
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
    norms = torch._foreach_norm(tensors)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(norms)  # to the bit those of vector_norm of each on the CPU
