"""Arrays in a file of numpy's."""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from lrexp.config.errors import UserError, few, first_line
from lrexp.data.source import Source
from lrexp.data.sources.arrays import FIELDS, SYNONYMS, from_arrays
from lrexp.data.sources.labels import SPLIT_WORDS

NAMES = "it holds images and labels (or x and y), or train_images, train_labels, test_images ..."


def npz(path: str) -> Source:
    """The arrays of a .npz file: see `from_arrays`, whose fields they are called after.

    Of splits each name begins or ends with one: train_images or x_train. Python objects in it are
    never unpickled.

    Args:
        path: the file.

    Raises:
        UserError: when it cannot be read, or does not hold such arrays.
    """
    file = Path(path).expanduser()
    if not zipfile.is_zipfile(file):
        raise UserError(f"{file} is no .npz file, as numpy.savez writes it\n  {NAMES}")
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = _read(file, opened)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file} cannot be read as .npz: {first_line(error)}") from error
    return from_arrays(str(file), _by_split(file, arrays), 1)


def _read(file: Path, opened: Any) -> dict[str, np.ndarray]:
    arrays = {}
    for name in opened.files:
        try:
            arrays[name] = opened[name]
        except ValueError as error:
            if "pickle" not in str(error):
                raise
            hint = "save plain arrays: numbers, or text as numpy.array(names, dtype=str)"
            problem = f"{name} holds Python objects, which are never unpickled"
            raise UserError(f"{file}: {problem}\n  {hint}") from error
    return arrays


def _by_split(file: Path, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Fields by name, or by split where names say so; what nobody reads is an error."""
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        words = re.split(r"[_-]", name.lower(), maxsplit=1)
        split = next((word for word in (words[0], words[-1]) if word in SPLIT_WORDS), "")
        rest = "_".join(word for word in words if word != split) if split else name.lower()
        kind = SYNONYMS.get(rest, rest)
        if kind not in FIELDS:
            held = few(arrays)
            raise UserError(f"{file} holds {held}, and {name} is nothing that is read\n  {NAMES}")
        (found.setdefault(split, {}) if split else found)[kind] = array
    if any(name in SPLIT_WORDS for name in found) and {"images", "labels"} & found.keys():
        raise UserError(f"{file} holds {few(arrays)}: images of splits, and others\n  {NAMES}")
    return found
