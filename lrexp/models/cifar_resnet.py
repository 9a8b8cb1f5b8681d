"""The residual networks for CIFAR of He et al., with shortcuts that have no parameters."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """relu(x + bn2(conv2(relu(bn1(conv1(x)))))), its shortcut strided, zero-padded."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, ⌈H/stride⌉, ⌈W/stride⌉)."""
        shortcut = x[:, :, :: self.stride, :: self.stride]
        below = self.added // 2
        shortcut = F.pad(shortcut, (0, 0, 0, 0, below, self.added - below))
        x = F.relu(self.bn1(self.conv1(x)))
        return F.relu(shortcut + self.bn2(self.conv2(x)))


class CifarResNet(nn.Module):
    """3×3 convolution → three stages of (depth − 2) / 6 blocks of 16, 32 and 64 channels → linear.

    269,722 parameters at depth 20, 853,018 at depth 56, for 3 channels and 10 classes.

    Args:
        image_shape: (C, H, W) of the images; made for 32×32.
        num_classes: outputs of the head.
        depth: 6n + 2 layers with weights.

    Source: He et al. 2016, Deep Residual Learning, section 4.2; convolutions and the head begin as
    in He et al. 2015.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, depth: int):
        super().__init__()
        blocks = (depth - 2) // 6

        def stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            later = (Block(outputs, outputs, 1) for _ in range(blocks - 1))
            return nn.Sequential(Block(inputs, outputs, stride), *later)

        self.conv1 = nn.Conv2d(image_shape[0], 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, 1)
        self.layer2 = stage(16, 32, 2)
        self.layer3 = stage(32, 64, 2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(images)))  # (B, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, ⌈H/4⌉, ⌈W/4⌉)
        return self.linear(x.mean((2, 3)))
