"""Linear layers with ReLU between them."""

from __future__ import annotations

import math

from torch import Tensor, nn


class MLP(nn.Module):
    """Flatten → (linear → ReLU → dropout) per width → linear classes.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: outputs of the head.
        widths: of the hidden layers, first to last; none makes a linear classifier.
        dropout: probability, after each hidden layer.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        widths: list[int],
        dropout: float,
    ):
        super().__init__()
        inputs = [math.prod(image_shape), *widths]
        self.hidden = nn.ModuleList(
            nn.Linear(i, o) for i, o in zip(inputs[:-1], widths, strict=True)
        )
        # one each: a plan may let the last one drop in front of the head, and keep the others still
        self.after = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Dropout(dropout)) for _ in widths)
        self.head = nn.Linear(inputs[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, classes)."""
        x = images.flatten(1)
        for layer, after in zip(self.hidden, self.after, strict=True):
            x = after(layer(x))  # (B, width)
        return self.head(x)
