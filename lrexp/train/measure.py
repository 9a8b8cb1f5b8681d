"""What tensors say: evaluations, running means, drift, sizes of gradients and steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lrexp.config.schema import TOP5_CLASSES
from lrexp.data import draws
from lrexp.data.dataset import Split
from lrexp.judge.evaluate import Evaluation
from lrexp.plan.plan import Plan
from lrexp.train.computing import PLAIN, Computing
from lrexp.train.experiment import Experiment
from lrexp.train.ranks import ALONE, Ranks
from lrexp.train.scales import norms_of, ratio, scales_of

LOGITS = 2**20  # that are judged at a time


@torch.inference_mode()
def logits_of(
    model: nn.Module, split: Split, batch_size: int, computing: Computing = PLAIN
) -> Tensor:
    """(n, classes) float32 logits in eval mode, on the device of the split."""
    model.eval()
    forward = computing.forward(model)
    return torch.cat([forward(images) for images, _ in split.in_order(batch_size)])


def predictions(logits: Tensor, labels: Tensor) -> Tensor:
    """What logits (..., classes) say, in the form of the labels they are to be compared with.

    The int64 class of the largest logit, the first on ties; for float labels (..., classes) of 0
    and 1 bool (..., classes), True where the logit is above 0, which is a probability above 1/2.
    """
    return logits > 0 if labels.is_floating_point() else logits.argmax(-1)


def all_right(said: Tensor, labels: Tensor) -> Tensor:
    """Bool: whether every label of an image is as predicted."""
    return (said == labels).all(-1) if labels.is_floating_point() else said == labels


def evaluate_split(
    model: nn.Module,
    split: Split,
    batch_size: int,
    computing: Computing = PLAIN,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """How good a model is on a split, in eval mode. No logits are kept.

    Every rank evaluates its share of the images, each once, and has the whole.
    """
    model.eval()
    forward = computing.forward(model)
    own = np.array_split(np.arange(len(split)), ranks.world)[ranks.rank]
    parts = draws.cut(own, batch_size) if len(own) else []
    logits = ((forward(images)[None], labels) for images, labels in split.batches(parts))
    return evaluate_batches(logits, len(own), ranks)[0]


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    """How good logits (n, classes) are, image by image and class by class.

    The loss of an image is its cross-entropy; with several labels the mean over classes of the
    binary cross-entropy of each.

    Args:
        logits: (n, classes) float.
        labels: (n,) int64 class of each image, or (n, classes) float of 0 and 1.
    """
    return evaluate_batches([(logits[None], labels)], len(labels))[0]


@torch.inference_mode()
def evaluate_batches(
    batches: Iterable[tuple[Tensor, Tensor]], images: int, ranks: Ranks = ALONE
) -> list[Evaluation]:
    """What K networks make of the same images; what is kept does not grow with classes.

    Args:
        batches: logits (K, B, classes) and labels, as in `evaluate`.
        images: how many there are in all batches.
        ranks: each has batches of its own, in their order those of the whole.
    """
    kept: list[Tensor] = []  # each (K or 1, images): small ones of every batch would be in the way
    counts: Any = 0  # (3, K, classes) images that are of a class, are said to be, and are both
    classes = done = 0
    for logits, labels in batches:
        values, classes = _per_image(logits, labels), logits.shape[-1]
        kept = kept or [part.new_empty(len(part), images) for part in values]
        now = slice(done, done := done + len(labels))
        for column, part in zip(kept, values, strict=True):
            column[:, now] = part
        if labels.is_floating_point():
            said, of_class = predictions(logits, labels), labels > 0.5
            parts = of_class.sum(0).expand(len(said), -1), said.sum(1), (of_class & said).sum(1)
            counts = counts + torch.stack(parts)
    found = [column.cpu().numpy() for column in kept], _on_cpu(counts), classes
    if ranks.several:
        found = _of_all(ranks.gathered(found))
    (first, *columns), counts, classes = found
    if isinstance(counts, np.ndarray):
        by_member = counts.swapaxes(0, 1)  # (K, 3, classes)
        return [
            Evaluation(losses.astype(np.float64), right.astype(np.float64), *of, multi_label=True)
            for losses, right, of in zip(first, *columns, by_member, strict=True)
        ]
    return [
        Evaluation.of_classes(losses, said, first[0], classes, *(float(t.mean()) for t in top5))
        for losses, said, *top5 in zip(*columns, strict=True)
    ]


def _on_cpu(counts: Any) -> Any:
    return counts.cpu().numpy() if isinstance(counts, Tensor) else counts


def _of_all(found: list[tuple[list[np.ndarray], Any, int]]) -> tuple[list[np.ndarray], Any, int]:
    """Columns (K or 1, images) of all ranks one behind the other, their counts in all, classes."""
    with_images = (one for one in found if one[0])
    columns, counts, classes = zip(*with_images, strict=True)
    together = [np.concatenate(each, axis=1) for each in zip(*columns, strict=True)]
    return together, sum(counts), classes[0]


def _per_image(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """Of several labels loss and whether all is right, each (K, B).

    Of one its class (1, B), then (K, B) loss, class said and, where there are classes enough,
    whether it is in the top 5.
    """
    flat = logits.flatten(0, 1)  # (K·B, classes)
    repeated = labels.expand(len(logits), *labels.shape).flatten(0, 1)
    rows = max(1, LOGITS // flat.shape[1])  # of many classes: what is made of them stays in a cache
    each = zip(flat.split(rows), repeated.split(rows), strict=True)
    parts = [torch.cat(part) for part in zip(*(_each_image(*some) for some in each), strict=True)]
    shown = [] if labels.is_floating_point() else [labels[None]]
    return [*shown, *(part.view(len(logits), -1) for part in parts)]


def _each_image(logits: Tensor, labels: Tensor) -> list[Tensor]:
    """As `_per_image`, (n,) each, of logits (n, classes) and without the class itself."""
    said = predictions(logits, labels)
    if labels.is_floating_point():
        losses = F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
        return [losses, all_right(said, labels)]
    found = [F.cross_entropy(logits, labels, reduction="none"), said]
    if logits.shape[1] >= TOP5_CLASSES:
        found.append(_among_largest(logits, labels, 5))
    return found


def _among_largest(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """(n,) bool: whether the label's logit is among the k largest, lower classes first on ties."""
    of_label = logits.gather(1, labels[:, None])  # (n, 1)
    earlier = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    before = ~(logits <= of_label) | ((logits == of_label) & earlier)  # NaN is before all
    return before.sum(1) < k


