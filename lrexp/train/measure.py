"""Metrics: accuracies and F1, the gap, overfitting, drift and update ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrexp.config.schema import TOP5_CLASSES
from lrexp.data.dataset import Split
from lrexp.plan.plan import Plan


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split, image by image and class by class."""

    losses: np.ndarray  # (n,) float64: plain, no smoothing, no class weights
    correct: np.ndarray  # (n,) float64: 1 where every label of the image is right
    actual: np.ndarray  # (classes,) int64: images of the class
    predicted: np.ndarray  # (classes,) int64: images that the model says are of it
    found: np.ndarray  # (classes,) int64: images of the class of which it says so
    top5: float | None = None  # share of images whose label is among the five largest logits
    multi_label: bool = False  # any number of labels per image, instead of exactly one

    @property
    def loss(self) -> float:
        """Mean over images."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """Share of images in [0, 1] with every label right: the subset accuracy of multi-label."""
        return float(self.correct.mean())

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric that this kind of data has, under the name it has in a row."""
        images, classes = len(self.losses), len(self.actual)
        found = {"loss": self.loss, "accuracy": self.accuracy}
        if self.multi_label:
            wrong = int((self.actual + self.predicted - 2 * self.found).sum())
            found["label_accuracy"] = 1 - wrong / (images * classes)
        recalls = self.recalls
        if self.multi_label:  # each label is a question with two answers
            recalls = np.nanmean([recalls, self._specificities], axis=0)
        found["balanced_accuracy"] = float(np.nanmean(recalls))
        found["f1_macro"] = float(np.nanmean(self.f1))
        if self.top5 is not None:
            found["top5_accuracy"] = self.top5
        return found

    @property
    def recalls(self) -> np.ndarray:
        """(classes,) found / actual; NaN for a class without images."""
        return _ratios(self.found, self.actual)

    @property
    def precisions(self) -> np.ndarray:
        """(classes,) found / predicted; NaN for a class that is never predicted."""
        return _ratios(self.found, self.predicted)

    @property
    def f1(self) -> np.ndarray:
        """(classes,) 2·found / (actual + predicted).

        For a class that neither the labels nor the predictions name it is undefined: NaN, and no
        part of the mean, where images have one label; 0, and part of it, in multi-label data. The
        means are those of scikit-learn's f1_score(average="macro") with its defaults.
        """
        scores = _ratios(2 * self.found, self.actual + self.predicted)
        return np.nan_to_num(scores) if self.multi_label else scores

    @property
    def label_accuracies(self) -> np.ndarray:
        """(classes,) share of images for which it is right whether they are of the class."""
        return 1 - (self.actual + self.predicted - 2 * self.found) / len(self.losses)

    @property
    def _specificities(self) -> np.ndarray:
        """(classes,) share, among images that are not of a class, of those not said to be."""
        images = len(self.losses)
        rejected = images - self.actual - self.predicted + self.found
        return _ratios(rejected, images - self.actual)


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


@torch.inference_mode()
def logits_of(model: nn.Module, split: Split, batch_size: int) -> Tensor:
    """(n, classes) float32 logits in eval mode, on the device of the split."""
    model.eval()
    batches = split.batches(np.arange(len(split)), batch_size)
    return torch.cat([model(images) for images, _ in batches])


def predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """What (n, classes) logits say, in the shape of the labels they are to be compared with.

    (n,) int64 class of the largest logit, the first on ties; for (n, classes) labels of 0 and 1
    bool (n, classes), True where the logit is above 0, which is a probability above 1/2.
    """
    return logits > 0 if labels.ndim == 2 else logits.argmax(1)


