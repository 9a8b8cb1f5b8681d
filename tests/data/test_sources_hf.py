"""Hugging Face's data sets: parquet files, folders, and a hub that may not answer."""

from __future__ import annotations

import importlib
import logging
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_server import DEAD, Stub, serving
from PIL import Image
from source_files import hf, left, parquet, pixel, png, put

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.folder.network import quiet

HF = importlib.import_module("lrexp.data.sources.hf_tables")


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


def test_linked_folders_of_parquet_files_are_read(tmp_path: Path) -> None:
    parquet(tmp_path / "store/train.parquet")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/data").symlink_to(tmp_path / "store")
    (tmp_path / "store/back").symlink_to(tmp_path / "set")
    assert len(hf(tmp_path / "set").labels) == 4


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
    assert "column fine_label as label, not coarse_label" in hf(file).notes[0]
    chosen = hf(file, label_column="coarse_label")
    assert (chosen.labels.tolist(), chosen.notes) == ([0, 0, 1, 1], ())
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
            source.read(i)
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
    with quiet():
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


def test_loggers_are_left_as_they_were() -> None:
    before = logging.getLogger("datasets").level
    with quiet():
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


@pytest.mark.parametrize("key", ["label_column", "group_by"])
def test_numbers_in_one_split_and_text_in_another_are_one_clear_error(
    key: str, tmp_path: Path
) -> None:
    parquet(tmp_path / "train.parquet", {"label": datasets.Value("int64")}, label=[0, 1, 0, 1])
    texts = ["cat", "dog", "cat", "dog"]
    parquet(tmp_path / "validation.parquet", {"label": datasets.Value("string")}, label=texts)
    with pytest.raises(ConfigError) as error:
        hf(tmp_path, **({"group_by": "label"} if key == "group_by" else {}))
    assert error.value.key == "data.label_column"
    assert "is text in" in str(error.value)
    assert "whole numbers in" in str(error.value)
    if key == "group_by":
        for name, values in (("train", [1, 1, 2, 2]), ("validation", texts)):
            parquet(tmp_path / f"{name}.parquet", label=[0, 1, 0, 1], track=values)
        with pytest.raises(ConfigError, match=r"data\.group_by=track: is text in .*validation"):
            hf(tmp_path, group_by="track")


@pytest.mark.parametrize("as_text", [False, True])
def test_amounts_are_refused_as_labels_with_what_to_do(as_text: bool, tmp_path: Path) -> None:
    amounts: list[Any] = [0.5, 1.25, 3.0, 4.75]
    labels = list(map(str, amounts)) if as_text else amounts
    kind = datasets.Value("string" if as_text else "float64")
    with pytest.raises(UserError, match=r"pandas\.qcut\(amounts, 3"):
        hf(parquet(tmp_path / "t.parquet", {"label": kind}, label=labels))


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


@pytest.fixture
def server() -> Iterator[tuple[type[Stub], str]]:
    with serving() as found:
        yield found


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
    why = "hub does not give it" if kind == "missing" else "hub did not answer"
    with pytest.raises(ConfigError, match=rf"data\.path=me/mine: .*{why}.*\n  local layouts: "):
        hf("me/mine")
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
    with quiet():
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
