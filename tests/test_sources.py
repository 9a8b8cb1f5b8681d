"""Data sources: what each reads from small files, and what it says of files that are wrong."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import importlib
import io
import logging
import os
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torchvision.datasets
from PIL import Image

from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL, Source
from lrexp.data.sources import SOURCES, csv_table, imagefolder, synthetic
from lrexp.errors import ConfigError, UserError

HF = importlib.import_module("lrexp.data.sources.hf")
SETS = importlib.import_module("lrexp.data.sources.torchvision_sets")
DATA = os.environ.get("LREXP_TEST_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="LREXP_TEST_DATA is not set")


def png(value: int = 0) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value, value, value)).save(file, "PNG")
    return file.getvalue()


def put(folder: Path, *names: str) -> Path:
    """Images of those names below a folder, each of a grey of its own."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(value))
    return folder


def pixel(source: Source, i: int) -> int:
    """The grey of image i."""
    assert not isinstance(source.images, np.ndarray)
    return int(source.images.read(i)[0][0, 0, 0])


def written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


# --- imagefolder ----------------------------------------------------------------------------


def test_folders_are_the_classes_and_files_come_in_order(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "a/x.PNG", "b/1.jpg", "b/deep/3.png")
    source = imagefolder(str(tmp_path), 3)
    assert source.class_names == ("a", "b")
    assert source.labels.tolist() == [0, 1, 1, 1]
    assert source.split is None
    assert [pixel(source, i) for i in range(4)] == [1, 2, 0, 3]
    assert source.name(1) == str(tmp_path / "b" / "1.jpg")


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_folders_of_splits_above_the_classes_are_the_splits(tmp_path: Path, val: str) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", f"{val}/b/1.png", "test/a/1.png")
    source = imagefolder(str(tmp_path), 1)
    assert source.split is not None
    found = sorted(zip(source.split.tolist(), source.labels.tolist(), strict=True))
    assert found == [(TRAIN, 0), (TRAIN, 1), (VAL, 1), (TEST, 0)]
    assert source.images.read(0)[0].shape == (1, 4, 4)  # type: ignore[union-attr]


def test_hidden_files_and_other_files_are_ignored_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "a/.hidden.png", ".cache/x.png", "a/.git/x.png")
    written(tmp_path / "a" / "notes.txt", "")
    assert len(imagefolder(str(tmp_path), 3).labels) == 2
    assert "2 hidden files or files that are no images" in caplog.text


def test_a_class_without_images_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "train/a/1.png", "train/b/1.png", "val/c/1.png")
    (tmp_path / "train" / "empty").mkdir()
    assert imagefolder(str(tmp_path), 3).class_names == ("a", "b", "c", "empty")
    assert "2 of 4 classes have no image to train on: c, empty" in caplog.text


def test_what_is_no_image_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=.*: there is no folder"):
        imagefolder(str(tmp_path / "none"), 3)
    put(tmp_path, "flat.png")
    with pytest.raises(UserError, match=r"no folder per class\n.*FOLDER/CLASS/IMAGE"):
        imagefolder(str(tmp_path), 3)
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="1 folders and no image in them"):
        imagefolder(str(tmp_path), 3)
    put(tmp_path, "a/1.png")
    with pytest.raises(UserError, match=r"one class only \(a\): there is nothing to tell apart"):
        imagefolder(str(tmp_path), 3)


