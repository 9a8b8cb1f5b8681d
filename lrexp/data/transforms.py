"""From uint8 pixels to what the network sees: augmentation and normalisation, batch by batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrexp.data import draws
from lrexp.data.feeding import placed


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
        self.white = white
        scale = 1 / (white * np.asarray(std, np.float32))[:, None, None]
        shift = (np.asarray(mean, np.float32) / np.asarray(std, np.float32))[:, None, None]
        self._scale, self._shift = (torch.from_numpy(x).to(device) for x in (scale, shift))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) uint8 → float32."""
        return images.float().mul_(self._scale).sub_(self._shift)


@dataclass(frozen=True)
class Augment:
    """Random changes of training images, each a function of (seed, epoch, image) alone.

    `basic`: zero padding by an eighth of the side on every edge, a random crop of the former size,
    and a horizontal flip of every second image (He et al. 2016, who pad 32-pixel images by 4).

    `trivial`: `basic`, and then one of 14 operations with one of 31 strengths, both uniform
    (TrivialAugment, Müller and Hutter 2021, the wide space), through torchvision's functions.
    """

    kind: str  # basic or trivial
    seed: int  # moves every draw

    def draw(
        self, ids: np.ndarray, epoch: int, shape: tuple[int, int, int], device: torch.device
    ) -> Drawn:
        """What happens to images in an epoch, drawn for many batches at once.

        Args:
            ids: (n,) position of each image in its source.
            epoch: 1-based.
            shape: (C, H, W) of every image.
            device: of the images.
        """
        crops = _draw_crops(draws.draw_each(self.seed, "crop", ids, epoch), *shape[1:])
        operations = None
        if self.kind == "trivial":
            operations = _draw_operations(draws.draw_each(self.seed, "trivial", ids, epoch))
        return Drawn(placed(crops, device), operations)

    def __call__(self, images: Tensor, ids: np.ndarray, epoch: int) -> Tensor:
        """(B, C, H, W) uint8 → the same, changed as `draw` says for these (B,) ids."""
        _, c, h, w = images.shape
        return self.draw(ids, epoch, (c, h, w), images.device)(images)


@dataclass(frozen=True)
class Drawn:
    """What `Augment` does to each of n images; a slice is that of some of them."""

    crops: Tensor  # (n, 2) int64 on the device, see `_draw_crops`
    operations: np.ndarray | None  # (n,) int64 on the host, see `_draw_operations`

    def __getitem__(self, rows: slice) -> Drawn:
        return Drawn(self.crops[rows], None if self.operations is None else self.operations[rows])

    def __call__(self, images: Tensor) -> Tensor:
        """(n, C, H, W) uint8 → the same, changed."""
        images = _crop_and_flip(images, self.crops)
        return images if self.operations is None else _trivial(images, self.operations)


def _below(count: int, drawn: np.ndarray, shift: int) -> np.ndarray:
    """(n,) uint64 → (n,) int64 in [0, count), of the 20 bits from `shift` on."""
    return ((drawn >> np.uint64(shift)) & np.uint64(0xFFFFF)).astype(np.int64) * count >> 20


def _padding(height: int, width: int) -> tuple[int, int]:
    """Pixels added above and below, and left and right."""
    return max(1, round(height / 8)), max(1, round(width / 8))


def _draw_crops(drawn: np.ndarray, height: int, width: int) -> np.ndarray:
    """Where in the flat padded image a crop's first pixel is, and the step to its next: 1 or -1.

    A mirror image starts at the right edge of the crop and steps to the left.

    Args:
        drawn: (n,) uint64.
        height: of images.
        width: of images.

    Returns:
        (n, 2) int64.
    """
    y, x = _padding(height, width)
    top, left = _below(2 * y + 1, drawn, 0), _below(2 * x + 1, drawn, 20)
    flipped = (drawn >> np.uint64(63)).astype(np.int64)
    start = top * (width + 2 * x) + left + flipped * (width - 1)
    return np.stack([start, 1 - 2 * flipped], 1)


def _crop_and_flip(images: Tensor, crops: Tensor) -> Tensor:
    """Crops of the zero-padded images, every second one flipped."""
    batch, channels, height, width = images.shape
    pads = _padding(height, width)
    padded = F.pad(images, (pads[1], pads[1], pads[0], pads[0]))
    y = torch.arange(height, device=images.device) * padded.shape[3]
    x = torch.arange(width, device=images.device)
    start, step = crops[:, :1], crops[:, 1:]
    index = (start + y)[:, :, None] + (step * x)[:, None, :]  # (B, H, W) in the flat padded image
    index = index.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.view(batch, channels, -1).gather(2, index).view(images.shape)


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


MOVES = {"shear_x", "shear_y", "translate_x", "translate_y", "rotate"}  # pixels to other places
MAPS = {"brightness", "posterize", "solarize"}  # every pixel by its value alone
MOST_PIXELS = 2**16  # of images whose moves are remembered: at most 310 of 4 bytes per pixel


