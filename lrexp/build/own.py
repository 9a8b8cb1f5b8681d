"""What decides and measures how good a network is, by functions of the user's own."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.parts import called, metric_target, number_of, part, taken_of
from lrexp.config.schema import Config
from lrexp.data.dataset import Dataset
from lrexp.train.experiment import Loss, Metrics

TRIED = 8  # images that a loss is tried with


def custom_loss(
    dataset: Dataset,
    device: torch.device,
    *,
    name: str,
    target: str,
    args: dict[str, Any],
    several: bool,
) -> Loss:
    """The loss that the function or class `target` is.

    Args:
        dataset: whose labels it is for.
        device: of the logits.
        name: what messages call it.
        target: dotted name of a function of (logits, labels, args), or of a subclass of nn.Module
            that is made with args and called with (logits, labels).
        args: further arguments, by name.
        several: it is for images that may have several labels.

    Raises:
        ConfigError: when it cannot be had, or does not give one number per image, or their mean,
            with a slope.
    """
    key = "loss.target"
    found = part(key, target)
    if inspect.isclass(found):
        found = called(key, target, found, {"num_classes": len(dataset.class_names)}, args)
        if not isinstance(found, nn.Module):
            raise ConfigError(key, "is no subclass of torch.nn.Module", given=target)
    elif not isinstance(found, nn.Module):
        taken_of(key, target, found, {}, args)
        found = partial(found, **args) if args else found
    if isinstance(found, nn.Module):
        if any(True for _ in found.parameters()):
            problem = "has parameters of its own, which nothing here would train"
            raise ConfigError(key, problem, "make them part of the network", target)
        found.to(device)
    loss = OwnLoss(found)
    _try(key, target, loss, dataset, device)
    return loss


@dataclass(frozen=True)
class OwnLoss:
    """The user's, of logits of any floating-point type: per image, or the mean over images."""

    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over images, ()."""
        return self.function(logits, labels).mean()

    def normaliser(self, labels: Tensor) -> float:
        """Images."""
        return len(labels)

    def over(self, normaliser: float | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The sum over images, divided by a normaliser of more images."""

        def share(logits: Tensor, labels: Tensor) -> Tensor:
            return self.function(logits, labels).mean() * (len(labels) / normaliser)

        return share


def _try(key: str, target: str, loss: OwnLoss, dataset: Dataset, device: torch.device) -> None:
    """Call a loss once, so that what it cannot do is known before training."""
    labels = dataset.train.labels[:TRIED]
    shape = len(labels), len(dataset.class_names)
    logits = torch.zeros(shape, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # training will show them
            given = loss.function(logits, labels)
    except UserError:
        raise
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        of_labels = "×".join(map(str, labels.shape))
        hint = f"it was called with logits {shape[0]}×{shape[1]} and labels {of_labels}"
        hint += f" of {str(labels.dtype).removeprefix('torch.')}"
        raise ConfigError(key, f"raised {said}", hint, target) from error
    given_shape = tuple(given.shape) if isinstance(given, Tensor) else None
    if given_shape not in ((), (len(labels),)):
        what = type(given).__name__ if given_shape is None else f"a tensor {given_shape}"
        problem = f"gave {what} for {len(labels)} images"
        hint = f"it gives a loss per image, ({len(labels)},), or their mean, ()"
        raise ConfigError(key, problem, hint, target)
    if not given.ndim and _doubles(loss, logits, labels, given):
        problem = "gives the sum over images, which goes with the batch size"
        hint = "give their mean, or a loss per image (of torch's with reduction='none')"
        raise ConfigError(key, problem, hint, target)
    if not given.requires_grad:
        raise ConfigError(
            key, "does not depend on the logits: nothing would be learned", "", target
        )


def _doubles(loss: OwnLoss, logits: Tensor, labels: Tensor, given: Tensor) -> bool:
    """Whether a loss that is one number is twice as much when every image is there twice."""
    value: float = float(given.detach().real)
    twice: Any = None
    with warnings.catch_warnings(), torch.no_grad(), suppress(Exception):
        warnings.simplefilter("ignore")
        twice = loss.function(torch.cat([logits, logits]), torch.cat([labels, labels]))
    known = isinstance(twice, Tensor) and value != 0 and math.isfinite(value)
    return known and math.isclose(float(twice.real), 2 * value, rel_tol=1e-3)


def build_metrics(config: Config, dataset: Dataset) -> Metrics:
    """The metrics of trainer.metrics, by name.

    Each is tried on the labels of val with the same score for every class, so that what it cannot
    do is known before training.

    Raises:
        ConfigError: when one cannot be had, raises, or gives no number.
    """
    found: dict[str, Any] = {}
    for name, metric in config.trainer.metrics.items():
        key = f"trainer.metrics.{name}"
        target, args = metric_target(name, metric)
        function = part(key, target)
        taken_of(key, target, function, {}, args)
        found[name] = partial(_measured, key, target, partial(function, **args))
        labels = dataset.val.labels.cpu().numpy()
        classes = len(dataset.class_names)
        share = 0.5 if labels.ndim == 2 else 1 / classes
        found[name](np.full((len(labels), classes), share), labels)
    return found


def _measured(
    key: str, target: str, function: Callable[..., Any], scores: np.ndarray, labels: np.ndarray
) -> float:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class that no image is of, epoch after epoch
            value = function(scores.copy(), labels.copy())  # it may write to them
    except Exception as error:  # the user's code runs here
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        shapes = (f"{'×'.join(map(str, array.shape))}" for array in (scores, labels))
        hint = "it was called with scores {} and labels {}".format(*shapes)
        raise ConfigError(key, f"raised {said}", hint, target) from error
    return number_of(key, target, value)
