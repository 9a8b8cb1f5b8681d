"""Folders of images and CSV tables: what is read, and what is said of files that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_files import pixel, put, table, written

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL
from lrexp.data.sources.csv_table import csv_table
from lrexp.data.sources.imagefolder import imagefolder


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
    assert source.read(0)[0].shape == (1, 4, 4)


def test_what_is_passed_over_is_counted_by_kind_and_named(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "a/.hidden.png", ".cache/x.png", "a/.git/x.png")
    put(tmp_path, "__MACOSX/a/x.png", "beside.png", "a/deep/__MACOSX/x.png")
    for name in ("a/notes.txt", "a/x.HEIC", "b/y.heic", "b/scan.dcm", "b/odd", "readme.txt"):
        written(tmp_path / name, "")
    source = imagefolder(str(tmp_path), 3)
    assert source.class_names == ("a", "b")
    assert len(source.labels) == 2
    assert [note.partition(": passed over ")[2] for note in source.notes] == [
        "5 as hidden or left by the system: .cache, __MACOSX, a/.git, ...",
        "1 as images in no folder of a class: beside.png",
        "2 as no images (1 .txt, 1 without an ending): a/notes.txt, b/odd",
        "2 as .heic, which is not read (convert them to JPEG): a/x.HEIC, b/y.heic",
        "1 as .dcm, which is not read (write their 16-bit grey levels as PNG or TIFF): b/scan.dcm",
    ]


def linked(link: Path, to: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(to)


def test_linked_folders_are_read_as_if_they_lay_there(tmp_path: Path) -> None:
    put(tmp_path / "store", "x/1.png", "x/deep/2.png", "b/3.png")
    put(tmp_path / "set", "a/0.png")
    linked(tmp_path / "set/a/more", tmp_path / "store/x")
    linked(tmp_path / "set/b", tmp_path / "store/b")
    source = imagefolder(str(tmp_path / "set"), 3)
    names = [source.name(i).removeprefix(f"{tmp_path}/set/") for i in range(len(source.labels))]
    assert names == ["a/0.png", "a/more/1.png", "a/more/deep/2.png", "b/3.png"]
    assert source.labels.tolist() == [0, 0, 0, 1]
    assert not source.notes


def test_loops_of_links_are_not_followed_and_named_like_links_that_lead_nowhere(
    tmp_path: Path,
) -> None:
    put(tmp_path / "store", "1.png")
    put(tmp_path / "set", "train/a/0.png", "train/b/0.png", "val/a/0.png")
    linked(tmp_path / "set/train/all", tmp_path / "set")  # would be a class of all images
    linked(tmp_path / "set/train/a/x", tmp_path / "store")
    linked(tmp_path / "set/train/a/y", tmp_path / "store")  # twice in one class
    linked(tmp_path / "store/back", tmp_path / "set")  # by way of a folder elsewhere
    linked(tmp_path / "set/train/gone", tmp_path / "nowhere")
    source = imagefolder(str(tmp_path / "set"), 3)
    assert source.class_names == ("a", "b")
    assert source.labels.tolist() == [0, 0, 1, 0]
    assert [note.partition(": passed over ")[2] for note in source.notes] == [
        "1 as links that lead nowhere: train/gone",
        "3 as folders that are read already, where a link leads back to them:"
        " train/all, train/a/x/back, train/a/y",
    ]


def test_a_folder_that_may_not_be_read_is_an_error_and_no_class_of_fewer_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "a/0.png", "a/locked/1.png", "b/0.png")
    scan = os.scandir

    def refusing(folder: str) -> Any:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"a/locked cannot be read: Permission denied"):
        imagefolder(str(tmp_path), 3)


@pytest.mark.parametrize("deeper", ["", "images/"])
def test_a_folder_around_the_classes_is_named_with_the_path_to_give(
    deeper: str, tmp_path: Path
) -> None:
    put(tmp_path, f"pets/{deeper}cat/1.png", f"pets/{deeper}dog/1.png", "__MACOSX/pets/._x.png")
    (tmp_path / "papers").mkdir()  # holds no image
    with pytest.raises(UserError) as error:
        imagefolder(str(tmp_path), 3)
    inner = tmp_path / "pets" / deeper
    assert f"{inner}, are cat, dog\n" in str(error.value)
    assert f"data.path={inner}" in str(error.value)


def test_images_below_one_class_are_no_sign_of_a_folder_around(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "cat/2020/1.png", "cat/2021/1.png")
    with pytest.raises(UserError, match=r"one class only \(cat\)"):
        imagefolder(str(tmp_path), 3)
    put(tmp_path / "x", "train/all/cat/1.png", "train/all/dog/1.png", "val/all/cat/2.png")
    with pytest.raises(UserError, match=r"train/all, are cat, dog\n  .* move them up"):
        imagefolder(str(tmp_path / "x"), 3)


def test_a_folder_of_unreadable_kinds_alone_says_what_to_do(tmp_path: Path) -> None:
    for name in ("a/1.heic", "b/2.heic"):
        (tmp_path / name).parent.mkdir()
        written(tmp_path / name, "")
    with pytest.raises(UserError, match=r"no image in them\n.*\n  passed over 2 as \.heic.*JPEG"):
        imagefolder(str(tmp_path), 3)


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
        source.read(0)


def test_folders_of_splits_without_train_are_no_classes(tmp_path: Path) -> None:
    for name in ("val/cat", "val/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    with pytest.raises(UserError, match="has test, val and no train"):
        imagefolder(str(tmp_path), 3)
    source = imagefolder(str(tmp_path), 3, test_only=True)
    assert source.class_names == ("cat", "dog")
    assert source.has(TEST)


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
        source.read(0)


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


def test_labels_separated_by_another_character_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.csv").write_text("path,label\n1.png,cat;dog\n2.png,dog\n3.png,cat\n")
    csv_table(str(tmp_path / "a.csv"), None, True, 3, None)
    assert "'cat;dog' looks like some: they are separated by |" in caplog.text