def all_right(said: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: whether every label of an image is as predicted."""
    return (said == labels).all(1) if labels.ndim == 2 else said == labels


@torch.inference_mode()
def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """How good (n, classes) logits are, image by image and class by class.

    The loss of an image is its cross-entropy; with several labels the mean over classes of the
    binary cross-entropy of each.

    Args:
        logits: (n, classes) float.
        labels: (n,) int64 class of each image, or (n, classes) float of 0 and 1.
    """
    multi_label, classes = labels.ndim == 2, logits.shape[1]
    said = predictions(logits, labels)
    correct = all_right(said, labels)
    if multi_label:
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        of_class = labels > 0.5  # (n, classes)
        parts = [of_class.sum(0), said.sum(0), (of_class & said).sum(0)]
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")
        named = (labels, said, labels[correct])
        parts = [torch.bincount(of_class, minlength=classes) for of_class in named]
    actual, predicted, found = torch.stack(parts).cpu().numpy()
    has_top5 = not multi_label and classes >= TOP5_CLASSES
    return Evaluation(
        losses=losses.cpu().numpy().astype(np.float64),
        correct=correct.cpu().numpy().astype(np.float64),
        actual=actual,
        predicted=predicted,
        found=found,
        top5=_top_share(logits, labels, 5) if has_top5 else None,
        multi_label=multi_label,
    )


def _top_share(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose label's logit is among the k largest, lower classes first on ties."""
    of_label = logits.gather(1, labels[:, None])  # (n, 1)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    before = ~(logits <= of_label) | ((logits == of_label) & earlier)  # NaN is before all
    return int((before.sum(1) < k).sum()) / len(labels)


@torch.inference_mode()
def confusion(logits: Tensor, labels: Tensor) -> np.ndarray:
    """(classes, classes) int64 counts of images: true classes as rows, predicted as columns.

    Args:
        logits: (n, classes) float.
        labels: (n,) int64.
    """
    classes = logits.shape[1]
    cells = torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2)
    return cells.view(classes, classes).cpu().numpy()


