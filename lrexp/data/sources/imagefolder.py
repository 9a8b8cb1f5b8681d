"""Folders of images, one folder per class."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lrexp.config.errors import ConfigError, UserError
from lrexp.data.images import extensions
from lrexp.data.source import TRAIN, EncodedImages, Source
from lrexp.data.sources.labels import SPLIT_WORDS, checked

log = logging.getLogger(__name__)
LAYOUT = "layout: FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE with val and test beside train"


def imagefolder(path: str, channels: int, test_only: bool = False) -> Source:
    """A folder with a folder of images per class, or with train, val and test above them.

    A class is called what its folder is called. Hidden files and files that are no images are
    ignored and counted; images may lie deeper inside a class.

    Args:
        path: the folder.
        channels: 1 (grey) or 3 (RGB), which every image is converted to.
        test_only: nothing trains on it: it needs no train folder, and one class will do.

    Raises:
        UserError: when there are no classes, or no images.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ConfigError("data.path", f"there is no folder {root}", LAYOUT, path)
    top = _folders(root)
    split_of = {name: SPLIT_WORDS[name.lower()] for name in top if name.lower() in SPLIT_WORDS}
    splits_alone = bool(split_of) and len(split_of) == len(top)
    has_splits = TRAIN in split_of.values() or (splits_alone and test_only)
    if splits_alone and not has_splits:
        raise UserError(f"{root} has {', '.join(split_of)} and no train\n  {LAYOUT}")
    if has_splits and (others := [name for name in top if name not in split_of]):
        log.warning("%s: beside train, not a split and ignored: %s", root, ", ".join(others))
    parts = [(root / name, code) for name, code in split_of.items()] if has_splits else []
    parts = parts or [(root, TRAIN)]
    names = sorted({name for part, _ in parts for name in _folders(part)})
    listed = [
        (file, label, code)
        for part, code in parts
        for label, name in enumerate(names)
        for file in _files(part / name)
    ]
    found = [row for row in listed if _is_image(row[0])]
    if not names:
        raise UserError(f"{root} has no folder per class\n  {LAYOUT}")
    if not found:
        endings = ", ".join(sorted(extensions()))
        raise UserError(
            f"{root} has {len(names)} folders and no image in them\n  images end with {endings}"
        )
    if ignored := len(listed) - len(found):
        log.warning("%s: %d hidden files or files that are no images are ignored", root, ignored)
    files, labels, codes = zip(*found, strict=True)
    source = Source(
        EncodedImages(files.__getitem__, files.__getitem__, channels, None),
        np.array(labels, np.int64),
        tuple(names),
        np.array(codes, np.int8) if has_splits else None,
    )
    return source if test_only else checked(source, str(root))


def _folders(folder: Path) -> list[str]:
    """Names of the visible folders inside, in order."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def _files(folder: Path) -> Iterator[str]:
    """Files below a folder in order, but for those in hidden folders."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(files))


def _is_image(file: str) -> bool:
    name = os.path.basename(file)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in extensions()