class RunningTrain:
    """Loss and accuracy over the batches of an epoch, as they were when each batch was trained on.

    Of a batch three numbers are kept, those of all batches in one tensor: a small one of each would
    stand in the way of the large ones that come and go. No step waits for the device.
    """

    ROOM = 256  # batches that fit before there must be more room

    def __init__(self) -> None:
        self._earlier = torch.zeros(3, 0)  # batches of a state
        # loss and correct, (2, room) or (2, room, K)
        self._numbers = torch.empty(2, 0, dtype=torch.float64)
        self._images: list[int] = []

    def add(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Note one batch.

        Args:
            loss: mean over its images, () or (K,) of members that train together.
            correct: how many of them are right, likewise.
            images: how many it has.
        """
        i = len(self._images)
        if i == self._numbers.shape[1]:
            wide = widest(loss.device)
            more = loss.new_empty((2, 2 * i or self.ROOM, *loss.shape), dtype=wide)
            if i:
                more[:, :i] = self._numbers
            self._numbers = more
        if loss.device.type == "cpu":  # nothing to wait for, and numpy writes a number faster
            numbers = self._numbers.numpy()
            numbers[0, i], numbers[1, i] = loss.tolist(), correct.tolist()
        else:
            self._numbers[0, i], self._numbers[1, i] = loss, correct
        self._images.append(images)

    def means(self) -> tuple[float, float, int]:
        """Mean loss and accuracy per image, and the number of images."""
        loss, correct, images = self.state().sum(1).tolist()
        return loss / images, correct / images, int(images)

    def collect(self, summed: Callable[[Tensor], Tensor]) -> None:
        """Take in what other ranks noted of the same batches: shares of the loss, images right.

        Args:
            summed: over ranks.
        """
        if not self._images:
            return
        losses, correct, sizes = self._noted()
        now = torch.cat([summed(torch.stack([losses * sizes, correct])), sizes[None]])
        self._earlier = torch.cat([self._earlier.to(now), now], dim=1)
        self._images.clear()

    def state(self) -> Tensor:
        """(3, batches so far): of each its loss × images, its images that are right, its images."""
        losses, correct, sizes = self._noted()
        now = torch.stack([losses * sizes, correct, sizes])
        return torch.cat([self._earlier.to(now), now], dim=1)

    def load_state(self, state: Tensor) -> None:
        """Go on from `state()`, without a batch so far."""
        self._earlier = state

    def of_members(self, block: int = 64) -> list[RunningTrain]:
        """What each of K members saw; so many batches at a time count as one large batch."""
        losses, correct, sizes = self._noted()  # (batches, K), (batches, K), (batches,)
        own = [RunningTrain() for _ in range(losses.shape[1])]
        for batches in (slice(i, i + block) for i in range(0, len(sizes), block)):
            some, images = sizes[batches], sum(self._images[batches])
            means, right = (some / some.sum()) @ losses[batches], correct[batches].sum(0)  # (K,)
            for k, one in enumerate(own):
                one.add(means[k], right[k], images)
        return own

    def _noted(self) -> tuple[Tensor, Tensor, Tensor]:
        losses, correct = self._numbers[:, : len(self._images)]
        return losses, correct, losses.new_tensor(self._images)


def widest(device: torch.device) -> torch.dtype:
    """The floating-point type that sums are taken in."""
    return torch.float32 if device.type == "mps" else torch.float64


def correct_images(logits: Tensor, labels: Tensor) -> Tensor:
    """How many images are right, () or (K,): of logits (B, classes) or (K, B, classes)."""
    return all_right(predictions(logits, labels), labels).sum(-1)


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
    def see_gradients(self, weights: Iterable[Tensor]) -> None:
        """Note the norm over all gradients of the weights."""
        found = [weight.grad for weight in weights if weight.grad is not None]
        self.add_gradient(torch.linalg.vector_norm(norms_of(found)))

    @torch.no_grad()
    def before(self) -> list[Tensor]:
        """Copies of the weights whose steps are measured."""
        return [tensor.clone() for tensor in self._tensors]

    @torch.no_grad()
    def after(self, before: list[Tensor]) -> None:
        """Compare the weights with the copies taken before the step."""
        if not before:
            return
        sizes = norms_of(before)
        for was, now in zip(before, self._tensors, strict=True):
            was.sub_(now)  # in place: a large tensor's memory costs more than the subtraction
        self.add_ratios(norms_of(before) / sizes)

    def drop_if(self, skipped: Tensor) -> None:
        """Take the step noted last for none where `skipped`, (), is above 0; nobody waits for it.

        Its gradient was not finite, and it moved nothing.
        """
        for noted in (self._ratios, self._grad_norms):
            if noted:
                noted[-1] = torch.where(skipped > 0, SKIPPED, noted[-1])

    @torch.no_grad()
    def of_still(self) -> Tensor:
        """(tensors,) update ratios of a step that changes nothing: NaN where a tensor is 0."""
        return 0 / norms_of([*self._tensors])

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
                of_group.setdefault(f"update_ratio/{group}", []).extend(ratios)
            found = {key: _median(taken) for key, r in of_group.items() if (taken := _taken(r))}
        if self._grad_norms and (norms := _taken(torch.stack(self._grad_norms).tolist())):
            found["grad_norm"] = _median(norms)
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


def seen_row(
    experiment: Experiment, stats: StepStats, running: RunningTrain, started: float
) -> dict[str, float]:
    """What an epoch's steps showed: loss and accuracy on the way, last rates, sizes of steps.

    `started` is time.perf_counter() before the first of them.
    """
    train_loss, train_accuracy, images_seen = running.means()  # waits for the device
    elapsed_s = time.perf_counter() - started
    return {
        "train/loss": train_loss,
        "train/accuracy": train_accuracy,
        **{f"lr/{group['name']}": group["lr"] for group in experiment.optimizer.param_groups},
        **{f"lr_scale/{name}": scale for name, scale in scales_of(experiment).items()},
        **stats.medians(),
        "perf/examples_per_s": images_seen / elapsed_s,
        "perf/steps_s": elapsed_s,
    }


SKIPPED = -1.0  # in place of sizes of a step that was skipped


def _taken(values: list[float]) -> list[float]:
    """Without those of steps that were skipped."""
    return [value for value in values if value != SKIPPED]


def _median(values: list[float]) -> float:
    """NaN when any value is; for few values ten times as fast as numpy's."""
    return math.nan if any(map(math.isnan, values)) else statistics.median(values)


class Drift:
    """How far each group's weights are from where they started: ‖w − w₀‖ / ‖w₀‖ over the group."""

    def __init__(self, model: nn.Module, plan: Plan):
        tensors = dict(model.named_parameters())
        self._groups = list(plan.groups)
        moving = {g: rows for g, rows in plan.groups.items() if not rows[0].frozen}
        self._now = {g: [tensors[r.name] for r in rows] for g, rows in moving.items()}
        self._start = {g: [p.detach().clone() for p in now] for g, now in self._now.items()}
        self._sizes: dict[str, float] = {}  # ‖w₀‖ of each group

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """`drift/<group>`; 0 for a group that has not moved, infinite for one that started at 0."""
        found = {f"drift/{group}": 0.0 for group in self._groups}  # what never trains does not move
        for group, start in self._start.items():
            steps = [now - was for now, was in zip(self._now[group], start, strict=True)]
            if group not in self._sizes:
                self._sizes[group] = float(torch.nn.utils.get_total_norm(start))
            moved = float(torch.nn.utils.get_total_norm(steps))
            found[f"drift/{group}"] = ratio(moved, self._sizes[group])
        return found