def class_rows(evaluation: Evaluation, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class: its images and predictions, precision, recall, F1; None where undefined.

    Their means over classes, what is undefined left out, are `balanced_accuracy` (of the recalls,
    with one label per image) and `f1_macro`. Multi-label rows have the accuracy of the label too.
    """
    columns: dict[str, np.ndarray] = {
        "images": evaluation.actual,
        "predicted": evaluation.predicted,
        "precision": evaluation.precisions,
        "recall": evaluation.recalls,
        "f1": evaluation.f1,
    }
    if evaluation.multi_label:
        columns["accuracy"] = evaluation.label_accuracies
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"class": name} | {k: None if v != v else v for k, v in zip(columns, row, strict=True)}
        for name, row in zip(class_names, values, strict=True)
    ]


def worst_classes(
    evaluation: Evaluation,
    class_names: Sequence[str],
    confused: np.ndarray | None,
    limit: int = 3,
) -> list[dict[str, Any]]:
    """The classes with the lowest recall, those with an error alone; of equals the larger first.

    Args:
        evaluation: of a split.
        class_names: (classes,).
        confused: (classes, classes) images by true and predicted class, None for multi-label.
        limit: so many at most.

    Returns:
        Of each its `class`, `images`, how many are `found`, the recall, and, with one label per
        image, the class it is most often `taken_for` and how many `times`.
    """
    recalls = evaluation.recalls
    order = np.lexsort((-evaluation.actual, np.nan_to_num(recalls, nan=1.0)))
    rows = []
    for i in [i for i in order[:limit].tolist() if recalls[i] < 1]:
        row = {
            "class": class_names[i],
            "images": int(evaluation.actual[i]),
            "found": int(evaluation.found[i]),
            "recall": float(recalls[i]),
        }
        if confused is not None:
            others = confused[i].copy()
            others[i] = 0
            row |= {"taken_for": class_names[int(others.argmax())], "times": int(others.max())}
        rows.append(row)
    return rows


def gap(
    val: np.ndarray,
    train_eval: np.ndarray,
    train_size: int,
    val_groups: np.ndarray | None = None,
    train_eval_groups: np.ndarray | None = None,
) -> tuple[float, float]:
    """The mean of validation minus the mean of the training subset, and its standard error.

    gap = mean(val) − mean(train_eval); se = √(v_val + (1 − n_te / N) · v_te) with v the variance of
    a mean (`variance_of_mean`), the second term shrinking because train_eval is drawn without
    replacement from N training images.

    Args:
        val: (n_val,) a value per validation image.
        train_eval: (n_te,) a value per image of the training subset.
        train_size: N.
        val_groups: (n_val,) codes of groups whose images are alike, if there are any.
        train_eval_groups: (n_te,) likewise.
    """
    with np.errstate(invalid="ignore"):  # an infinite loss has no variance: NaN
        sampled = 1 - len(train_eval) / train_size
        variance_train = sampled * variance_of_mean(train_eval, train_eval_groups)
        variance = variance_of_mean(val, val_groups) + variance_train
        return float(val.mean() - train_eval.mean()), math.sqrt(variance)


def paired_difference(
    now: np.ndarray, best: np.ndarray, groups: np.ndarray | None = None
) -> tuple[float, float]:
    """mean(now − best) over the same images, and its standard error (`variance_of_mean`).

    Args:
        now: (n,) a value per image.
        best: (n,) likewise, of the same images.
        groups: (n,) codes of groups whose images are alike, if there are any.
    """
    with np.errstate(invalid="ignore"):
        difference = now - best
        return float(difference.mean()), math.sqrt(variance_of_mean(difference, groups))


def variance_of_mean(values: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The variance of the mean of n values: s² / n, or robust to groups that are alike within.

    With G groups it is G / (G − 1) · Σ_g (Σ_{i in g} (x_i − x̄))² / n², which is s² / n when every
    group has one value (Liang and Zeger 1986, the CR1 estimator of an intercept). NaN where one
    value or one group says nothing of the spread.

    Args:
        values: (n,).
        groups: (n,) int codes from 0, with or without gaps.
    """
    count = len(values)
    if groups is None:
        return float(values.var(ddof=1)) / count if count > 1 else math.nan
    number = np.count_nonzero(np.bincount(groups))
    sums = np.bincount(groups, weights=values - values.mean())
    return number / (number - 1) * float((sums**2).sum()) / count**2 if number > 1 else math.nan


class RunningTrain:
    """Loss and accuracy over the batches of an epoch, as they were when each batch was trained on.

    Batches are kept as references and reduced in blocks, so that no step waits for the device.
    """

    BLOCK = 256

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, Tensor, Tensor]] = []
        self._reduced: list[Tensor] = []  # each (3, k): loss × images, correct, images of batches

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Note one batch: its scalar loss, (B, classes) logits, and labels as in `evaluate`."""
        self._batches.append((loss.detach(), logits.detach(), labels))
        if len(self._batches) == self.BLOCK:
            self._reduce()

    def means(self) -> tuple[float, float, int]:
        """Mean loss and accuracy per image, and the number of images."""
        loss, correct, images = self.state().sum(1).tolist()
        return loss / images, correct / images, int(images)

    def state(self) -> Tensor:
        """(3, batches so far): of each its loss × images, its images that are right, its images."""
        self._reduce()
        return torch.cat(self._reduced, dim=1) if self._reduced else torch.zeros(3, 0)

    def load_state(self, state: Tensor) -> None:
        """Go on from `state()`."""
        self._batches, self._reduced = [], [state] if state.numel() else []

    def _reduce(self) -> None:
        if not self._batches:
            return
        losses, logits, labels = zip(*self._batches, strict=True)
        double = torch.float32 if losses[0].device.type == "mps" else torch.float64
        sizes = torch.tensor([len(x) for x in labels], dtype=double, device=losses[0].device)
        truth = torch.cat(labels)
        right = all_right(predictions(torch.cat(logits), truth), truth).to(double).cumsum(0)
        correct = right[sizes.long().cumsum(0) - 1].diff(prepend=right.new_zeros(1))
        self._reduced.append(torch.stack([torch.stack(losses).to(double) * sizes, correct, sizes]))
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
            (group, row.name)
            for group, rows in plan.groups.items()
            for row in rows
            if len(row.shape) >= 2 and not row.frozen
        ]
        self._group_of = [group for group, _ in wanted]
        self.names = [name for _, name in wanted]  # of the tensors whose steps are measured
        self._tensors = [tensors[name] for name in self.names]
        self._ratios: list[Tensor] = []  # each (tensors,)
        self._grad_norms: list[Tensor] = []  # each ()

    @torch.no_grad()
    def before(self, trained: list[Tensor]) -> list[Tensor]:
        """Note the gradient norm of the parameters that train; returns copies of the weights."""
        gradients = [p.grad for p in trained if p.grad is not None]
        self.add_gradient(torch.linalg.vector_norm(_norms(gradients)))
        return [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def after(self, before: list[Tensor]) -> None:
        """Compare the weights with the copies taken before the step."""
        if not before:
            return
        steps = [now - was for now, was in zip(self._tensors, before, strict=True)]
        self.add_ratios(_norms(steps) / _norms(before))

    def add_gradient(self, norm: Tensor) -> None:
        """Note a gradient's norm ()."""
        self._grad_norms.append(norm)

    def add_ratios(self, ratios: Tensor) -> None:
        """Note a step's update ratios (tensors,), in the order of `names`."""
        self._ratios.append(ratios)

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

    def state(self) -> dict[str, Tensor]:
        """What was noted since the last call of `medians`."""
        noted = {"ratios": self._ratios, "grad_norms": self._grad_norms}
        return {name: torch.stack(values) for name, values in noted.items() if values}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `state()`."""
        self._ratios, self._grad_norms = (
            list(state[name]) if name in state else [] for name in ("ratios", "grad_norms")
        )


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
        tensors = dict(model.named_parameters())
        self._now = {g: [tensors[r.name] for r in rows] for g, rows in plan.groups.items()}
        self._start = {g: [p.detach().clone() for p in now] for g, now in self._now.items()}

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
