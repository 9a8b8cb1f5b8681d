"""What every program here trains, and what none of them counts as its own lines."""

from __future__ import annotations

import sys

import torch
from torch.utils.data import TensorDataset

from lrexp.models.simple_cnn import SimpleCNN

EPOCHS, BATCH, EVAL_BATCH, RATE, MOMENTUM = 6, 16, 512, 0.05, 0.9


def tensors() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images (n, 1, 8, 8) float32, normalised, and labels (n,) of `train` and `val`."""
    return torch.load(sys.argv[1])


def datasets() -> tuple[TensorDataset, TensorDataset]:
    """The same as torch's data sets."""
    found = tensors()
    return TensorDataset(*found["train"]), TensorDataset(*found["val"])


def network() -> SimpleCNN:
    """lrexp's default network, freshly initialised."""
    torch.manual_seed(0)
    return SimpleCNN((1, 8, 8), 10, channels=10, kernel_size=5, hidden=50)


def sgd(parameters) -> torch.optim.SGD:
    """The optimizer of all of them."""
    return torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM)
