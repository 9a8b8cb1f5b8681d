"""How a run made of an image what its network sees, as values that lie beside its weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lrexp.config.schema.training import LEAST_STD
from lrexp.data.images import ImageError, pixels_of_image, read_image
from lrexp.data.transforms import Normalize

RESIZE = "PIL.ImageOps.fit, bilinear"  # the only rule there is: the middle, with antialias


@dataclass(frozen=True)
class Preprocessing:
    """Decode, resize and cut to the network's sides, normalise: as evaluations of the run did.

    (pixel / white − mean) / std, pixels being whole numbers from 0 to white.
    """

    image_shape: tuple[int, int, int]  # (C, H, W) of what the network sees
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]
    std: tuple[float, ...]
    white: int = 255  # 16 where the data have 17 levels: other images are rounded to these

    def as_dict(self) -> dict[str, Any]:
        """Plain values, which torch.load reads with weights_only=True.

        >>> Preprocessing((1, 8, 8), (0.5,), (0.25,)).as_dict()["resize"]
        'PIL.ImageOps.fit, bilinear'
        """
        channels, height, width = self.image_shape
        return {
            "channels": channels,
            "height": height,
            "width": width,
            "resize": RESIZE,
            "white": self.white,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def of_dict(cls, found: Mapping[str, Any]) -> Preprocessing:
        """That of which `as_dict` made these values.

        Raises:
            ValueError: when it made none of them.
        """
        try:
            shape = tuple(int(found[key]) for key in ("channels", "height", "width"))
            mean, std = (tuple(map(float, found[key])) for key in ("mean", "std"))
            white, rule = int(found["white"]), found["resize"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("it says no image size, mean and std") from error
        finite = all(map(math.isfinite, (*mean, *std)))
        counts = {len(mean), len(std), shape[0]}
        if not finite or len(counts) > 1 or min(*shape, white) < 1 or white > 255:
            raise ValueError("its numbers for images cannot be used")
        if min(std) < LEAST_STD or rule != RESIZE:
            raise ValueError(f"it resizes by {rule!r}, or divides by {min(std):g}")
        return cls((shape[0], shape[1], shape[2]), mean, std, white)

    def normalize(self, device: torch.device) -> Normalize:
        """From pixels (B, C, H, W) uint8 to what the network sees."""
        return Normalize(self.mean, self.std, self.white, device)

    def pixels(
        self, image: Image.Image | Tensor | bytes | str
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """(C, H, W) uint8 pixels of an image, and a word for all that had to be converted.

        Args:
            image: of Pillow; or (c, h, w) uint8 from 0 to 255, c being C, 1 or 3; or what
                `read_image` takes.

        Raises:
            ImageError: when it cannot be decoded, or has other channels.
        """
        channels, *sides = self.image_shape
        size = (sides[0], sides[1])
        if isinstance(image, Tensor):
            values = image.detach().cpu().numpy()
            if values.dtype != np.uint8 or values.ndim != 3:
                kind = f"{tuple(values.shape)} {values.dtype}"
                raise ImageError(f"is {kind}; a tensor is (C, H, W) uint8 from 0 to 255")
            if len(values) == channels:
                return self._in_levels(read_image(values, channels, size)[0]), ()
            if len(values) not in (1, 3):
                raise ImageError(f"has {len(values)} channels, the network sees {channels}")
            image = Image.fromarray(values[0] if len(values) == 1 else np.moveaxis(values, 0, 2))
        if channels not in (1, 3):
            raise ImageError(f"has 1 or 3 channels, the network sees {channels}")
        read = pixels_of_image if isinstance(image, Image.Image) else read_image
        pixels, words = read(image, channels, size)  # type: ignore[arg-type]
        return self._in_levels(pixels), words

    def _in_levels(self, pixels: np.ndarray) -> np.ndarray:
        if self.white == 255:
            return pixels
        return np.round(pixels * (self.white / 255)).astype(np.uint8)


class Transform:
    """Images of any size and kind → what a network sees of them.

    Args:
        preprocessing: how.
        device: of what comes out.
    """

    def __init__(self, preprocessing: Preprocessing, device: torch.device):
        self.preprocessing, self._device = preprocessing, device
        self._normalize = preprocessing.normalize(device)

    def __call__(
        self, images: Image.Image | Tensor | str | Iterable[Image.Image | Tensor | str]
    ) -> Tensor:
        """(B, C, H, W) float32 on the device.

        Args:
            images: one or several: of Pillow; uint8 tensors (C, H, W), several of one size also as
                (B, C, H, W); or paths.

        Raises:
            ImageError: when one cannot be decoded, or has other channels.
        """
        alone = isinstance(images, Image.Image | str) or (
            isinstance(images, Tensor) and images.ndim == 3
        )
        every: Any = [images] if alone else images
        return self.of_pixels([self.preprocessing.pixels(image)[0] for image in every])

    def of_pixels(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """(B, C, H, W) float32 on the device of (C, H, W) uint8 each, as `Preprocessing.pixels`."""
        # filled, not stacked: strides along a side of 1 decide which kernel of a convolution runs
        batch = np.empty((len(pixels), *self.preprocessing.image_shape), np.uint8)
        for row, one in zip(batch, pixels, strict=True):
            row[:] = one
        return self._normalize(torch.from_numpy(batch).to(self._device))
