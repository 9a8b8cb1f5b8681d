"""Folders of images, one folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lrexp.config.errors import ConfigError, UserError, few
from lrexp.data.images import extensions
from lrexp.data.source import TRAIN, EncodedImages, Source
from lrexp.data.sources.folders import BESIDE, PassedOver, files_below, folders_in, in_utf8
from lrexp.data.sources.labels import SPLIT_WORDS, checked

LAYOUT = "layout: FOLDER/CLASS/IMAGE, or FOLDER/train/CLASS/IMAGE with val and test beside train"


def imagefolder(path: str, channels: int, test_only: bool = False) -> Source:
    """A folder with a folder of images per class, or with train, val and test above them.

    A class is called what its folder is called; images may lie deeper inside it, and folders may be
    links. What is passed over (hidden, no image, in a loop of links) is counted in the notes.

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
    passed = PassedOver(str(root))
    top = folders_in(root, passed)
    split_of = {name: SPLIT_WORDS[name.lower()] for name in top if name.lower() in SPLIT_WORDS}
    splits_alone = bool(split_of) and len(split_of) == len(top)
    has_splits = TRAIN in split_of.values() or (splits_alone and test_only)
    if splits_alone and not has_splits:
        raise UserError(f"{root} has {', '.join(split_of)} and no train\n  {LAYOUT}")
    parts = [(root, TRAIN, top)]
    if has_splits:
        parts = [(root / n, code, folders_in(root / n, passed)) for n, code in split_of.items()]
        for name in (name for name in top if name not in split_of):
            passed.add("folders beside train that are no split", str(root / name))
    names = sorted({name for *_, inside in parts for name in inside})
    label_of = {name: label for label, name in enumerate(names)}
    found = [
        (file, label_of[name], code)
        for part, code, inside in parts
        for name in inside
        for file in files_below(part / name, passed)
    ]
    if not found:
        held = f"{len(names)} folders and no image in them" if names else "no folder per class"
        hint = f"images end with {', '.join(sorted(extensions()))}" if names else LAYOUT
        if any("-ubyte" in file.name for file in root.iterdir()):
            hint = "idx files are read by data=mnist and data=fashion_mnist, as they are shipped"
        raise UserError("\n  ".join([f"{root} has {held}", hint, *passed.lines()]))
    files, labels, codes = zip(*found, strict=True)
    if len(set(labels)) == 1 and not test_only:
        _refuse_wrapper(root, [part / names[labels[0]] for part, *_ in parts])
    shown = tuple(map(in_utf8, files))  # held, as what is handed to a worker can be
    source = Source(
        EncodedImages(files.__getitem__, shown.__getitem__, channels, None),
        np.array(labels, np.int64),
        tuple(map(in_utf8, names)),
        np.array(codes, np.int8) if has_splits else None,
        notes=tuple(f"{root}: {line}" for line in passed.lines()),
    )
    return source if test_only else checked(source, str(root))


def _refuse_wrapper(root: Path, only: list[Path]) -> None:
    """Refuse folders that hold the folders of classes, or of splits, each in one folder more."""
    for folder in only:
        while folder.is_dir():
            passed = PassedOver(str(folder))
            inside = folders_in(folder, passed)
            if passed.has(BESIDE) or not inside:
                break
            if len(inside) > 1:
                problem = f"one folder with images, and in it, {folder}, are {few(inside, 5)}"
                hint = f"if these are the classes or the splits: data.path={folder}"
                if len(only) > 1:
                    hint = "if these are the classes, move them up"
                raise UserError(f"{root} has {problem}\n  {hint}")
            folder /= inside[0]
