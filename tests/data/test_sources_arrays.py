"""Arrays, .npz files, save_to_disk and functions as data; and what is no data for classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_parts import stripes
from PIL import Image

from lrexp.config.errors import ConfigError, UserError
from lrexp.config.parts import given
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages, Source
from lrexp.data.sources.arrays import from_arrays
from lrexp.data.sources.csv_table import csv_table
from lrexp.data.sources.custom import custom_data
from lrexp.data.sources.hf import hf
from lrexp.data.sources.npz import npz

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 8, 6), dtype=np.uint8)
LABELS = np.arange(20) % 3
DETECTION, SEGMENTATION, REGRESSION = "object detection", "segmentation", r"amounts \(regression\)"


def read(given: Any) -> Source:
    return from_arrays("mine", given, 3)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Source]:
    def save(**arrays: Any) -> Source:
        np.savez(tmp_path / "f.npz", **arrays)
        return npz(str(tmp_path / "f.npz"))

    return save


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (IMAGES, (20, 1, 8, 6)),
        (IMAGES[..., None], (20, 1, 8, 6)),
        (IMAGES[:, None].repeat(3, 1), (20, 3, 8, 6)),
        (IMAGES[..., None].repeat(3, 3), (20, 3, 8, 6)),
        (torch.from_numpy(IMAGES), (20, 1, 8, 6)),
        (list(IMAGES), (20, 1, 8, 6)),
        (IMAGES / np.float32(255), (20, 1, 8, 6)),
        (IMAGES.astype(np.int64), (20, 1, 8, 6)),
    ],
)
def test_images_of_every_layout_are_the_same_pixels(images: Any, shape: tuple[int, ...]) -> None:
    found = read((images, LABELS)).images
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == (shape, np.uint8)
    assert (found == IMAGES[:, None]).all()


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES.reshape(20, 48), r"shape \(20, 48\)\n.*reshape\(-1, height, width\)"),
        (np.zeros((20, 8, 8, 4), np.uint8), r"\(20, 8, 8, 4\)\n.*images\[\.\.\., :3\]"),
        (IMAGES / 127.5 - 1, r"float64 from -1 to 1, which says nothing.*\n.*data\.normalize"),
        (IMAGES.astype(np.uint16) * 257, r"from 0 to 65535.*\n.*images // 257"),
        (np.full((20, 8, 6), np.nan), "20 of 20 images hold NaN"),
        ([IMAGES[0], IMAGES[1, :4]], r"several shapes.*\n.*data\.image_size"),
        (IMAGES.astype(str)[:, 0, 0].astype(object), "several shapes, or Python objects"),
    ],
)
def test_what_is_no_image_is_said(images: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read((images, LABELS))


def test_labels_are_numbers_or_text_with_the_names_there_are() -> None:
    assert read((IMAGES, LABELS + 5)).class_names == ("5", "6", "7")
    words = np.array(["a", "b", ""])[LABELS]
    text = read((IMAGES, words))
    assert (text.class_names, text.labels[:3].tolist()) == (("a", "b"), [0, 1, -1])
    named = {"images": IMAGES, "labels": LABELS[:, None], "class_names": ["x", "y", "z", "none"]}
    assert read(named).class_names == ("x", "y", "z", "none")
    assert read({**named, "labels": np.array(["x", "y", "z"])[LABELS]}).labels.tolist() == [*LABELS]
    assert (read((IMAGES, LABELS.astype(float))).labels == LABELS).all()
    one_hot = read((IMAGES, np.eye(3)[LABELS]))
    assert (one_hot.labels == LABELS).all()
    assert "one class per image" in one_hot.notes[0]
    several = RNG.integers(0, 2, (20, 3))
    several[0] = 1
    assert (read((IMAGES, several)).labels == several).all()
    assert read((IMAGES, several)).multi_label


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (RNG.random(20), REGRESSION),
        (RNG.random(20).astype(str), REGRESSION),
        (RNG.random((20, 4)), DETECTION),
        (RNG.integers(0, 2, (20, 8, 6)), SEGMENTATION),
        (RNG.random((20, 3)), r"other numbers than 0 and 1\n.*0 and 1 for several"),
        (LABELS[:7], r"labels have shape \(7,\), there are 20 images"),
        ([[0], [1, 2]] * 10, "lists of several lengths"),
        (np.array([{}] * 20), "hold a dict"),
    ],
)
def test_labels_of_other_tasks_are_told_what_to_use_instead(labels: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read((IMAGES, labels))


def test_splits_and_groups_are_kept() -> None:
    split = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    found = read({"images": IMAGES, "labels": LABELS, "split": split, "groups": list("ab") * 10})
    assert found.split is not None
    assert found.split.tolist() == [TRAIN] * 10 + [VAL] * 5 + [TEST] * 5
    assert found.groups is not None
    assert (found.groups.tolist()[:3], found.group_names) == ([0, 1, 0], ("a", "b"))
    parts = {"train": (IMAGES, LABELS), "test": {"x": IMAGES[:5], "y": LABELS[:5]}}
    joined = read({**parts, "class_names": ["a", "b", "c"]})
    assert joined.split is not None
    assert (len(joined.labels), joined.split[-5:].tolist()) == (25, [TEST] * 5)
    with pytest.raises(UserError, match="split 'later' is none of train, val and test"):
        read({"images": IMAGES, "labels": LABELS, "split": ["later"] * 20})
    with pytest.raises(UserError, match=r"images of the splits do not fit: train .*, test "):
        read({"train": (IMAGES, LABELS), "test": (IMAGES[:, :4], LABELS)})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "gives a NoneType"),
        ((IMAGES, LABELS, LABELS), "gives 3 values"),
        ({"images": IMAGES, "label": LABELS}, "did you mean 'labels'"),
        ({"images": IMAGES}, "gives no labels, but images"),
        ({"images": IMAGES, "labels": LABELS, "class_names": ["a"]}, "none of 1 class_names"),
    ],
)
def test_what_is_not_images_and_labels_is_said(data: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read(data)


def test_names_of_files_are_read_when_they_are_needed(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(20)]
    for file, pixels in zip(files, IMAGES, strict=True):
        Image.fromarray(pixels).save(file)
    found = from_arrays("mine", (files, LABELS), 1)
    assert isinstance(found.images, EncodedImages)
    assert (found.read(3)[0] == IMAGES[3]).all()
    assert found.name(3) == str(files[3])


# --- Files of numpy's -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("images", "labels"), None),
        (("x", "y"), None),
        (("x_train", "y_train", "x_test", "y_test"), TEST),
        (("train_images", "train_labels", "val_images", "val_labels"), VAL),
    ],
)
def test_npz_is_read_under_the_names_that_are_usual(
    saved: Callable[..., Source], names: tuple[str, ...], split: int | None
) -> None:
    pairs = [IMAGES, LABELS, IMAGES[:5], LABELS[:5]]
    found = saved(**dict(zip(names, pairs, strict=False)))
    assert len(found.labels) == (20 if split is None else 25)
    assert (found.split is None) == (split is None)
    if found.split is not None:
        assert found.split[-5:].tolist() == [split] * 5


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES, "labels": np.array(["a", None] * 10, object)}, "never unpickled"),
        ({"images": IMAGES, "masks": LABELS}, "masks is nothing that is read"),
        ({"x": IMAGES, "y": LABELS, "x_train": IMAGES}, "images of splits, and others"),
        ({"images": IMAGES, "labels": RNG.random((20, 4))}, DETECTION),
    ],
)
def test_npz_of_other_things_is_refused(
    saved: Callable[..., Source], arrays: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        saved(**arrays)


def test_what_is_no_npz_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", IMAGES)
    np.savez(tmp_path / "cut.npz", images=IMAGES, labels=LABELS)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:400] + whole[700:])
    for name in ("one.npy", "cut.npz"):
        with pytest.raises(UserError, match=rf"{name} (is no \.npz|cannot be read as \.npz)"):
            npz(str(tmp_path / name))


# --- Functions, and Hugging Face's ----------------------------------------------------------------


def dataset(**columns: Any) -> Any:
    import datasets

    rows = datasets.Dataset.from_dict({"image": [*map(Image.fromarray, IMAGES)], **columns})
    return rows.cast_column("image", datasets.Image())


def test_a_dataset_in_memory_is_read_as_its_rows_stand() -> None:
    rows = dataset(label=[*map(int, LABELS)], person=list("ab") * 10).select([5, 2, 9])
    with given({"in_memory.x": lambda: rows}):
        found = custom_data("mine", "in_memory.x", {}, 1, "person")
    assert [found.class_names[label] for label in found.labels] == ["2", "2", "0"]
    assert (found.read(0)[0] == IMAGES[5]).all()
    assert found.groups is not None
    assert found.groups.tolist() == [1, 0, 1]
    with (
        given({"in_memory.x": lambda: (IMAGES, LABELS)}),
        pytest.raises(ConfigError, match=r"data\.group_by=person: arrays have no columns"),
    ):
        custom_data("mine", "in_memory.x", {}, 1, "person")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"label": RNG.random(20).tolist()}, REGRESSION),
        ({"label": RNG.random((20, 4)).tolist()}, DETECTION),
        ({"objects": [{"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1]}] * 20}, DETECTION),
        ({"mask": [*map(Image.fromarray, IMAGES)]}, SEGMENTATION),
    ],
)
def test_a_folder_of_save_to_disk_for_another_task_says_what_to_use(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    import datasets

    rows = dataset(**columns)
    rows = rows.cast_column("mask", datasets.Image()) if "mask" in columns else rows
    rows.save_to_disk(str(tmp_path / "d"))
    with pytest.raises(UserError, match=said):
        hf(str(tmp_path / "d"), *[None] * 7, 1, None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["path,label,xmin,ymax", "a.png,cat,1,2", "a.png,dog,3,4", "b.png,cat,1,2"], DETECTION),
        (["path,label", "a.png,a_mask.png", "b.png,b_mask.png"], SEGMENTATION),
        (["path,label", "a.png,0.5", "b.png,1.5"], REGRESSION),
    ],
)
def test_a_table_for_another_task_says_what_to_use(
    tmp_path: Path, lines: list[str], said: str
) -> None:
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=said):
        csv_table(str(tmp_path / "t.csv"), None, False, 3, None, {}, None)


def test_the_same_stripes_by_function_and_from_a_file(saved: Callable[..., Source]) -> None:
    images, labels = stripes()
    with given({"in_memory.x": stripes}):
        function = custom_data("mine", "in_memory.x", {"count": 80}, 1, None)
    file = saved(images=images, labels=labels)
    assert isinstance(function.images, np.ndarray)
    assert isinstance(file.images, np.ndarray)
    assert (function.images == file.images).all()
    assert (function.labels == file.labels).all()