def _draw_operations(drawn: np.ndarray) -> np.ndarray:
    """(n,) uint64 → (n,) int64 codes: (operation · 31 + strength) · 2, odd when negated."""
    operation, strength = _below(len(OPERATIONS), drawn, 0), _below(BINS, drawn, 20)
    one = np.array([len(strengths) == 1 for strengths, _ in OPERATIONS.values()])[operation]
    signed = np.array([signed for _, signed in OPERATIONS.values()])[operation]
    negative = (drawn >> np.uint64(63)).astype(np.int64)
    return (operation * BINS + np.where(one, 0, strength)) * 2 + negative * signed


def decoded(code: int) -> tuple[str, float]:
    """The operation and its strength that a code of `_draw_operations` stands for."""
    operation, level = divmod(code // 2, BINS)
    name = list(OPERATIONS)[operation]
    return name, OPERATIONS[name][0][level] * (-1 if code % 2 else 1)


def _trivial(images: Tensor, codes: np.ndarray) -> Tensor:
    """One operation per image, as (B,) codes say, of as many images at a time as can be."""
    _, _, height, width = images.shape
    together: dict[object, list[int]] = {}
    for row, code in enumerate(codes.tolist()):
        name, _ = decoded(code)
        if name in MAPS:
            together.setdefault("maps", []).append(row)
        elif name in MOVES and height * width <= MOST_PIXELS:
            together.setdefault("moves", []).append(row)
        elif name != "identity":
            together.setdefault(code, []).append(row)
    changed = images.clone()
    for kind, members in together.items():
        rows = placed(np.array(members), images.device)
        chosen, drawn = images.index_select(0, rows), codes[members].tolist()
        if kind == "maps":
            chosen = _mapped(chosen, drawn)
        elif kind == "moves":
            chosen = _moved(chosen, drawn)
        else:
            name, amount = decoded(drawn[0])
            chosen = operate(name, chosen, amount)
        changed.index_copy_(0, rows, chosen)
    return changed


def _mapped(images: Tensor, codes: list[int]) -> Tensor:
    """(n, C, H, W) uint8 images, each by its table of new values."""
    tables = torch.stack([_table(code, images.device) for code in codes])  # (n, 256)
    return tables.gather(1, images.flatten(1).long()).view(images.shape)


def _moved(images: Tensor, codes: list[int]) -> Tensor:
    """(n, C, H, W) uint8 images, each by its table of where pixels come from."""
    n, channels, height, width = images.shape
    tables = torch.stack([_origins(code, height, width, images.device) for code in codes])
    black_first = F.pad(images.flatten(2), (1, 0))
    index = tables.long()[:, None].expand(n, channels, -1)
    return black_first.gather(2, index).view(images.shape)


@functools.lru_cache(maxsize=256)
def _table(code: int, device: torch.device) -> Tensor:
    """(256,) uint8: what an operation of `MAPS` makes of every value."""
    name, amount = decoded(code)
    values = torch.arange(256, dtype=torch.uint8, device=device).view(1, 1, 16, 16)
    return operate(name, values, amount).flatten()


@functools.lru_cache(maxsize=310)
def _origins(code: int, height: int, width: int, device: torch.device) -> Tensor:
    """(H · W,) int32: 1 + the pixel that an operation of `MOVES` takes, 0 where it is outside.

    Found by moving an image of numbered pixels, so that it is torchvision's choice to the pixel.
    """
    name, amount = decoded(code)
    numbered = torch.arange(1, height * width + 1, dtype=torch.float32, device=device)
    return operate(name, numbered.view(1, 1, height, width), amount).flatten().int()


def operate(operation: str, images: Tensor, amount: float) -> Tensor:
    """Apply one of `OPERATIONS` to (B, C, H, W) images with one strength."""
    from torchvision.transforms.v2 import functional as V

    affine = functools.partial(V.affine, images, angle=0.0, scale=1.0)
    degrees = math.degrees(math.atan(amount))
    change = {
        "identity": lambda: images,
        "shear_x": lambda: affine(translate=[0, 0], shear=[degrees, 0.0], center=[0, 0]),
        "shear_y": lambda: affine(translate=[0, 0], shear=[0.0, degrees], center=[0, 0]),
        "translate_x": lambda: affine(translate=[int(amount), 0], shear=[0.0, 0.0]),
        "translate_y": lambda: affine(translate=[0, int(amount)], shear=[0.0, 0.0]),
        "rotate": lambda: V.rotate(images, amount),
        "brightness": lambda: V.adjust_brightness(images, 1.0 + amount),
        "color": lambda: V.adjust_saturation(images, 1.0 + amount),
        "contrast": lambda: V.adjust_contrast(images, 1.0 + amount),
        "sharpness": lambda: V.adjust_sharpness(images, 1.0 + amount),
        "posterize": lambda: V.posterize(images, int(amount)),
        "solarize": lambda: V.solarize(images, 255.0 * amount),
        "autocontrast": lambda: V.autocontrast(images),
        "equalize": lambda: V.equalize(images),
    }[operation]
    return change()
