"""Data sets of torchvision."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from lrexp.config.errors import UserError, first_line
from lrexp.config.schema import OPTIONS
from lrexp.data.source import TEST, TRAIN, Source
from lrexp.folder.network import quiet, within

SECONDS = 4.0  # that a server may take to answer


CLOTHES = "T-shirt/top|Trouser|Pullover|Dress|Coat|Sandal|Shirt|Sneaker|Bag|Ankle boot"
CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
KNOWN = {  # name → class in torchvision.datasets, names of the classes
    "mnist": ("MNIST", tuple("0123456789")),
    "fashion_mnist": ("FashionMNIST", tuple(CLOTHES.split("|"))),
    "cifar10": ("CIFAR10", tuple(CIFAR10.split())),
    "cifar100": ("CIFAR100", tuple(CIFAR100.split())),
}


def class_names(name: str) -> tuple[str, ...]:
    """What the classes of a data set are called."""
    return KNOWN[name][1]


def torchvision_set(name: str, root: str, download: bool) -> Source:
    """A data set through torchvision, with its own test part.

    Args:
        name: as in `KNOWN`.
        root: the folder that holds (or will hold) its files.
        download: fetch it when it is not there. It is fetched into a folder beside and moved when
            it is whole, so that nothing half is ever left.

    Raises:
        UserError: when it is neither there nor can be fetched.
    """
    import torchvision.datasets

    (type_name, names), folder = KNOWN[name], Path(root).expanduser()
    kind = getattr(torchvision.datasets, type_name)
    held = OPTIONS["data"][name].folder
    try:
        parts = _zipped(kind, folder / held) or _opened(kind, folder)
    except Exception as error:  # RuntimeError, ValueError, AssertionError, EOFError and others
        there = (folder / held).exists()
        problem = f"what is in {folder / held} cannot be used ({first_line(error)})"
        problem = problem if there else f"no {type_name} in {folder}"
        try:
            parts = _fetched(kind, folder) if download else None
            why = "" if parts else "data.download=false"
        except Exception as failure:  # URLError, HTTPError, OSError, RuntimeError and others
            parts, why = None, f"no download: {first_line(failure)}"
        if parts is None:
            archive = getattr(kind, "filename", "")
            files = f"the files of {archive}" if archive else "the four idx files, .gz or not,"
            if not archive and any((folder / file).exists() for file, _ in kind.resources):
                files = f"the .gz files that are in {folder}"
            raise UserError(
                f"data={name}: {problem}; {why}\n  put {files} into {folder / held},"
                f" or name the folder that holds {held} with data.root=FOLDER"
            ) from error
    images = np.concatenate([np.asarray(part.data) for part in parts])
    grey = images.ndim == 3
    images = images[:, None] if grey else np.ascontiguousarray(np.moveaxis(images, 3, 1))
    labels = np.concatenate([np.asarray(part.targets, np.int64) for part in parts])
    split = np.repeat([TRAIN, TEST], [len(part.data) for part in parts])
    return Source(images, labels, names, split)


def _zipped(kind: Any, raw: Path) -> list[Any]:
    """The same from idx files of which some are there as .gz only, as they are shipped."""
    files = [raw / name for name, _ in getattr(kind, "resources", ())]  # images, labels of each
    plain = [file.with_suffix("") for file in files]
    there = [one.exists() or file.exists() for one, file in zip(plain, files, strict=True)]
    if not files or not all(there) or all(file.exists() for file in plain):
        return []
    arrays = [
        _idx(one.read_bytes() if one.exists() else gzip.decompress(file.read_bytes()), one.name)
        for one, file in zip(plain, files, strict=True)
    ]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return _of_equal_length([SimpleNamespace(data=images, targets=of) for images, of in pairs])


def _idx(content: bytes, name: str) -> np.ndarray:
    """An array of bytes in the idx format: 0, 0, 8, dimensions, their sizes, values."""
    dimensions = content[3] if content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * dimensions
    sizes = np.frombuffer(content[4:start], ">u4").tolist()
    if not dimensions or len(content) - start != math.prod(sizes):
        raise ValueError(f"{name} is no idx file, or not whole")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes)


def _opened(kind: Any, folder: Path) -> list[Any]:
    """The training and the test part from files that are there."""
    with quiet(SECONDS):
        parts = [kind(str(folder), train=train, download=False) for train in (True, False)]
    return _of_equal_length(parts)


def _of_equal_length(parts: list[Any]) -> list[Any]:
    if any(len(part.data) != len(part.targets) for part in parts):
        raise ValueError("images and labels differ in number")
    return parts


def _fetched(kind: Any, folder: Path) -> list[Any]:
    """The same after downloading them, from the servers that answer."""
    asking = type(kind.__name__, (kind,), {"mirrors": _answering(kind)})
    absent = [p for p in (folder, *folder.parents) if not p.exists()]
    fresh = folder / f".download-{os.urandom(4).hex()}"
    try:
        fresh.mkdir(parents=True)
        with quiet(SECONDS):
            asking(str(fresh), train=True, download=True)
        parts = _opened(kind, fresh)
        for file in sorted(p for p in fresh.rglob("*") if p.is_file()):
            target = folder / file.relative_to(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
        return parts
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):  # a folder with something in it stays
            for created in absent:
                created.rmdir()


def _answering(kind: Any) -> list[str]:
    """The servers of a data set that answer, all asked at once and once."""
    servers = {m: f"{m}{kind.resources[0][0]}" for m in getattr(kind, "mirrors", ())}
    servers = servers or {kind.url: kind.url}

    def ask(url: str) -> None:
        request = urllib.request.Request(url, headers={"User-Agent": "pytorch/vision"})
        try:
            urllib.request.urlopen(request, timeout=SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()
            raise

    answers = within(SECONDS, *(lambda url=url: ask(url) for url in servers.values()))
    good = [m for m, answer in zip(servers, answers, strict=True) if answer is None]
    if not good:
        raise next(answer for answer in answers if answer is not None)
    return good
