"""The images that the best weights are most wrong about, small enough to keep with a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lrexp.data.dataset import Split

MOST = 24
SIDE = 64  # pixels, of the longer side


def write_wrong_images(
    file: Path,
    name: str,
    split: Split,
    logits: Tensor,
    losses: np.ndarray,
    correct: np.ndarray,
    class_names: Sequence[str],
) -> None:
    """Wrongly predicted images with the highest loss, worst first, as compressed arrays.

    Arrays, k of them at most 24: `images` (k, H, W, 1 or 3) uint8, at most 64 pixels high and wide;
    `item`, `true`, `predicted` (k,) text; `score` and `true_score` (k,) probabilities of the
    predicted and the true class (with several labels per image: NaN); `loss` (k,); `split` text.

    Args:
        file: written whole or not at all; nothing is written when no image is wrong.
        name: of the split.
        split: whose images they are.
        logits: (n, classes).
        losses: (n,) per image.
        correct: (n,) 1 where every label of the image is right.
        class_names: (classes,).
    """
    wrong = np.flatnonzero(correct == 0)
    chosen = wrong[np.argsort(-losses[wrong], kind="stable")][:MOST]
    if not len(chosen):
        return
    order = torch.from_numpy(chosen).to(split.labels.device)
    labels, scores = split.labels[order].cpu(), logits[order].float().cpu()
    if labels.ndim == 2:
        said, truly = scores > 0, labels > 0
        predicted, true = ([_named(row, class_names) for row in rows] for rows in (said, truly))
        score = true_score = np.full(len(chosen), np.nan)
    else:
        scores = torch.softmax(scores, 1)
        best = scores.argmax(1)
        predicted, true = ([class_names[i] for i in found.tolist()] for found in (best, labels))
        score, true_score = (scores.gather(1, i[:, None])[:, 0].numpy() for i in (best, labels))
    pixels = torch.cat([part.cpu() for part in split.pixels.batches(split.rows[chosen], MOST)])
    fresh = file.with_name(f".{file.stem}.{os.getpid()}.tmp.npz")
    np.savez_compressed(
        fresh,
        images=_small(pixels, split.normalize.white).permute(0, 2, 3, 1).numpy(),
        item=np.array([split.name(int(i)) for i in split.ids[chosen]]),
        true=np.array(true),
        predicted=np.array(predicted),
        score=score,
        true_score=true_score,
        loss=losses[chosen],
        split=np.array(name),
    )
    fresh.replace(file)


def _named(row: Tensor, class_names: Sequence[str]) -> str:
    """The classes of a row of booleans."""
    places: list[int] = row.nonzero()[:, 0].tolist()
    return ", ".join(class_names[i] for i in places) or "none"


def _small(pixels: Tensor, white: int) -> Tensor:
    """(k, 1 or 3, h, w) uint8 of (k, C, H, W) uint8; of other channels the first or first three.

    Args:
        pixels: of the images.
        white: the pixel value that becomes 255.
    """
    pixels = pixels[:, : 3 if pixels.shape[1] >= 3 else 1]
    if white != 255:
        pixels = (pixels.float() * (255 / white)).round().clamp(0, 255).to(torch.uint8)
    height, width = pixels.shape[-2:]
    if max(height, width) <= SIDE:
        return pixels
    shrink = SIDE / max(height, width)
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    smaller = F.interpolate(pixels.float(), size, mode="bilinear", antialias=True)
    return smaller.round().clamp(0, 255).to(torch.uint8)
