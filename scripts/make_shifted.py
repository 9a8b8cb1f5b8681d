"""Shifted images for scripts/benchmark_policies.py: what pretrained networks did not see.

    python scripts/make_shifted.py DATA OUT

DATA holds cifar10_10k/ and hymenoptera/. OUT gets, once and always the same,

    cifar_noise/ cifar_blur/ cifar_contrast/   images changed, labels as they are
    cifar_flipped/                             labels changed: class c is called 9 - c
    hymenoptera/                               train/ and test/: links to train/ and val/ there

Of CIFAR-10 the first 400 training images train, the next 300 validate, and the first 1,000 test
images test. Pixels in [0, 1] get Gaussian noise of standard deviation 0.1, a Gaussian blur of 1.5
pixels, or a quarter of their distance from the image's mean. Kinds of corruption as in Hendrycks
and Dietterich 2019 (https://arxiv.org/abs/1903.12261), in a strength of our own; flipped labels as
in Lee et al. 2022 (https://arxiv.org/abs/2210.11466).
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

TRAIN, VAL = 400, 300  # images of the training file; all of the test file test
PARTS = {"train": ("train", 0, TRAIN), "validation": ("train", TRAIN, TRAIN + VAL)}
PARTS["test"] = ("test", 0, 1000)
Corrupt = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # (H, W, 3) in [0, 1], likewise


def noise(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of standard deviation 0.1."""
    return pixels + rng.normal(scale=0.1, size=pixels.shape)


def blur(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian blur of 1.5 pixels."""
    image = Image.fromarray((255 * pixels).round().astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(1.5))) / 255


def contrast(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A quarter of every pixel's distance from the mean of the image's channel."""
    mean = pixels.mean(axis=(0, 1))
    return mean + 0.25 * (pixels - mean)


CORRUPTIONS: dict[str, Corrupt] = {"noise": noise, "blur": blur, "contrast": contrast}


def corrupted(png: bytes, corrupt: Corrupt, row: int) -> bytes:
    """An image as PNG, changed; what is drawn depends on its row alone."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    changed = corrupt(pixels, np.random.default_rng(row))
    out = io.BytesIO()
    Image.fromarray((255 * changed.clip(0, 1)).round().astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def shifted(table: Any, kind: str) -> Any:
    """A table of images and labels, of which one is changed; its schema stays."""
    import pyarrow as pa

    schema, rows = table.schema, table.to_pylist()
    for i, row in enumerate(rows):
        if kind == "flipped":
            row["label"] = 9 - row["label"]
        else:
            row["image"] = {"bytes": corrupted(row["image"]["bytes"], CORRUPTIONS[kind], i)}
    return pa.Table.from_pylist(rows, schema=schema)


def make(data: Path, out: Path) -> None:
    """Whatever of it is not there."""
    import pyarrow.parquet as pq

    tables = {
        name: pq.read_table(data / f"cifar10_10k/{name}.parquet") for name in ("train", "test")
    }
    for kind in (*CORRUPTIONS, "flipped"):
        folder = out / f"cifar_{kind}"
        if folder.is_dir():
            continue
        unfinished = folder.with_suffix(".part")
        unfinished.mkdir(parents=True, exist_ok=True)
        for part, (of, first, end) in PARTS.items():
            table = tables[of].slice(first, end - first)
            pq.write_table(shifted(table, kind), unfinished / f"{part}.parquet")
        unfinished.rename(folder)
    photos = out / "hymenoptera"
    for part, of in (("train", "train"), ("test", "val")):
        photos.mkdir(parents=True, exist_ok=True)
        if not (photos / part).is_symlink():
            os.symlink((data / "hymenoptera" / of).resolve(), photos / part)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    make(asked.data, asked.out)
