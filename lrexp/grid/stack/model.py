"""Several equal networks as one: their weights along a member dimension, one forward for all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lrexp.data.dataset import Split
from lrexp.judge.evaluate import Evaluation
from lrexp.train.experiment import NO_METRICS, Metrics
from lrexp.train.measure import evaluate_batches
from lrexp.train.own_metrics import Kept


@contextmanager
def without_slow_warnings() -> Iterator[None]:
    """Without torch's warning, meant for its developers, that an operation is slow in a stack.

    It is right all the same, and whoever chooses between stacking and not has timed it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")
        yield


class StackedModel:
    """K networks of one architecture.

    Their weights and buffers are stacked into tensors (K, ...), and the networks' own become views
    of them: whoever looks at a network sees its weights as they are now.

    Args:
        models: the networks, or the same part of each, in the same mode at every forward.
        part: name of that part: `weights` go by the names that they have in the whole network.
    """

    def __init__(self, models: Sequence[nn.Module], part: str = ""):
        self._models = list(models)
        self._prefix = f"{part}." if part else ""
        stacked = _stack([dict(model.named_parameters()) for model in models])
        self.weights = {f"{self._prefix}{name}": weight for name, weight in stacked.items()}
        self._buffers = _stack([dict(model.named_buffers()) for model in models])

    def follow_freezing(self) -> None:
        """Take gradients of what the networks take gradients of."""
        for name, parameter in self._models[0].named_parameters():
            weight = self.weights[f"{self._prefix}{name}"]
            weight.requires_grad_(parameter.requires_grad).grad = None

    def gradient(self, k: int, name: str) -> Tensor | None:
        """What the last step's gradient of a weight is for the k-th network."""
        found = self.weights[name].grad
        return None if found is None else found[k]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (K, B, classes) of images (B, C, H, W), or features, that all see.

        BatchNorm moves the statistics of every network in training mode.
        """
        return self._logits(images, None)

    def of_own(self, images: Tensor) -> Tensor:
        """As called, of images (K, B, C, H, W), those of each."""
        return self._logits(images, 0)

    def _logits(self, images: Tensor, dim: int | None) -> Tensor:
        def logits(weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self._models[0], (weights, buffers), (x,))

        cut = len(self._prefix)
        weights = {name[cut:]: weight for name, weight in self.weights.items()}
        return vmap(logits, in_dims=(0, 0, dim))(weights, self._buffers, images)

    def evaluate(
        self, split: Split, batch_size: int, metrics: Metrics = NO_METRICS
    ) -> list[Evaluation]:
        """How good each network is on a split, in eval mode."""
        for model in self._models:
            model.eval()
        logits = ((self(images), labels) for images, labels in split.in_order(batch_size))
        kept = Kept(logits, metrics)
        return kept.measured(evaluate_batches(kept, len(split)))


def _stack(tensors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors by name, (K, ...) each; those given become views of them."""
    stacked = {name: torch.stack([own[name].detach() for own in tensors]) for name in tensors[0]}
    for k, own in enumerate(tensors):
        for name, tensor in own.items():
            tensor.data = stacked[name][k]
    return stacked


def stacked_batches(
    splits: Sequence[Split], parts: Sequence[Sequence[np.ndarray]], epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (F, B, C, H, W) and labels (F, B) of each batch for F feeds.

    Args:
        splits: of each feed: the same images, augmented each in its own way.
        parts: of each feed: (B,) positions in its split of each batch.
        epoch: augment as in that epoch.
    """
    first = splits[0]
    blocks = [np.stack(together) for together in zip(*parts, strict=True)]  # each (F, B)
    positions = [block.ravel() for block in blocks]
    chosen = torch.from_numpy(np.concatenate(positions)).to(first.labels.device)
    labels = first.labels.index_select(0, chosen).split([block.size for block in blocks])
    pixels = first.pixels.batches([first.rows[rows] for rows in positions])
    for block, images, truth in zip(blocks, pixels, labels, strict=True):
        images = images.unflatten(0, block.shape)
        if first.augment is not None:
            images = torch.stack([
                split.augment(part, split.ids[own], epoch) if split.augment else part
                for split, part, own in zip(splits, images, block, strict=True)
            ])  # fmt: skip
        yield first.normalize(images), truth.unflatten(0, block.shape)
