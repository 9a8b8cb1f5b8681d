"""torchvision's data sets: downloads from servers that may not answer, and their files."""

from __future__ import annotations

import functools
import gzip
import hashlib
import importlib
import pickle
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from file_server import DEAD, Stub, serving
from source_files import left

from lrexp.config.errors import UserError
from lrexp.data.source import TEST, TRAIN
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.data.sources.torchvision_sets import torchvision_set

SETS = importlib.import_module("lrexp.data.sources.torchvision_sets")


@pytest.fixture
def server() -> Iterator[tuple[type[Stub], str]]:
    with serving() as found:
        yield found


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


fashion_mnist = functools.partial(torchvision_set, "fashion_mnist", download=True)


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
    was = left(tmp_path)
    with pytest.raises(UserError) as error:
        fashion_mnist(root=str(root))
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
    assert len(torchvision_set("fashion_mnist", root=str(tmp_path), download=False).labels) == 10


@pytest.mark.parametrize("plain", [[], ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]])
def test_idx_files_are_read_as_they_are_shipped(plain: list[str], tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file, data in idx_files().items():
        (raw / file).write_bytes(data)
    unpacked = torchvision_set("fashion_mnist", str(tmp_path), download=False)
    for file, data in idx_files().items():
        if file not in plain:
            (raw / file).unlink()
            (raw / f"{file}.gz").write_bytes(gzip.compress(data))
    was = left(tmp_path)
    source = torchvision_set("fashion_mnist", str(tmp_path), download=False)
    assert np.array_equal(source.images, unpacked.images)  # type: ignore[arg-type]
    assert source.labels.tolist() == unpacked.labels.tolist()
    assert left(tmp_path) == was  # the folder may be others', or read-only
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x03" + bytes(20)))
    with pytest.raises(UserError, match="t10k-images-idx3-ubyte is no idx file, or not whole"):
        torchvision_set("fashion_mnist", str(tmp_path), download=False)


def test_zipped_idx_files_in_the_wrong_place_are_named(tmp_path: Path) -> None:
    for file, data in idx_files().items():
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(data))
    with pytest.raises(UserError, match=r"no folder per class\n.*data=fashion_mnist"):
        imagefolder(str(tmp_path), 1)
    with pytest.raises(UserError, match=r"the \.gz files that are in .* into .*FashionMNIST/raw"):
        torchvision_set("fashion_mnist", str(tmp_path), download=False)


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
    source = torchvision_set(name, root=str(tmp_path), download=False)
    assert source.images.shape == (6, 3, 32, 32)
    assert (np.asarray(source.images).reshape(6, 3072) == pixels).all()
    assert source.labels.tolist() == labels
    assert source.split is not None
    assert source.split.tolist() == [TRAIN] * 4 + [TEST] * 2
    assert source.class_names[1] == {"cifar10": "automobile", "cifar100": "aquarium_fish"}[name]
    assert len(source.class_names) == int(name.removeprefix("cifar"))
    (folder / "some").write_bytes(b"spoilt")
    with pytest.raises(UserError, match=rf"what is in .*{kind.base_folder} cannot be used"):
        torchvision_set(name, root=str(tmp_path), download=False)
