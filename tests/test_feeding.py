"""Feeding: memory and stream give the same bytes, augmented or not, whatever reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lrexp.data import Augment, Dataset, Source, choose, make_dataset
from lrexp.data.source import EncodedImages
from lrexp.errors import UserError

CPU = torch.device("cpu")


def pictures(folder: Path, count: int = 40, side: int = 12) -> Source:
    """PNG files of random pixels, two classes."""
    drawn = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    files = [str(folder / f"{i}.png") for i in range(count)]
    for file, pixels in zip(files, drawn, strict=True):
        Image.fromarray(pixels).save(file)
    images = EncodedImages(files.__getitem__, files.__getitem__, count, channels=3, size=None)
    return Source(images, np.arange(count) % 2, ("even", "odd"))


def dataset(source: Source, *, limit: int | None = None, **changes: Any) -> Dataset:
    chosen = choose(
        source, seed=0, classes=None, limit=limit, limit_per_class=None,
        val_fraction=0.2, test_fraction=0.2, drop_unlabeled=False,
    )  # fmt: skip
    settings: dict[str, Any] = {
        "seed": 0, "normalize": None, "augment": None, "train_eval_limit": 100,
        "in_memory": True, "workers": 0, "leak_check": False, "drop_corrupt": False, "device": CPU,
    }  # fmt: skip
    return make_dataset(source, chosen, **(settings | changes))


def batches(made: Dataset, epoch: int | None) -> list[torch.Tensor]:
    order = np.random.default_rng(1).permutation(len(made.train))
    found = list(made.train.batches(order, 7, epoch))
    assert [len(images) for images, _ in found] == [7, 7, 7, 3]
    for (_, labels), start in zip(found, range(0, 24, 7), strict=True):
        assert labels.tolist() == (made.train.ids[order[start : start + 7]] % 2).tolist()
    return [images for images, _ in found]


@pytest.mark.parametrize("augment", [None, "basic", "trivial"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bits_from_memory_and_streamed(
    augment: str | None, workers: int, tmp_path: Path
) -> None:
    source = pictures(tmp_path)
    changes: dict[str, Any] = {"augment": augment and Augment(augment, 3), "workers": workers}
    held = dataset(source, in_memory=True, **changes)
    streamed = dataset(source, in_memory=False, **changes)
    assert (held.mean, held.std) == (streamed.mean, streamed.std)
    for epoch in (1, 2):
        pairs = zip(batches(held, epoch), batches(streamed, epoch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(held.val.images, streamed.val.images)


def test_an_array_is_streamed_like_files_and_resized_alike_on_both_paths() -> None:
    drawn = np.random.default_rng(0).integers(0, 17, (40, 1, 8, 8), np.uint8)
    source = Source(drawn, np.arange(40) % 2, ("even", "odd"), white=16).of_size(12)
    held, streamed = (dataset(source, in_memory=b) for b in (True, False))
    assert held.image_shape == streamed.image_shape == (1, 12, 12)
    assert torch.equal(held.train.images, streamed.train.images)
    plain = dataset(Source(drawn, np.arange(40) % 2, ("even", "odd"), white=16))
    assert abs(held.mean[0] - plain.mean[0]) < 0.02  # white is still 1


def test_augmentation_changes_training_batches_and_nothing_else(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    plain, changed = dataset(source), dataset(source, augment=Augment("basic", 0))
    assert not torch.equal(torch.cat(batches(plain, 1)), torch.cat(batches(changed, 1)))
    assert torch.equal(torch.cat(batches(plain, None)), torch.cat(batches(changed, None)))
    order = np.arange(len(plain.val))
    for name in ("train_eval", "val", "test"):
        a, b = (next(getattr(d, name).batches(order[:4], 4, 1))[0] for d in (plain, changed))
        assert torch.equal(a, b)


def test_statistics_of_the_training_images_are_measured_when_nobody_states_them(
    tmp_path: Path,
) -> None:
    made = dataset(pictures(tmp_path))
    images = made.train.images.double()
    assert images.mean((0, 2, 3)).abs().max() < 1e-5
    assert (images.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5


@pytest.mark.parametrize("in_memory", [True, False])
def test_images_of_several_sizes_need_a_size(in_memory: bool, tmp_path: Path) -> None:
    source = pictures(tmp_path)
    Image.new("RGB", (12, 13)).save(tmp_path / "7.png")
    with pytest.raises(UserError, match=r"13×12, other images are 12×12\n.*data\.image_size=N"):
        dataset(source, in_memory=in_memory).val.images  # noqa: B018 (reads them)


def test_only_what_is_chosen_is_read(tmp_path: Path) -> None:
    source = pictures(tmp_path)
    made = dataset(source, limit=4)
    used = {int(i) for s in (made.train, made.val, made.test) for i in s.ids}  # type: ignore[union-attr]
    for i in set(range(40)) - used:
        (tmp_path / f"{i}.png").unlink()
    assert torch.equal(dataset(source, limit=4).train.images, made.train.images)