def test_opening_a_folder_reads_no_image(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")
    source = imagefolder(str(tmp_path), 3)
    with pytest.raises(ImageError, match="is empty"):
        source.images.read(0)  # type: ignore[union-attr]


# --- csv ------------------------------------------------------------------------------------


def table(path: Path, **changes: Any) -> Source:
    settings = {"images": None, "multi_label": False, "channels": 3, "group_by": None}
    return csv_table(str(path), **{**settings, **changes})


def test_a_csv_gives_paths_labels_splits_and_groups(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "in/2.png", "3.png")
    file = written(
        tmp_path / "t.csv",
        "\ufeffpath, label ,split,person\n1.png,10,train,x\n\nin/2.png,9,VAL,y\n3.png, 10,test,x\n",
    )
    source = table(file, group_by="person")
    assert source.class_names == ("9", "10")  # numbers in their order
    assert source.labels.tolist() == [1, 0, 1]
    assert source.split is not None
    assert source.split.tolist() == [TRAIN, VAL, TEST]
    assert source.groups is not None
    assert [source.group_names[g] for g in source.groups] == ["x", "y", "x"]
    assert [pixel(source, i) for i in range(3)] == [0, 1, 2]
    assert source.name(1) == f"{file} line 4 (in/2.png)"
    assert table(file).groups is None


def test_a_tsv_and_a_folder_of_images_elsewhere(tmp_path: Path) -> None:
    put(tmp_path / "images", "a,1.png", "b.png")
    source = table(
        written(tmp_path / "t.tsv", "label\tpath\nbird\ta,1.png\ncat\tb.png\n"),
        images=str(tmp_path / "images"),
    )
    assert [pixel(source, i) for i in range(2)] == [0, 1]
    assert source.class_names == ("bird", "cat")


def test_labels_separated_by_a_bar_are_several_and_an_empty_cell_is_none(tmp_path: Path) -> None:
    file = written(tmp_path / "t.csv", "path,label\n1.png,dog | cat\n2.png,\n3.png,dog\n")
    source = table(file, multi_label=True)
    assert source.class_names == ("cat", "dog")
    assert source.multi_label
    assert source.labels.dtype == np.float32
    assert source.labels.tolist() == [[1, 1], [0, 0], [0, 1]]


def test_a_missing_label_is_minus_one_and_its_row_has_a_name(tmp_path: Path) -> None:
    source = table(written(tmp_path / "t.csv", "path,label\n1.png,a\n2.png, \n3.png,b\n"))
    assert source.labels.tolist() == [0, -1, 1]
    assert source.name(1).endswith("t.csv line 3 (2.png)")


def test_a_missing_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    source = table(written(tmp_path / "t.csv", "path,label\n1.png,a\n2.png,b\n"))
    with pytest.raises(ImageError, match=r"there is no file .*/1\.png"):
        source.images.read(0)  # type: ignore[union-attr]


HEAD = "path,label,split\n1.png,a,train\n"
WRONG_CSV = {
    "no column": ("path,klass\n1.png,a\n", r"no column label\n  its columns: path, klass;"),
    "an unknown split": (HEAD + "2.png,b,vall\n", r"line 3: split 'vall' .*\n.*mean val\?"),
    "an empty split": (HEAD + "2.png,b,\n", "line 3: split '' is no split"),
    "an empty path": (HEAD + ",b,train\n", "line 3: path '' names no image"),
    "a short row": (HEAD + "2.png,b\n", "line 3: has 2 cells, the header 3"),
    "a long row": (HEAD + "2.png,b,train,\n", "line 3: has 4 cells, the header 3"),
    "no rows": ("path,label\n", "lists no images"),
    "nothing": ("", "lists no images"),
    "a quote that never ends": (HEAD + '"2.png,b,train\n', "cannot be read as UTF-8 CSV"),
    "one class": ("path,label\n1.png,a\n2.png,a\n", r"one class only \(a\)"),
    "no labels": ("path,label\n1.png,\n2.png,\n", "holds no labels"),
    "a column twice": ("path,label,label\n1.png,a,b\n", "two columns of one name"),
}


@pytest.mark.parametrize("name", WRONG_CSV)
def test_a_wrong_csv_is_one_error_that_names_file_line_and_value(name: str, tmp_path: Path) -> None:
    text, problem = WRONG_CSV[name]
    with pytest.raises(UserError, match=problem) as error:
        table(written(tmp_path / "t.csv", text))
    assert str(tmp_path / "t.csv") in str(error.value)


def test_csv_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=.*there is no file"):
        table(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("path,label\n1.png,caf\xe9\n".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read as UTF-8 CSV"):
        table(tmp_path / "latin.csv")
    file = written(tmp_path / "t.csv", "path,label,person\n1.png,a,\n2.png,b,x\n")
    with pytest.raises(UserError, match="line 2: person '' names no group"):
        table(file, group_by="person")
    with pytest.raises(ConfigError, match=r"data\.group_by=persn.*\n.*did you mean 'person'"):
        table(file, group_by="persn")


def test_bars_in_single_labels_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table(written(tmp_path / "t.csv", "path,label\n1.png,a|b\n2.png,b\n"))
    assert "data.multi_label=true reads them as several" in caplog.text


# --- Hugging Face ---------------------------------------------------------------------------


def hf(path: str | Path, **changes: Any) -> Source:
    settings: dict[str, Any] = dict.fromkeys(
        ("subset", "revision", "train_split", "val_split", "test_split", "image_column",
         "label_column", "group_by")
    )  # fmt: skip
    return SOURCES["hf"](path=str(path), channels=3, **{**settings, **changes})


def parquet(file: Path, features: dict[str, Any] | None = None, **columns: list[Any]) -> Path:
    """A parquet file as `datasets` writes it, images and labels a and b where none are given."""
    columns = {"image": [{"bytes": png(i), "path": None} for i in range(4)], **columns}
    given = {"image": datasets.Image(), **(features or {})}
    columns = columns if len(columns) > 1 else {**columns, "label": [0, 1, 0, 1]}
    if "label" in columns and "label" not in given:
        given["label"] = datasets.ClassLabel(names=["a", "b"])
    rest = pa.table({name: values for name, values in columns.items() if name not in given})
    schema = datasets.Features({**given, **datasets.Features.from_arrow_schema(rest.schema)})
    schema = schema.arrow_schema
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns, schema), file)
    return file


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("hf")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)


