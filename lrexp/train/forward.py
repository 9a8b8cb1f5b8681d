"""What a network does beside computing: what it draws, and what it keeps to itself."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lrexp.data.generators import begin_at, begun_at, moved

DRAWN = 0  # where the generators begin
ANEW = (
    "gives something else when it sees the same images again from the same seed: it keeps a state"
)
ANEW += " that is no buffer, or draws from a generator of its own"


def draws_from(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor
) -> str | None:
    """Which generator the network draws from, in its mode of now or in eval mode; None for none.

    Args:
        model: used up by it: gradients, statistics and its mode are others afterwards.
        loss: of logits and labels.
        images: (B, C, H, W).
        labels: of the images.
    """
    device = images.device
    with begun_at(DRAWN, device):
        loss(model(images), labels).backward()
        if found := moved(DRAWN, device):
            return found
        model.eval()
        begin_at(DRAWN, device)
        with torch.no_grad():
            model(images)
        return moved(DRAWN, device)


@torch.no_grad()
def repeats_itself(model: nn.Module, images: Tensor) -> bool:
    """Whether two forwards of the same weights, buffers, images and seed are the same.

    Those of a network that draws from a generator of its own, which nobody can begin anew, are not.
    Both in training mode and in eval mode; up to what a GPU sums in another order.
    """
    for training in (True, False):
        network = copy.deepcopy(model).train(training)
        buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        found = []
        for _ in range(2):
            for name, buffer in network.named_buffers():
                buffer.copy_(buffers[name])
            with begun_at(DRAWN, images.device):
                found.append(network(images))
        first, second = found
        if not torch.allclose(first, second, rtol=1e-3, atol=1e-5, equal_nan=True):
            return False
    return True
