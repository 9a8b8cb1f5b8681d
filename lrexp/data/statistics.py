"""What the pixels of the training images are normalised by."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from lrexp.config.errors import UserError
from lrexp.config.schema.training import LEAST_STD
from lrexp.data.draws import cut
from lrexp.data.feeding import Pixels

UNSCALED = 1.0  # as std of a constant channel; that of values in [0, 1] is 0.5 at most


def channel_statistics(
    pixels: Pixels, rows: np.ndarray, white: int
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel over all pixels of the rows, white being 1.

    A channel that is (nearly) the same everywhere is centred and not scaled: its standard deviation
    counts as 1, for divided by what it is, noise or a value never seen would drown all others.

    Raises:
        UserError: when every channel is so, and nothing can be learnt.
    """
    # pixels are whole numbers, and their sums exact: nothing is left of a constant but a 0
    sums, count = [[0, 0] for _ in range(pixels.shape[0])], 0
    for images in pixels.batches(cut(rows, 1024)):
        values = (images.cpu() if images.device.type == "mps" else images).double()
        found = torch.stack([values.sum((0, 2, 3)), (values**2).sum((0, 2, 3))], 1).tolist()
        sums = [[s + int(a), q + int(b)] for (s, q), (a, b) in zip(sums, found, strict=True)]
        count += values.numel() // values.shape[1]
    mean = [s / count / white for s, _ in sums]
    found = [(count * q - s * s) ** 0.5 / count / white for s, q in sums]
    if max(found) < LEAST_STD:
        shown = ", ".join(f"{m:.3g}" for m in mean)
        raise UserError(
            f"data: every pixel of every training image is {shown} (white is 1): nothing to learn"
        )
    std = [UNSCALED if s < LEAST_STD else s for s in found]
    return [round(m, 6) for m in mean], [round(s, 6) for s in std]


def unscaled(mean: list[float], std: list[float]) -> Iterator[str]:
    """A sentence on channels that are the same in every training image."""
    flat = [f"channel {c} (it is {mean[c]:.3g})" for c, s in enumerate(std) if s == UNSCALED]
    if flat:
        are = f"{flat[0]} is" if len(flat) == 1 else f"{' and '.join(flat)} are"
        yield f"{are} the same all over the training images: centred, not divided by its std of 0"