@pytest.fixture
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize(
    "names",
    [
        ("train.parquet", "validation.parquet", "test.parquet"),
        (
            "data/train-00000-of-00001.parquet",
            "data/val-00000-of-00001.parquet",
            "data/test.parquet",
        ),
        ("train/0000.parquet", "dev/0000.parquet", "test/0000.parquet"),
    ],
)
def test_parquet_files_are_split_by_their_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        parquet(tmp_path / name)
    source = hf(tmp_path)
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 4 + [VAL] * 4 + [TEST] * 4
    assert source.labels.tolist() == [0, 1, 0, 1] * 3
    assert source.class_names == ("a", "b")
    assert [pixel(source, i) for i in (0, 3, 4, 11)] == [0, 3, 0, 3]
    assert source.name(5) == f"{tmp_path / names[1]} row 1"


@pytest.mark.usefixtures("_no_network")
def test_several_files_of_a_split_and_a_single_file(tmp_path: Path) -> None:
    for i in range(3):
        parquet(tmp_path / f"train-{i}.parquet")
    source = hf(tmp_path)
    assert len(source.labels) == 12
    assert source.name(9) == f"{tmp_path}/train-2.parquet row 1"
    assert pixel(source, 9) == 1
    assert len(hf(tmp_path / "train-1.parquet").labels) == 4


def test_large_parquet_files_are_mapped_and_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2):
        parquet(tmp_path / f"train-{i}.parquet", track=[i, i, 7, 8], label=[0, 1, 1, 1])
    read = hf(tmp_path, group_by="track")
    monkeypatch.setattr(HF, "LARGE", 0)
    mapped = hf(tmp_path, group_by="track")
    assert mapped.labels.tolist() == read.labels.tolist()
    assert mapped.groups is not None
    assert read.groups is not None
    assert mapped.groups.tolist() == read.groups.tolist()
    assert [pixel(mapped, i) for i in range(8)] == [pixel(read, i) for i in range(8)]
    assert mapped.name(6) == read.name(6)


def test_a_group_column_becomes_codes_with_names(tmp_path: Path) -> None:
    file = parquet(tmp_path / "t.parquet", label=[0, 1, 0, 1], track=["r", "q", "r", "s"])
    source = hf(file, group_by="track")
    assert source.groups is not None
    assert source.groups.tolist() == [1, 0, 1, 2]
    assert tuple(source.group_names) == ("q", "r", "s")
    with pytest.raises(ConfigError, match=r"data\.group_by=trak: .*\n.*did you mean 'track'"):
        hf(file, group_by="trak")
    holes = parquet(tmp_path / "u.parquet", label=[0, 1, 0, 1], track=["r", None, "r", "s"])
    with pytest.raises(UserError, match=r"u\.parquet row 1 has no track"):
        hf(holes, group_by="track")


