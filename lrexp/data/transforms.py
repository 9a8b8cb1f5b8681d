"""From uint8 pixels to what the network sees: augmentation and normalisation, batch by batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrexp import draws


class Normalize:
    """(pixel / white − mean) / std per channel, as one multiplication and one subtraction.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
        white: the pixel value that counts as 1.
        device: of the batches.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], white: int, device: torch.device
    ):
        scale = 1 / (white * np.asarray(std, np.float32))[:, None, None]
        shift = (np.asarray(mean, np.float32) / np.asarray(std, np.float32))[:, None, None]
        self._scale, self._shift = (torch.from_numpy(x).to(device) for x in (scale, shift))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → float32."""
        return images.float().mul_(self._scale).sub_(self._shift)


class Augment:
    """Random changes of training images, each a function of (seed, epoch, image) alone.

    `basic`: zero padding by an eighth of the side on every edge, a random crop of the former size,
    and a horizontal flip of every second image (He et al. 2016, who pad 32-pixel images by 4).

    `trivial`: `basic`, and then one of 14 operations with one of 31 strengths, both uniform
    (TrivialAugment, Müller and Hutter 2021, the wide space), through torchvision's functions.

    Args:
        kind: basic or trivial.
        seed: moves every draw.
    """

    def __init__(self, kind: str, seed: int):
        self._kind, self._seed = kind, seed

    def __call__(self, images: Tensor, ids: np.ndarray, epoch: int) -> Tensor:
        """(B, C, H, W) uint8 → the same.

        Args:
            images: a batch.
            ids: (B,) position of each image in its source.
            epoch: 1-based.
        """
        images = _crop_and_flip(images, draws.draw_each(self._seed, "crop", ids, epoch))
        if self._kind == "trivial":
            images = _trivial(images, draws.draw_each(self._seed, "trivial", ids, epoch))
        return images


def _crop_and_flip(images: Tensor, drawn: np.ndarray) -> Tensor:
    """Crops of the zero-padded images, every second one flipped."""
    _, _, height, width = images.shape
    pads = [max(1, round(side / 8)) for side in (height, width)]
    top, left = (
        ((drawn >> np.uint64(shift)) & np.uint64(0xFFFFF)).astype(np.int64) * (2 * pad + 1) >> 20
        for shift, pad in zip((0, 20), pads, strict=True)
    )
    flipped = (drawn >> np.uint64(63)).astype(bool)
    rows = top[:, None] + np.arange(height)  # (B, H) in the padded image
    columns = left[:, None] + np.arange(width)
    columns[flipped] = columns[flipped, ::-1]
    device = images.device
    y, x = (torch.from_numpy(i).to(device) for i in (rows, columns))
    padded = F.pad(images, (pads[1], pads[1], pads[0], pads[0]))
    batch = torch.arange(len(images), device=device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=device)[:, None, None]
    return padded[batch, channel, y[:, None, :, None], x[:, None, None, :]]


BINS = 31


def _strengths(low: float, high: float) -> list[float]:
    return [low + (high - low) * i / (BINS - 1) for i in range(BINS)]


_SIGNED = _strengths(0.0, 0.99)
# operation → its 31 strengths, and whether a strength is negated for every second image
OPERATIONS: dict[str, tuple[list[float], bool]] = {
    "identity": ([0.0], False),
    "shear_x": (_SIGNED, True),
    "shear_y": (_SIGNED, True),
    "translate_x": (_strengths(0.0, 32.0), True),
    "translate_y": (_strengths(0.0, 32.0), True),
    "rotate": (_strengths(0.0, 135.0), True),
    "brightness": (_SIGNED, True),
    "color": (_SIGNED, True),
    "contrast": (_SIGNED, True),
    "sharpness": (_SIGNED, True),
    "posterize": ([float(round(8 - 6 * i / (BINS - 1))) for i in range(BINS)], False),
    "solarize": (_strengths(1.0, 0.0), False),
    "autocontrast": ([0.0], False),
    "equalize": ([0.0], False),
}


def _trivial(images: Tensor, drawn: np.ndarray) -> Tensor:
    """One operation per image; images that drew the same are changed together."""
    names = list(OPERATIONS)
    operation, strength = (
        ((drawn >> np.uint64(shift)) & np.uint64(0xFFFFF)).astype(np.int64) * count >> 20
        for shift, count in ((0, len(names)), (20, BINS))
    )
    negative = (drawn >> np.uint64(63)).astype(np.int64)
    changed = images.clone()
    for i in np.unique(operation):
        strengths, signed = OPERATIONS[names[i]]
        level = strength % len(strengths) if len(strengths) == 1 else strength
        key = level * 2 + negative * signed
        for value in np.unique(key[operation == i]):
            chosen = np.flatnonzero((operation == i) & (key == value))
            amount = strengths[value // 2] * (-1 if value % 2 else 1)
            rows = torch.from_numpy(chosen).to(images.device)
            changed[rows] = operate(names[i], images[rows], amount)
    return changed


def operate(operation: str, images: Tensor, amount: float) -> Tensor:
    """Apply one of `OPERATIONS` to (B, C, H, W) uint8 images with one strength."""
    from torchvision.transforms.v2 import functional as V

    def affine(translate: list[float], shear: list[float], center: list[float] | None) -> Tensor:
        return V.affine(images, 0.0, translate, 1.0, shear, center=center)

    degrees = math.degrees(math.atan(amount))
    match operation:
        case "shear_x":
            return affine([0, 0], [degrees, 0.0], [0, 0])
        case "shear_y":
            return affine([0, 0], [0.0, degrees], [0, 0])
        case "translate_x":
            return affine([int(amount), 0], [0.0, 0.0], None)
        case "translate_y":
            return affine([0, int(amount)], [0.0, 0.0], None)
        case "rotate":
            return V.rotate(images, amount)
        case "brightness":
            return V.adjust_brightness(images, 1.0 + amount)
        case "color":
            return V.adjust_saturation(images, 1.0 + amount)
        case "contrast":
            return V.adjust_contrast(images, 1.0 + amount)
        case "sharpness":
            return V.adjust_sharpness(images, 1.0 + amount)
        case "posterize":
            return V.posterize(images, int(amount))
        case "solarize":
            return V.solarize(images, 255.0 * amount)
        case "autocontrast":
            return V.autocontrast(images)
        case "equalize":
            return V.equalize(images)
    return images
