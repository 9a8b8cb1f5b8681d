"""What made the first numbers of a run not finite, before anything was updated.

A loss that stops being finite later is a divergence, which a lower rate helps against. Before the
first update no rate had a say.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.config.errors import few
from lrexp.data.dataset import Dataset, Split
from lrexp.judge.evaluate import Evaluation
from lrexp.train.experiment import Experiment

NO_RATE = "nothing was updated yet: no learning rate is the cause"
SHOWN = 256  # images that are looked at again


@torch.no_grad()
def unfit_tensors(model: nn.Module) -> list[str]:
    """Names of parameters that hold NaN or infinity, and of buffers in eval mode that hold NaN.

    A buffer may well be infinite: masks of attention are. In training mode it is not used, and a
    forward pass may have moved it.
    """
    found = {name: p.isfinite().all() for name, p in model.named_parameters()}
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if not module.training:
                found[name] = ~buffer.isnan().any()
    fit = torch.stack(list(found.values())).tolist() if found else []  # waits once
    return [name for name, good in zip(found, fit, strict=True) if not good]


def fault_of_step(
    experiment: Experiment,
    rows: np.ndarray,
    images: Tensor,
    logits: Tensor,
    loss: Tensor,
    gradients: Mapping[str, Tensor],
) -> str:
    """What is not finite in a step that has not updated anything; empty when all of it is.

    Args:
        experiment: whose step it is.
        rows: (B,) positions in the training split.
        images: (B, C, H, W) as the network sees them.
        logits: (B, classes).
        loss: ().
        gradients: of the loss, by name of the parameter.
    """
    finite = [loss.isfinite(), *(gradient.isfinite().all() for gradient in gradients.values())]
    of_loss, *of_gradients = torch.stack(finite).tolist()  # waits once
    if of_loss and all(of_gradients):
        return ""
    data = experiment.dataset
    if said := _of_inputs(data, data.train, rows, images, unfit_tensors(experiment.model)):
        return said
    if not logits.isfinite().all():
        return _overflow(experiment.model)
    if not of_loss:
        size = float(logits.abs().max())
        return (
            f"the loss is {float(loss)}, of images, weights and outputs that are finite (outputs up"
            f" to {size:.3g})\n  {NO_RATE}; see the settings of loss"
        )
    bad = [name for name, finite in zip(gradients, of_gradients, strict=True) if not finite]
    return (
        f"the loss is finite, its gradient is not ({few(bad, 3)})\n  {NO_RATE}: an operation of the"
        " network has no finite slope there, or overflows"
    )


def fault_of_evaluation(
    experiment: Experiment, trained: bool, train_eval: Evaluation, val: Evaluation
) -> str:
    """What made the first evaluation not finite; empty when it is, or training may be the cause.

    Args:
        experiment: that was evaluated.
        trained: whether there were steps, the first of which was finite. Then training made what is
            not finite, but for statistics of BatchNorm that are NaN beside finite parameters.
        train_eval: what was made of the training subset.
        val: likewise of validation.
    """
    data = experiment.dataset
    for split, found in ((data.train_eval, train_eval), (data.val, val)):
        if not (bad := np.flatnonzero(~np.isfinite(found.losses))[:SHOWN]).size:
            continue
        images, _ = next(split.batches([bad]))
        unfit = unfit_tensors(experiment.model)
        if trained and {*unfit} & {name for name, _ in experiment.model.named_parameters()}:
            return ""
        said = _of_inputs(data, split, bad, images, unfit)
        return said or ("" if trained else _overflow(experiment.model))
    return ""


def _of_inputs(
    dataset: Dataset, split: Split, rows: np.ndarray, images: Tensor, unfit: list[str]
) -> str:
    """Which images or weights are not finite."""
    fit = images.flatten(1).isfinite().all(1).cpu().numpy()
    if not fit.all():
        first = split.name(int(split.ids[rows[~fit][0]]))
        mean, std = (", ".join(f"{x:.6g}" for x in of) for of in (dataset.mean, dataset.std))
        return (
            f"{np.count_nonzero(~fit)} of {len(fit)} images are not finite numbers once they are"
            f" normalised (mean {mean}, std {std}), the first is {first}\n  {NO_RATE}; see"
            " data.normalize"
        )
    if unfit:
        return (
            f"weights are not finite numbers before training: {few(unfit, 3)}\n  {NO_RATE}; see"
            " what the network was loaded from, or how it is initialised"
        )
    return ""


def _overflow(model: nn.Module) -> str:
    """That a network of finite weights has no finite output."""
    peaks = {name: float(p.detach().abs().max()) for name, p in model.named_parameters()}
    name = max(peaks, key=peaks.__getitem__)
    return (
        "the network's output is not finite, of images and weights that are: it overflows (its"
        f" largest weight is {peaks[name]:.3g}, in {name})\n  {NO_RATE}"
    )
