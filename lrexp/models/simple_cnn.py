"""The small convolutional network of the default run."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lrexp.config.errors import ConfigError


class SimpleCNN(nn.Module):
    """Convolution without padding → ReLU → 2×2 max-pool → linear → ReLU → linear classes.

    Args:
        image_shape: (C, H, W) of the images.
        num_classes: outputs of the head.
        channels: outputs of the convolution.
        kernel_size: of the convolution.
        hidden: width of the linear layer before the head.

    Raises:
        ConfigError: when the images are too small for the kernel and the pooling.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_classes: int,
        channels: int,
        kernel_size: int,
        hidden: int,
    ):
        super().__init__()
        inputs, height, width = image_shape
        pooled = [(side - kernel_size + 1) // 2 for side in (height, width)]
        if min(pooled) < 1:
            raise ConfigError(
                "model.kernel_size",
                f"is too large for images of {height}×{width}",
                f"at most {min(height, width) - 1}",
                kernel_size,
            )
        self.conv = nn.Conv2d(inputs, channels, kernel_size)
        self.hidden = nn.Linear(channels * pooled[0] * pooled[1], hidden)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, classes)."""
        x = F.max_pool2d(F.relu(self.conv(images)), 2)  # (B, channels, H', W')
        x = F.relu(self.hidden(x.flatten(1)))  # (B, hidden)
        return self.head(x)
