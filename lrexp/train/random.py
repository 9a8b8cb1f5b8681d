"""What is drawn at random in a run, each draw a function of the seed and what it is for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lrexp.data import draws
from lrexp.data.dataset import Split

MEASURED_BATCHES = 5  # at most


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that dropout on a device draws from."""
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


def dropout_seeds(seed: int, first_step: int, count: int) -> list[int]:
    """What makes dropout a function of (seed, step), for so many steps."""
    steps = np.arange(first_step, first_step + count)
    return (draws.draw_each(seed, "dropout", steps) >> np.uint64(1)).tolist()


def recalibration_images(train: Split, seed: int, epoch: int, size: int) -> Iterator[Tensor]:
    """Up to 50 whole batches of training images, each (size, C, H, W)."""
    order = draws.order(seed, "recalibrate", train.ids, epoch)
    whole = max(len(order) // size * size, min(len(order), size))
    return (images for images, _ in train.batches(order[: min(whole, 50 * size)], size))


def measured_batches(
    train: Split, seed: int, epoch: int, size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """What measured policies look at before an epoch: images and labels, not augmented."""
    order = draws.order(seed, "measure", train.ids, epoch)
    return train.batches(order[: MEASURED_BATCHES * size], size)