CLASSES = datasets.ClassLabel(names=["x", "y", "z"])
LABELS: dict[str, tuple[Any, list[Any], tuple[str, ...], list[Any]]] = {
    "classes": (CLASSES, [2, 0, None, -1], ("x", "y", "z"), [2, 0, -1, -1]),
    "text": (datasets.Value("string"), ["q", "p", None, "p"], ("p", "q"), [1, 0, -1, 0]),
    "numbers": (datasets.Value("int32"), [30, 5, 30, 100], ("5", "30", "100"), [1, 0, 1, 2]),
    "truth": (datasets.Value("bool"), [True, False, True, None], ("False", "True"), [1, 0, 1, -1]),
    "lists of classes": (
        datasets.List(CLASSES), [[0, 2], [], None, [1]], ("x", "y", "z"),
        [[1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]],
    ),
    "lists of text": (
        datasets.List(datasets.Value("string")), [["b", "a"], ["a"], [], ["b"]], ("a", "b"),
        [[1, 1], [1, 0], [0, 0], [0, 1]],
    ),
    "lists of numbers": (
        datasets.List(datasets.Value("int64")), [[7], [9], [], [7, 9]], ("7", "9"),
        [[1, 0], [0, 1], [0, 0], [1, 1]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_kind(name: str, tmp_path: Path) -> None:
    feature, values, names, labels = LABELS[name]
    source = hf(parquet(tmp_path / "t.parquet", {"label": feature}, label=values))
    assert source.class_names == names
    assert source.labels.tolist() == labels
    assert source.multi_label == isinstance(labels[0], list)
    assert source.labels.dtype == (np.float32 if source.multi_label else np.int64)


@pytest.mark.parametrize(
    ("feature", "values", "problem"),
    [
        (CLASSES, [0, 1, 3, 2], r"t\.parquet row 2: label 3 is no class: there are 3, from 0"),
        (CLASSES, [0, 1, -2, 2], r"t\.parquet row 2: label -2 is no class"),
        (datasets.List(CLASSES), [[0], [1, 9], [], []], r"t\.parquet row 1: label 9 is no class"),
        (datasets.Value("float32"), [0.5, 1, 2, 3], "holds float32, which are no classes"),
        (datasets.Value("string"), ["a"] * 4, r"one class only \(a\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    feature: Any, values: list[Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        hf(parquet(tmp_path / "t.parquet", {"label": feature}, label=values))


def test_columns_are_guessed_and_can_be_named(tmp_path: Path) -> None:
    two = datasets.ClassLabel(names=["u", "v"])
    file = parquet(
        tmp_path / "t.parquet",
        {"fine_label": CLASSES, "coarse_label": two},
        fine_label=[0, 1, 2, 0],
        coarse_label=[0, 0, 1, 1],
    )
    assert hf(file).class_names == ("x", "y", "z")
    assert hf(file, label_column="coarse_label").labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"data\.label_column=corse_label: .*\n.*'coarse_label'"):
        hf(file, label_column="corse_label")
    with pytest.raises(ConfigError, match=r"data\.image_column=img: .*\n.*'image'"):
        hf(file, image_column="img")
    pairs = parquet(
        tmp_path / "u.parquet",
        {"left": datasets.Image()},
        left=[{"bytes": png(9), "path": None}] * 4,
        label=[0, 1, 0, 1],
    )
    with pytest.raises(UserError, match=r"more than one column of images \(image, left\)"):
        hf(pairs)
    assert pixel(hf(pairs, image_column="left"), 0) == 9


def test_files_of_others_hold_bytes_or_paths(tmp_path: Path) -> None:
    put(tmp_path, "sub/0.png", "sub/1.png")
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"img": [png(5), png(6)], "class": ["b", "a"]}), file)
    assert [pixel(hf(file), i) for i in (0, 1)] == [5, 6]
    assert hf(file).labels.tolist() == [1, 0]
    structs = [{"bytes": None, "path": "sub/0.png"}, {"bytes": png(7), "path": "x.png"}]
    pq.write_table(pa.table({"image": structs, "label": [3, 4]}), file)
    assert [pixel(hf(file), i) for i in (0, 1)] == [0, 7]
    pq.write_table(pa.table({"file": ["sub/1.png", "sub/0.png"], "label": [3, 4]}), file)
    with pytest.raises(UserError, match=r"no images\n  its columns: file, label"):
        hf(file)
    assert [pixel(hf(file, image_column="file"), i) for i in (0, 1)] == [1, 0]


def test_a_row_without_an_image_is_found_when_it_is_read(tmp_path: Path) -> None:
    images = [None, {"bytes": None, "path": None}, {"bytes": b"", "path": None}, {"bytes": png()}]
    source = hf(parquet(tmp_path / "t.parquet", image=images, label=[0, 1, 0, 1]))
    for i, problem in enumerate(("has no image", "has no image", "is empty")):
        with pytest.raises(ImageError, match=problem):
            source.images.read(i)  # type: ignore[union-attr]
    assert pixel(source, 3) == 0


def test_splits_can_be_named_and_left_out(tmp_path: Path) -> None:
    for name in ("train", "validation", "test"):
        parquet(tmp_path / f"{name}.parquet")

    def splits(**changes: Any) -> set[int]:
        split = hf(tmp_path, **changes).split
        assert split is not None
        return set(split.tolist())

    assert splits(val_split="none") == {TRAIN, TEST}
    assert splits(test_split="validation") == {TRAIN, TEST}
    assert splits(train_split="test") == {TRAIN, VAL}
    with pytest.raises(ConfigError, match=r"data\.test_split=tset: .*\n.*did you mean 'test'"):
        splits(test_split="tset")
    with pytest.raises(ConfigError, match="a split is named twice"):
        splits(val_split="test", test_split="test")
    with pytest.raises(UserError, match=r"no training split\n.*its splits: "):
        splits(train_split="none")


def test_a_test_split_without_labels_can_be_left_out(tmp_path: Path) -> None:
    parquet(tmp_path / "train.parquet")
    pq.write_table(pa.table({"image": [{"bytes": png()}]}), tmp_path / "test.parquet")
    with pytest.raises(ConfigError, match=r"no such column\n(.*\n)*.*data\.test_split=none"):
        hf(tmp_path)
    assert len(hf(tmp_path, test_split="none").labels) == 4


def test_a_folder_inside_is_a_subset(tmp_path: Path) -> None:
    parquet(tmp_path / "small" / "train.parquet")
    assert len(hf(tmp_path, subset="small").labels) == 4
    with pytest.raises(ConfigError, match=r"data\.subset=smal: .*\n.*did you mean 'small'"):
        hf(tmp_path, subset="smal")


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    table = datasets.Dataset.from_parquet(str(parquet(tmp_path / "t.parquet")))
    with HF._quiet():
        table.train_test_split(test_size=1, shuffle=False).save_to_disk(str(tmp_path / "saved"))
    source = hf(tmp_path / "saved")
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 3 + [TEST]
    assert [pixel(source, i) for i in range(4)] == [0, 1, 2, 3]


def test_a_folder_of_images_is_an_image_folder_and_takes_no_columns(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    assert hf(tmp_path).class_names == imagefolder(str(tmp_path), 3).class_names
    with pytest.raises(ConfigError, match=r"data\.group_by=track: does not apply"):
        hf(tmp_path, group_by="track")


def test_parquet_files_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"train\.parquet cannot be read as parquet"):
        hf(tmp_path)
    file.write_bytes(parquet(tmp_path / "x" / "t.parquet").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"train\.parquet cannot be read as parquet"):
        hf(file)
    parquet(tmp_path / "y" / "train-0.parquet")
    pq.write_table(pa.table({"label": ["a"]}), tmp_path / "y" / "train-1.parquet")
    with pytest.raises(UserError, match=r"/y: .*[Ss]chema"):
        hf(tmp_path / "y")
    parquet(tmp_path / "z" / "train.parquet")
    parquet(tmp_path / "z" / "more.parquet")
    with pytest.raises(UserError, match=r"more\.parquet: which split it belongs to is unclear"):
        hf(tmp_path / "z")


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("path", ["./none", "a/b/c", "/none", "~/none", "none.parquet", "a/b.csv"])
def test_a_path_that_is_no_hub_name_is_looked_for_on_disk_only(path: str) -> None:
    with pytest.raises(ConfigError, match=r"data\.path=.*there is no .*\n.*local layouts"):
        hf(path)


# --- Servers that do not answer -------------------------------------------------------------


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers with the file of `served` that a path ends with, or hangs, or is missing it."""

    served: dict[str, bytes] = {}  # noqa: RUF012
    hangs = False
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if self.hangs:
            time.sleep(1.2)
            return
        data = self.served.get(self.path.rsplit("/", 1)[-1])
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Stub], str]]:
    """A server's behaviour, to be changed, and its address."""
    handler = type("Own", (Stub,), {"served": {}})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield handler, f"http://127.0.0.1:{running.server_port}/"
    running.shutdown()
    running.server_close()
    thread.join()


DEAD = "http://127.0.0.1:9/"  # nobody listens there


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["dead", "hangs", "missing", "offline"])
def test_a_hub_that_does_not_give_it_is_asked_once_and_leaves_nothing(
    kind: str,
    server: tuple[type[Stub], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stub, address = server
    stub.hangs = kind == "hangs"
    monkeypatch.setattr(HF, "SECONDS", 0.6)
    endpoint = DEAD if kind == "dead" else address
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint.rstrip("/"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", kind == "offline")
    started = time.monotonic()
    why = "hub does not give it" if kind == "missing" else "hub did not answer"
    with pytest.raises(ConfigError, match=rf"data\.path=me/mine: .*{why}.*\n  local layouts: "):
        hf("me/mine")
    assert time.monotonic() - started < 2.0
    assert stub.asked == (kind in ("hangs", "missing"))
    assert left(datasets.config.HF_DATASETS_CACHE) == []
    assert capfd.readouterr() == ("", "")


def test_what_the_hub_gives_is_read_split_by_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(path: str, name: str | None, revision: str | None) -> Any:
        asked.append((path, name, revision))
        files = {"train": str(parquet(tmp_path / "t.parquet")), "test": str(tmp_path / "t.parquet")}
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_parquet(file) for split, file in files.items()}
        )

    monkeypatch.setattr(HF, "within", lambda *_: [None])
    monkeypatch.setattr(datasets, "load_dataset", load)
    source = hf("me/mine", subset="small", revision="v1")
    assert asked == [("me/mine", "small", "v1")]
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 4 + [TEST] * 4
    assert (source.name(5), pixel(source, 5)) == ("me/mine test row 1", 1)


def test_what_was_downloaded_once_is_read_from_the_cache_when_the_hub_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # A download leaves OWNER___NAME/CONFIGURATION/VERSION/HASH/NAME-SPLIT.arrow in the cache.
    folder = datasets.config.HF_DATASETS_CACHE / "me___mine" / "default" / "0.0.0" / "0a1b2c"
    file = parquet(tmp_path / "t.parquet")
    with HF._quiet():
        made = datasets.load_dataset(
            "parquet", data_files={"train": str(file)}, cache_dir=str(tmp_path / "made")
        )
    folder.parent.mkdir(parents=True)
    shutil.copytree(Path(made["train"].cache_files[0]["filename"]).parent, folder)
    (folder / "parquet-train.arrow").rename(folder / "mine-train.arrow")
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", DEAD.rstrip("/"))
    source = hf("me/mine")
    assert source.labels.tolist() == [0, 1, 0, 1]
    assert pixel(source, 3) == 3
    assert not datasets.config.HF_HUB_OFFLINE
    assert capfd.readouterr() == ("", "")


def test_files_of_every_source_can_be_handed_to_a_worker_that_starts_anew(tmp_path: Path) -> None:
    put(tmp_path, "images/a/1.png", "images/b/2.png")
    listed = written(tmp_path / "t.csv", "path,label\nimages/a/1.png,a\nimages/b/2.png,b\n")
    sources = (
        hf(parquet(tmp_path / "t.parquet")), imagefolder(f"{tmp_path}/images", 3), table(listed),
    )  # fmt: skip
    for source in sources:
        assert pixel(pickle.loads(pickle.dumps(source)), 1) == 1


SMALL = {"train": 6, "t10k": 4}


def idx_files() -> dict[str, bytes]:
    """Fashion-MNIST's four files with few images."""
    files = {}
    for name, count in SMALL.items():
        pixels = bytes((i * 7 + j) % 256 for i in range(count) for j in range(784))
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        files[f"{name}-images-idx3-ubyte"] = b"\0\0\x08\x03" + sizes + pixels
        labels = bytes(i % 10 for i in range(count))
        files[f"{name}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + count.to_bytes(4, "big") + labels
    return files


def serve_fashion_mnist(
    server: tuple[type[Stub], str], monkeypatch: pytest.MonkeyPatch
) -> type[Stub]:
    """What torchvision wants to download, in small, from the second of two mirrors."""
    stub, address = server
    stub.served = {f"{n}.gz": gzip.compress(data) for n, data in idx_files().items()}
    kind = torchvision.datasets.FashionMNIST
    sums = [(name, hashlib.md5(data).hexdigest()) for name, data in stub.served.items()]
    monkeypatch.setattr(kind, "resources", sums)
    monkeypatch.setattr(kind, "mirrors", [DEAD, address])
    monkeypatch.setattr(SETS, "SECONDS", 0.6)
    return stub


fashion_mnist = functools.partial(SOURCES["fashion_mnist"], download=True)


def test_a_torchvision_set_is_downloaded_once_from_a_mirror_that_answers(
    tmp_path: Path,
    server: tuple[type[Stub], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stub = serve_fashion_mnist(server, monkeypatch)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls and never answers
        mirrors = [f"http://127.0.0.1:{silent.getsockname()[1]}/", server[1]]
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", mirrors)
        source = fashion_mnist(root=str(tmp_path / "new"))
    assert source.images.shape == (10, 1, 28, 28)
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 6 + [TEST] * 4
    assert (source.class_names[0], len(source.class_names)) == ("T-shirt/top", 10)
    assert source.images[1, 0, 0, :3].tolist() == [7, 8, 9]  # type: ignore[index]
    asked = stub.asked
    again = fashion_mnist(root=str(tmp_path / "new"))
    assert stub.asked == asked
    assert (again.images == source.images).all()  # type: ignore[union-attr]
    assert [p for p in left(tmp_path / "new") if "download" in p] == []
    assert torchvision.datasets.FashionMNIST.mirrors == mirrors
    assert capfd.readouterr() == ("", "")


BAD_SERVERS: dict[str, Callable[[type[Stub]], object]] = {
    "dead": lambda stub: None,
    "hangs": lambda stub: setattr(stub, "hangs", True),
    "missing": lambda stub: stub.served.clear(),
    "wrong bytes": lambda stub: stub.served.update({"t10k-labels-idx1-ubyte.gz": b"<html>"}),
}


@pytest.mark.parametrize("before", ["nothing", "a folder", "half a file"])
@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_download_that_fails_leaves_everything_as_it_was(
    name: str,
    before: str,
    tmp_path: Path,
    server: tuple[type[Stub], str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stub = serve_fashion_mnist(server, monkeypatch)
    BAD_SERVERS[name](stub)
    if name == "dead":
        monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [DEAD, DEAD])
    root = tmp_path / "a" / "b"
    if before != "nothing":
        root.mkdir(parents=True)
    if before == "half a file":
        raw = root / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for file, data in idx_files().items():
            (raw / file).write_bytes(data[: len(data) // 2])
    was, started = left(tmp_path), time.monotonic()
    with pytest.raises(UserError) as error:
        fashion_mnist(root=str(root))
    assert time.monotonic() - started < 3.0
    said = str(error.value)
    assert "no download: " in said
    assert "cannot be used" in said if before == "half a file" else "no FashionMNIST in" in said
    assert "FashionMNIST/raw" in said
    assert "data.root=FOLDER" in said
    assert left(tmp_path) == was
    assert capfd.readouterr() == ("", "")


def test_half_files_are_replaced_when_the_server_answers(
    tmp_path: Path, server: tuple[type[Stub], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_fashion_mnist(server, monkeypatch)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file, data in idx_files().items():
        (raw / file).write_bytes(data[: len(data) // 2])
    assert len(fashion_mnist(root=str(tmp_path)).labels) == 10
    assert len(SOURCES["fashion_mnist"](root=str(tmp_path), download=False).labels) == 10


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_is_read_from_its_batches(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[
        name
    ]
    classes = 10 if name == "cifar10" else 100
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3072)).astype(np.uint8)
    labels = [3, 1, 4, 1, 5, 9]
    files = {
        "some": {"data": pixels[:4], key: labels[:4]},
        "other": {"data": pixels[4:], key: labels[4:]},
        "names": {kind.meta["key"]: [f"class {i}" for i in range(classes)]},
    }
    sums = {}
    for file, content in files.items():
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        sums[file] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(kind, "train_list", [["some", sums["some"]]])
    monkeypatch.setattr(kind, "test_list", [["other", sums["other"]]])
    meta = {"filename": "names", "key": kind.meta["key"], "md5": sums["names"]}
    monkeypatch.setattr(kind, "meta", meta)
    source = SOURCES[name](root=str(tmp_path), download=False)
    assert source.images.shape == (6, 3, 32, 32)
    assert (np.asarray(source.images).reshape(6, 3072) == pixels).all()
    assert source.labels.tolist() == labels
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 4 + [TEST] * 2
    assert source.class_names[1] == {"cifar10": "automobile", "cifar100": "aquarium_fish"}[name]
    assert len(source.class_names) == int(name.removeprefix("cifar"))
    (folder / "some").write_bytes(b"spoilt")
    with pytest.raises(UserError, match=rf"what is in .*{kind.base_folder} cannot be used"):
        SOURCES[name](root=str(tmp_path), download=False)


# --- synthetic ------------------------------------------------------------------------------


def test_synthetic_images_have_the_shape_that_was_asked_for_and_balanced_classes() -> None:
    source = synthetic([3, 5, 7], 4, 101, 0.5)
    assert source.images.shape == (101, 3, 5, 7)
    assert np.bincount(source.labels).tolist() == [26, 25, 25, 25]
    assert source.class_names == ("0", "1", "2", "3")


def test_synthetic_images_are_the_same_every_time_and_every_class_can_be_learnt() -> None:
    source = synthetic([1, 28, 28], 10, 4000, 0.5)
    images = np.asarray(source.images)
    assert (images == synthetic([1, 28, 28], 10, 4000, 0.5).images).all()
    assert (images[:99] == synthetic([1, 28, 28], 10, 99, 0.5).images).all()
    flat = images.reshape(4000, -1).astype(float)
    means = np.stack([flat[:2000][source.labels[:2000] == c].mean(0) for c in range(10)])
    nearest = ((flat[2000:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == source.labels[2000:]).mean() > 0.99


def test_synthetic_parts_join(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = synthetic([1, 5, 5], 3, 50, 0.5).images
    monkeypatch.setattr(importlib.import_module(synthetic.__module__), "_PART", 200)
    assert (whole == synthetic([1, 5, 5], 3, 50, 0.5).images).all()  # type: ignore[union-attr]


def test_synthetic_noise_has_the_standard_deviation_that_was_asked_for() -> None:
    clean, noisy = (np.asarray(synthetic([1, 16, 16], 2, 2000, s).images, float) for s in (0, 0.1))
    inside = (clean > 80) & (clean < 175)  # where nothing is clipped
    difference = (noisy - clean)[inside] / 255
    assert abs(difference.mean()) < 0.001
    assert abs(difference.std() - 0.1) < 0.001
    assert (clean[0] == clean[2]).all()


def test_synthetic_prototypes_are_smooth_and_span_all_greys() -> None:
    image = np.asarray(synthetic([1, 64, 64], 2, 2, 0).images, int)[0, 0]
    assert (image.min(), image.max()) == (0, 255)
    assert max(abs(np.diff(image, axis=0)).max(), abs(np.diff(image, axis=1)).max()) < 20


# --- As configured --------------------------------------------------------------------------


def test_a_config_reaches_its_source(tmp_path: Path, compose: Callable[..., Any]) -> None:
    from lrexp.builders.data import open_source

    file = parquet(tmp_path / "t.parquet", label=[0, 1, 0, 1], track=[1, 1, 2, 3])
    source = open_source(compose("data=hf", f"data.path={file}", "data.group_by=track"))
    assert source.groups is not None
    assert source.groups.tolist() == [0, 0, 1, 2]
    source = open_source(
        compose("data=synthetic", "data.image_shape=[2,6,6]", "data.num_classes=3")
    )
    assert (source.images.shape[1:], len(source.class_names)) == ((2, 6, 6), 3)
    put(tmp_path / "f", "a/1.png", "b/1.png")
    sized = compose("data=imagefolder", f"data.path={tmp_path}/f", "data.image_size=9")
    assert open_source(sized).images.read(0)[0].shape == (3, 9, 9)  # type: ignore[union-attr]
    listed = written(tmp_path / "t.csv", "path,label\n1.png,a\n2.png,b\n")
    assert len(open_source(compose("data=csv", f"data.path={listed}")).labels) == 2


def test_paths_are_made_absolute_and_hub_names_are_kept(
    tmp_path: Path, compose: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "mine/a/1.png")
    monkeypatch.chdir(tmp_path)
    assert compose("data=imagefolder", "data.path=mine").data.path == str(tmp_path / "mine")
    assert compose("data=hf", "data.path=mine").data.path == str(tmp_path / "mine")
    assert compose("data=hf", "data.path=me/mine").data.path == "me/mine"


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no path": (["data=hf"], r"data\.path: has no value"),
    "no such folder": (["data=imagefolder", "data.path=x"], r"data\.path=x: there is no folder"),
    "no such file": (["data=csv", "data.path=x.csv"], r"data\.path=x\.csv: there is no file"),
    "no such parquet": (["data=hf", "data.path=x.parquet"], r"data\.path=x\.parquet: there is no"),
    "two channels": (
        ["data=hf", "data.path=x", "data.channels=2"], r"data\.channels=2: must be 1 \(grey\) or 3",
    ),
    "groups without columns": (
        ["data=digits", "data.group_by=writer"], r"data\.group_by=writer: .*no columns\n.*data=hf",
    ),
    "a shape that nobody states": (
        ["data=synthetic", "data.num_classes=null"], r"data\.num_classes=null: may not be empty",
    ),
    "no download": (
        ["data=cifar10", "data.root=x", "data.download=false"],
        r"data\.root=x: there is no folder x/cifar-10-batches-py",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found_before_anything_is_read(name: str, compose: Callable[..., Any]) -> None:
    overrides, problem = MISTAKES[name]
    with pytest.raises(ConfigError, match=problem):
        compose(*overrides)


# --- Real data ------------------------------------------------------------------------------


@needs_data
def test_cifar_10_as_parquet_opens_quickly_with_its_own_splits_and_names() -> None:
    started = time.monotonic()
    source = hf(f"{DATA}/cifar10_10k")
    assert time.monotonic() - started < 5.0
    assert source.split is not None
    assert np.bincount(source.split, minlength=3).tolist() == [10_000, 0, 1_000]
    assert source.class_names[:3] == ("airplane", "automobile", "bird")
    assert source.images.read(0)[0].shape == (3, 32, 32)  # type: ignore[union-attr]


@needs_data
def test_traffic_signs_have_888_tracks_each_of_one_class() -> None:
    source = hf(f"{DATA}/gtsrb32", group_by="track")
    assert len(source.class_names) == 43
    assert source.groups is not None
    assert len(source.group_names) == source.groups.max() + 1 == 888
    for track in range(0, 888, 50):
        assert len(set(source.labels[source.groups == track])) == 1


@needs_data
def test_hymenoptera_photographs_are_245_to_train_on_and_153_to_validate() -> None:
    source = imagefolder(f"{DATA}/hymenoptera", 3).of_size(160)
    assert source.split is not None
    assert np.bincount(source.split).tolist() == [245, 153]
    assert source.class_names == ("ants", "bees")
    assert source.images.read(397)[0].shape == (3, 160, 160)  # type: ignore[union-attr]


def test_loggers_are_left_as_they_were() -> None:
    before = logging.getLogger("datasets").level
    with HF._quiet():
        pass
    assert logging.getLogger("datasets").level == before


def test_a_split_whose_classes_stand_in_another_order_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for file, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
        )
        rows = {"image": [Image.fromarray(pixels)] * 4, "label": [0, 1, 0, 1]}
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{file}.parquet")
    with pytest.raises(ConfigError, match=r"classes of .*test\.parquet.*: dog, cat, .*: cat, dog"):
        hf(tmp_path)


def test_minus_one_is_a_missing_label_whatever_the_column_says_of_classes(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    rows = {"image": [Image.fromarray(pixels)] * 4, "label": [0, -1, 2, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "train.parquet")
    source = hf(tmp_path)
    assert source.class_names == ("0", "2")
    assert source.labels.tolist() == [0, -1, 1, 0]


def test_two_splits_for_one_role_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    for file in ("train", "dev", "valid"):
        rows = {"image": [Image.fromarray(pixels)] * 2, "label": ["a", "b"]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
        datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{file}.parquet")
    with pytest.raises(ConfigError, match=r"data\.val_split.*several such splits: .*dev.*valid"):
        hf(tmp_path)


def test_folders_of_splits_without_train_are_no_classes(tmp_path: Path) -> None:
    for name in ("val/cat", "val/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="has test, val and no train"):
        imagefolder(str(tmp_path), 3)
    source = imagefolder(str(tmp_path), 3, test_only=True)
    assert source.class_names == ("cat", "dog")
    assert source.has(TEST)


def test_labels_separated_by_another_character_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("path,label\n1.png,cat;dog\n2.png,dog\n3.png,cat\n")
    csv_table(str(tmp_path / "a.csv"), None, True, 3, None)
    assert "'cat;dog' looks like some: they are separated by |" in caplog.text
