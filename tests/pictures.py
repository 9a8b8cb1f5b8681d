"""Small picture files, and data sets made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lrexp.data.dataset import Dataset, make_dataset
from lrexp.data.source import EncodedImages, Source
from lrexp.data.splits import choose

CPU = torch.device("cpu")


def pictures(folder: Path, count: int = 40, side: int = 12, seed: int = 0) -> Source:
    """PNG files of random pixels, two classes."""
    drawn = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)
    files = [str(folder / f"{i}.png") for i in range(count)]
    for file, pixels in zip(files, drawn, strict=True):
        Image.fromarray(pixels).save(file)
    images = EncodedImages(files.__getitem__, files.__getitem__, channels=3, size=None)
    return Source(images, np.arange(count) % 2, ("even", "odd"))


def dataset(
    source: Source, *, limit: int | None = None, drop_unlabeled: bool = False, **changes: Any
) -> Dataset:
    chosen = choose(
        source, seed=0, classes=None, limit=limit, limit_per_class=None,
        val_fraction=0.2, test_fraction=0.2, drop_unlabeled=drop_unlabeled,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "seed": 0, "normalize": None, "augment": None, "train_eval_limit": 100,
        "in_memory": True, "workers": 0, "leak_check": False, "drop_corrupt": False, "device": CPU,
    }  # fmt: skip
    return make_dataset(source, chosen, **(settings | changes))
