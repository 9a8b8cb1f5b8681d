"""Metrics: sums and counts, the gap, overfitting, drift and update ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrexp.data import Split
from lrexp.plan import Plan


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split, image by image."""

    losses: np.ndarray  # (n,) float64: plain cross-entropy, no smoothing, no class weights
    correct: np.ndarray  # (n,) float64: 1 where the largest logit is the label's

    @property
    def loss(self) -> float:
        """Mean over images."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of images in [0, 1]."""
        return float(self.correct.mean())


@torch.inference_mode()
def logits_of(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """(n, classes) float32 logits in eval mode, on the device of the split."""
    model.eval()
    batches = split.batches(np.arange(len(split)), batch_size)
    return torch.cat([model(images) for images, _ in batches])


@torch.inference_mode()
def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """Per-image loss and correctness of (n, classes) logits against (n,) labels."""
    losses = F.cross_entropy(logits, labels, reduction="none").cpu().numpy()
    correct = (logits.argmax(1) == labels).cpu().numpy()
    return Evaluation(losses.astype(np.float64), correct.astype(np.float64))


def gap(val: np.ndarray, train_eval: np.ndarray, train_size: int) -> tuple[float, float]:
    """The mean of validation minus the mean of the training subset, and its standard error.

    gap = mean(val) − mean(train_eval); se = √(s²_val / n_val + (1 − n_te / N) · s²_te / n_te), the
    second term shrinking because train_eval is drawn without replacement from N training images.

    Args:
        val: (n_val,) a value per validation image.
        train_eval: (n_te,) a value per image of the training subset.
        train_size: N.
    """
    with np.errstate(invalid="ignore"):  # an infinite loss has no variance: NaN
        variance_val = val.var(ddof=1) / len(val)
        sampled = 1 - len(train_eval) / train_size
        variance_train = sampled * train_eval.var(ddof=1) / len(train_eval)
        return float(val.mean() - train_eval.mean()), math.sqrt(variance_val + variance_train)


def paired_difference(now: np.ndarray, best: np.ndarray) -> tuple[float, float]:
    """mean(now − best) over the same images, and its standard error √(s² / n)."""
    with np.errstate(invalid="ignore"):
        difference = now - best
        return float(difference.mean()), math.sqrt(difference.var(ddof=1) / len(difference))


class RunningTrain:
    """Loss and accuracy over the batches of an epoch, as they were when each batch was trained on.

    Batches are kept as references and reduced in blocks, so that no step waits for the device.
    """

    BLOCK = 256

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._sums: list[Tensor] = []  # each (3,): loss × images, correct, images

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note one batch: its scalar loss, (B, classes) logits and (B,) labels."""
        self._batches.append((loss.detach(), logits.detach(), labels))
        if len(self._batches) == self.BLOCK:
            self._reduce()

    def means(self) -> tuple[float, float, int]:
        """Mean loss and accuracy per image, and the number of images."""
        self._reduce()
        loss, correct, images = torch.stack(self._sums).sum(0).tolist()
        return loss / images, correct / images, int(images)

    def _reduce(self) -> None:
        if not self._batches:
            return
        losses, logits, labels = zip(*self._batches, strict=True)
        double = torch.float32 if losses[0].device.type == "mps" else torch.float64
        sizes = torch.tensor([len(x) for x in labels], dtype=double, device=losses[0].device)
        loss = (torch.stack(losses).to(double) * sizes).sum()
        correct = (torch.cat(logits).argmax(1) == torch.cat(labels)).sum().to(double)
        self._sums.append(torch.stack([loss, correct, sizes.sum()]))
        self._batches.clear()


class StepStats:
    """Update ratio per group and gradient norm before clipping, measured at every k-th step.

    update_ratio = ‖Δw‖ / ‖w‖ of one step, per tensor with two or more dimensions; its value for an
    epoch is the median over the group's tensors and the epoch's measured steps. The gradient norm's
    is the median over the measured steps.
    """

    def __init__(self, model: nn.Module, plan: Plan):
        tensors = dict(model.named_parameters())
        wanted = [
            (group, tensors[row.name])
            for group, rows in plan.groups.items()
            for row in rows
            if len(row.shape) >= 2 and not row.frozen
        ]
        self._group_of = [group for group, _ in wanted]
        self._tensors = [tensor for _, tensor in wanted]
        self._ratios: list[Tensor] = []  # each (tensors,)
        self._grad_norms: list[Tensor] = []  # each ()

    @torch.no_grad()
    def before(self, trained: list[Tensor]) -> list[Tensor]:
        """Note the gradient norm of the parameters that train; returns copies of the weights."""
        gradients = [p.grad for p in trained if p.grad is not None]
        self._grad_norms.append(torch.linalg.vector_norm(_norms(gradients)))
        return [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def after(self, before: list[Tensor]) -> None:
        """Compare the weights with the copies taken before the step."""
        if not before:
            return
        steps = [now - was for now, was in zip(self._tensors, before, strict=True)]
        self._ratios.append(_norms(steps) / _norms(before))

    def medians(self) -> dict[str, float]:
        """`update_ratio/<group>` and `grad_norm` since the last call; nothing if never measured."""
        found: dict[str, float] = {}
        if self._ratios:
            of_group: dict[str, list[float]] = {}
            by_tensor = torch.stack(self._ratios, dim=1).tolist()  # (tensors, steps)
            for group, ratios in zip(self._group_of, by_tensor, strict=True):
                of_group.setdefault(group, []).extend(ratios)
            found = {f"update_ratio/{group}": _median(r) for group, r in of_group.items()}
        if self._grad_norms:
            found["grad_norm"] = _median(torch.stack(self._grad_norms).tolist())
        self._ratios, self._grad_norms = [], []
        return found


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
    ends = np.cumsum([len(names) for names in units.values()])[:-1]
    ratios = []
    for images, labels in batches:
        found = torch.autograd.grad(
            loss(model(images), labels), measured, allow_unused=True, materialize_grads=True
        )
        both = torch.stack([_norms(list(found)), _norms([w.detach() for w in measured])])
        norms = both.cpu().double().numpy()  # (2, tensors)
        squares = [part.sum(axis=1) for part in np.split(norms**2, ends, axis=1)]  # each (2,)
        ratios.append([_ratio(math.sqrt(g), math.sqrt(w)) for g, w in squares])
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


def _median(values: list[float]) -> float:
    """NaN when any value is; for few values ten times as fast as numpy's."""
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


def _ratio(gradient: float, weight: float) -> float:
    if weight:
        return gradient / weight
    return math.inf if gradient else 0.0


def _norms(tensors: list[Tensor]) -> Tensor:
    """(tensors,) Euclidean norms."""
    return torch.stack([torch.linalg.vector_norm(t) for t in tensors])


class Drift:
    """How far each group's weights are from where they started: ‖w − w₀‖ / ‖w₀‖ over the group."""

    def __init__(self, model: nn.Module, plan: Plan):
        tensors = {name: p.detach() for name, p in model.named_parameters()}
        self._now = {g: [tensors[r.name] for r in rows] for g, rows in plan.groups.items()}
        self._start = {g: [t.clone() for t in now] for g, now in self._now.items()}

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`drift/<group>`; 0 for a group that has not moved, infinite for one that started at 0."""
        found = {}
        for group, start in self._start.items():
            steps = [now - was for now, was in zip(self._now[group], start, strict=True)]
            moved = float(torch.nn.utils.get_total_norm(steps))
            size = float(torch.nn.utils.get_total_norm(start))
            found[f"drift/{group}"] = moved / size if size else math.inf if moved else 0.0
        return found
