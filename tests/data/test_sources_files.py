"""Folders of images and CSV tables: what is read, and what is said of files that are wrong."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import dataset
from PIL import Image
from source_files import pixel, put, table, written

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.feeding import shape_of_first
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages
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


def test_pipes_are_passed_over_and_names_that_are_no_utf8_can_be_written(tmp_path: Path) -> None:
    put(tmp_path, "a/\udcff.png", "\udcfe/0.png")
    os.mkfifo(tmp_path / "a/pipe.png")
    source = imagefolder(str(tmp_path), 3)
    assert source.class_names == ("a", r"\xfe")
    images = source.images
    assert isinstance(images, EncodedImages)
    assert images.name(0) == rf"{tmp_path}/a/\xff.png"
    assert [os.path.isfile(str(images.encoded(i))) for i in range(2)] == [True, True]
    assert [note.partition(": ")[2] for note in source.notes] == [
        "passed over 1 as pipes or devices: a/pipe.png"
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
    table(tmp_path / "a.csv", multi_label=True)
    assert "'cat;dog' looks like some: they are separated by |" in caplog.text


LISTED = "path,label\n1.png,cafés\n2.png,bars\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_delimiters_are_found_out_and_said(
    encoding: str, delimiter: str, tmp_path: Path
) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(LISTED.replace(",", delimiter).replace("\n", "\r\n").encode(encoding))
    source = table(file)
    assert source.class_names == ("bars", "cafés")
    assert source.name(1) == f"{file} line 3 (2.png)"
    said = " ".join(source.notes)
    assert ("as UTF-16" in said) == encoding.startswith("utf-16")
    assert ("between columns" in said) == (delimiter != ",")
    assert bool(said) == (encoding.startswith("utf-16") or delimiter != ",")


def test_a_delimiter_that_the_first_line_states_and_commas_in_a_tsv(tmp_path: Path) -> None:
    stated = "sep=;\n" + LISTED.replace(",", ";")
    source = table(written(tmp_path / "t.csv", stated))
    assert (source.class_names, source.name(0)[-14:]) == (("bars", "cafés"), "line 3 (1.png)")
    assert (
        table(written(tmp_path / "t.tsv", LISTED)).notes[0].endswith("with commas between columns")
    )


def test_text_that_is_no_utf_8_is_refused_with_the_setting_and_how_it_would_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "latin.csv"
    file.write_bytes(LISTED.encode("latin-1"))
    with pytest.raises(UserError) as error:
        table(file)
    assert str(error.value).splitlines() == [
        f"{file} cannot be read as UTF-8 CSV: line 2 has the byte 0xe9",
        "  data.encoding=cp1252, which older programs of Windows write, makes it: 1.png,cafés",
    ]
    assert table(file, encoding="cp1252").class_names == ("bars", "cafés")
    with pytest.raises(UserError, match="ASCII CSV: line 2 has the byte 0xe9"):
        table(file, encoding="ascii")


@pytest.mark.parametrize(
    ("header", "columns", "said"),
    [
        ("filename,class", {}, "column filename as path, column class as label"),
        ("image,target", {}, "column image as path, column target as label"),
        ("File,label", {}, "column File as path"),
        ("path,label", {}, ""),
        ("url,kind", {"path": "url", "label": "kind"}, ""),
        ("path,kind", {"label": "kind"}, ""),
        ("label,path", {"path": "label", "label": "path"}, ""),
        ("image_id,filename,class", {"label": "class"}, "column filename as path"),
    ],
)
def test_columns_are_recognised_by_usual_names_or_named(
    header: str, columns: dict[str, str], said: str, tmp_path: Path
) -> None:
    own = "7," * (header.count(",") - 1)
    file = written(tmp_path / "t.csv", f"{header}\n{own}1.png,a\n{own}2.png,b\n")
    source = table(file, columns=columns)
    assert source.class_names == ("a", "b")
    assert source.name(1).endswith("(2.png)")
    assert source.notes == ((f"{file}: read {said}",) if said else ())


def test_columns_of_splits_have_any_name_that_is_given_and_others_are_pointed_out(
    tmp_path: Path,
) -> None:
    file = written(tmp_path / "t.csv", "path,label,fold\n1.png,a,train\n2.png,b,test\n")
    source = table(file)
    assert source.split is None
    assert "column fold seems to hold splits; data.columns.split=fold" in source.notes[0]
    assert table(file, columns={"split": "fold"}).has(TEST)


WRONG_COLUMNS: dict[str, tuple[str, dict[str, str], str]] = {
    "two for the label": (
        "path,class,target\n1.png,a,0\n2.png,b,1\n", {},
        r"several columns that may be the label: class, target\n.*data\.columns\.label=NAME",
    ),
    "two for the path": (
        "img,file,label\n1.png,1.png,0\n", {}, r"may be the path: img, file\n.*columns\.path=NAME",
    ),
    "none": ("a,b\nx,y\n", {}, r"no column path\n.*a, b.*\n.*data\.columns={path: NAME"),
    "no header": ("1.png,a\n2.png,b\n", {}, r"first line lists an image: write .* path,label"),
    "one that is not there": (
        "path,kind\n1.png,a\n", {"label": "knd"}, r"data\.columns\.label=knd.*\n.*mean 'kind'",
    ),
    "amounts": ("path,label\n1.png,0.5\n2.png,1e-3\n3.png,2\n", {}, r"\(0.5, 1e-3\), no.*\n.*qcut"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_columns_that_cannot_be_used_are_one_error_with_the_setting(
    name: str, tmp_path: Path
) -> None:
    text, columns, problem = WRONG_COLUMNS[name]
    with pytest.raises(UserError, match=problem):
        table(written(tmp_path / "t.csv", text), columns=columns)


@pytest.mark.parametrize("labels", [("0.0", "1.0"), ("1.5", "cat"), ("1", "2"), ("nan", "1")])
def test_whole_numbers_and_text_are_classes(labels: tuple[str, str], tmp_path: Path) -> None:
    text = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
    assert len(table(written(tmp_path / "t.csv", f"path,label\n{text}")).class_names) == 2


def test_a_class_for_every_image_is_asked_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "".join(f"{i}.png,{i}\n" for i in range(12))
    table(written(tmp_path / "t.csv", f"path,label\n{text}"))
    assert "12 classes for 12 images: is that the column of classes?" in caplog.text


ELSEWHERE = {
    "other separators": ("img\\1.png", r"with / in place of \\ it is there: .*set/img/1\.png"),
    "another ending": ("img/1.jpg", r"ending or the capitals of 1\.png .*: .*set/img/1\.png"),
    "no ending": ("img/1", r"ending or the capitals of 1\.png it is there"),
    "other capitals": ("img/1.PNG", r"ending or the capitals of 1\.png it is there"),
    "a folder of its own": ("1.png", r"there with data\.images=.*set/img: .*set/img/1\.png"),
    "a folder above": ("set/img/1.png", r"there with data\.images=\S*: .*/set/img/1\.png"),
    "another machine": ("/home/me/img/1.png", r"there without home/me: .*set/img/1\.png"),
    "Windows": (
        "C:\\x\\img\\1.png",
        r"with / in place of \\ it is there without C:/x: .*img/1\.png",
    ),
    "nowhere": ("none/1.png", r"set is there, and has no none; data\.images=FOLDER"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_images_that_are_not_there_are_named_with_what_would_find_them(
    name: str, tmp_path: Path
) -> None:
    written_so, hint = ELSEWHERE[name]
    put(tmp_path / "set", "img/1.png")
    file = written(tmp_path / "set/t.csv", f"path,label\n{written_so},a\n{written_so},b\n")
    source = table(file)
    with pytest.raises(UserError) as error:
        shape_of_first(source, np.arange(2))
    first, second = str(error.value).split("\n")
    there = tmp_path / "set" / written_so
    assert f"none of its 2 images can be read; the first, {file} line 2 ({written_so})" in first
    assert f"there is no file {there}" in first
    assert re.search(hint, second)


def test_one_missing_image_among_others_is_named_with_what_would_find_it(tmp_path: Path) -> None:
    put(tmp_path, *(f"{i}.png" for i in range(20)))
    names = [f"{i}.png,{i % 2}\n" for i in range(19)]
    source = table(written(tmp_path / "t.csv", "path,label\n" + "".join(names) + "19.jpeg,1\n"))
    with pytest.raises(UserError) as error:
        dataset(source)
    assert "t.csv line 21 (19.jpeg): there is no file" in str(error.value)
    assert "with the ending or the capitals of 19.png it is there" in str(error.value)
    assert dataset(source, drop_corrupt=True).left_out
