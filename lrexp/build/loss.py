"""The configured loss, and which metrics there are with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrexp.config.errors import ConfigError
from lrexp.config.parts import own_monitors
from lrexp.config.schema import (
    MONITORS,
    TOP5_CLASSES,
    Config,
    chosen_option,
    load,
    option_of,
    settings_of,
    several_labels,
)
from lrexp.config.schema.training import CsvTable
from lrexp.data.dataset import Dataset
from lrexp.train.experiment import Loss
from lrexp.train.measure import widest


def build_loss(config: Config, dataset: Dataset, device: torch.device) -> Loss:
    """The loss as optimised: (B, classes) logits and labels → scalar.

    Labels are (B,) classes, or (B, classes) of 0 and 1 for a loss of several.

    Raises:
        ConfigError: when the loss is not for such labels, or weights do not fit the classes.
    """
    option, data = chosen_option("loss", config.loss), config.data
    several, is_for_several = dataset.train.labels.ndim == 2, several_labels(config.loss)
    own = option_of(vars(config.loss)) == "custom"
    if is_for_several and not several:
        problem = f"is for any number of labels per image, and data={data.name} has one"
        hint = "write loss.several=false" if own else "choose loss=cross_entropy"
        if isinstance(data, CsvTable):
            hint += ", or data.multi_label=true for labels such as cat|dog"
        raise ConfigError("loss", problem, hint, config.loss.name)
    if several and not is_for_several:
        problem = f"is for one label per image, and data={data.name} has several"
        hint = "write loss.several=true if it is for them" if own else "choose loss=bce"
        raise ConfigError("loss", problem, hint, config.loss.name)
    return load(option.make)(dataset, device, **settings_of(config.loss))


def bce(dataset: Dataset, device: torch.device, *, pos_weight: str | None) -> Loss:
    """The mean over images and classes; `balanced` weighs positives by negatives / positives."""
    weight = None
    if pos_weight == "balanced":
        positives = (dataset.train.labels > 0.5).sum(0).cpu().numpy()
        _refuse_empty("loss.pos_weight", positives, dataset, "has no training image")
        negatives = len(dataset.train) - positives
        _refuse_empty("loss.pos_weight", negatives, dataset, "is on every training image")
        weight = _weight(negatives / positives, device)
    return BinaryCrossEntropy(weight)


def cross_entropy(
    dataset: Dataset, device: torch.device, *, label_smoothing: float, class_weights: Any
) -> Loss:
    """torch's; `balanced` weighs class c by images / (classes × images of c)."""
    classes, weight = len(dataset.class_names), None
    if class_weights == "balanced":
        counts = np.bincount(dataset.train.labels.cpu().numpy(), minlength=classes)
        _refuse_empty("loss.class_weights", counts, dataset, "has no training image")
        weight = _weight(counts.sum() / (classes * counts), device)
    elif class_weights is not None:
        if len(class_weights) != classes:
            problem = f"has {len(class_weights)} numbers for {classes} classes"
            raise ConfigError("loss.class_weights", problem, given=class_weights)
        weight = _weight(class_weights, device)
    return CrossEntropy(weight, label_smoothing)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """torch's, of logits of any floating-point type.

    Args:
        weight: (classes,) of positives, 1 for all when None.
    """

    weight: Tensor | None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean over images and classes, ()."""
        return self._torchs(logits, labels, "mean")

    def normaliser(self, labels: Tensor) -> float:
        """Images × classes."""
        return labels.numel()

    def over(self, normaliser: float | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The sum, divided by a normaliser of more images."""
        return lambda logits, labels: self._torchs(logits, labels, "sum") / normaliser

    def _torchs(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        return F.binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), pos_weight=weight, reduction=reduction
        )


@dataclass(frozen=True)
class CrossEntropy:
    """torch's, of logits of any floating-point type.

    Args:
        weight: (classes,), 1 for all when None.
        smoothing: of labels.
    """

    weight: Tensor | None
    smoothing: float

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """torch's to the bit, the sum over the weights of the labels, ().

        torch's own takes the weights of a smoothed loss in a way that members of a stack cannot
        take.
        """
        weight, smoothing = self._weight(logits), self.smoothing
        if weight is None or not smoothing:
            return F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
        logs = F.log_softmax(logits, 1)
        spread = -(logs * weight).sum(1)  # (B,) over all classes, times the number of classes
        spread = spread.sum() / weight[labels].sum()
        hard, share = F.nll_loss(logs, labels, weight), smoothing / logits.shape[1]
        return (1 - smoothing) * hard + spread * share

    def normaliser(self, labels: Tensor) -> float | Tensor:
        """Images, or the weights () of their classes in all."""
        if self.weight is None:
            return len(labels)
        return self.weight.to(widest(labels.device))[labels].sum()

    def over(self, normaliser: float | Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The sum, divided by a normaliser of more images."""

        def share(logits: Tensor, labels: Tensor) -> Tensor:
            own = {"reduction": "sum", "label_smoothing": self.smoothing}
            return F.cross_entropy(logits, labels, self._weight(logits), **own) / normaliser

        return share

    def _weight(self, logits: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight.to(logits.dtype)


def _refuse_empty(key: str, counts: np.ndarray, dataset: Dataset, problem: str) -> None:
    """Refuse to balance classes when one of them has a count of 0."""
    if not counts.all():
        name = dataset.class_names[int(np.argmin(counts))]
        raise ConfigError(key, f"class {name} {problem}", given="balanced")


def _weight(values: Any, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def check_monitors(config: Config, classes: int) -> None:
    """Refuse to follow a metric that this data or this loss does not have."""
    absent = {}
    if several_labels(config.loss):
        absent["top5_accuracy"] = "is measured where every image has one label, not with loss=bce"
    else:
        absent["label_accuracy"] = "is measured where images have several labels, with loss=bce"
        if classes < TOP5_CLASSES:
            problem = f"is measured from {TOP5_CLASSES} classes up, and there are {classes}"
            absent["top5_accuracy"] = problem
    known = (*MONITORS, *own_monitors(config.trainer.metrics))
    there = [monitor for monitor in known if monitor.split("/")[1] not in absent]
    for group in ("trainer", "scheduler"):
        monitor = getattr(getattr(config, group), "monitor", None)
        if monitor is not None and monitor not in there:
            problem, hint = absent[monitor.split("/")[1]], f"here: {', '.join(sorted(there))}"
            raise ConfigError(f"{group}.monitor", problem, hint, monitor)
