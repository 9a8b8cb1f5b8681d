"""Images and labels that are arrays, or names of files, in memory."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from lrexp.config.errors import UserError, did_you_mean
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages, Source
from lrexp.data.sources.elsewhere import elsewhere
from lrexp.data.sources.labels import (
    OTHER_TASKS,
    SPLIT_WORDS,
    checked,
    class_labels,
    refuse_amounts,
)

LAYOUTS = "images are uint8 of shape (N, C, H, W), (N, H, W) or (N, H, W, C) with C = 1 or 3"
SEVERAL = "labels are a class per image (N,), or (N, classes) of 0 and 1 for several per image"
FIELDS = ("images", "labels", "class_names", "groups", "split")
SYNONYMS = {"x": "images", "y": "labels", "splits": "split", "group": "groups"}


def from_arrays(place: str, given: Any, channels: int) -> Source:
    """The data set that a pair of images and labels is, or a mapping of such fields, or of splits.

    Labels are whole numbers or text, (N,), of which the distinct ones in rising order are the
    classes; with `class_names` they count them, from 0. Labels (N, classes) of 0 and 1 are any
    number of labels per image, or one where no image has another number.

    Args:
        place: what messages call it.
        given: (images, labels); or images and labels by name, and where there are any class_names,
            groups (what shares a value stays on one side of every split) and split (train, val or
            test of every image); or either of these for train, val and test.
        channels: that files are converted to; arrays have their own.

    Raises:
        UserError: when they are no images, or no labels of such images.
    """
    fields = _fields(place, given)
    where = f"{place}: labels"
    images, notes = _images(place, fields["images"], channels)
    count = len(fields["images"])
    labels, names, said = _labels(where, fields["labels"], fields.get("class_names"), count)
    codes, groups, split = None, (), None
    if fields.get("groups") is not None:
        codes, groups = class_labels(_column(place, "groups", fields["groups"], count))
    if fields.get("split") is not None:
        split = _split(place, _column(place, "split", fields["split"], count))
    source = Source(images, labels, names, split, codes, groups, notes=(*notes, *said))
    return checked(source, place)


def _fields(place: str, given: Any) -> dict[str, Any]:
    """Images, labels and what else there is, by name, the splits end to end."""
    if isinstance(given, Mapping):
        splits = [name for name in given if str(name).lower() in SPLIT_WORDS]
        if splits and len(splits) >= len(given) - ("class_names" in given):
            parts = {str(name): _fields(f"{place}: {name}", given[name]) for name in splits}
            names = {"class_names": given["class_names"]} if "class_names" in given else {}
            return _end_to_end(place, parts) | names
        fields = {SYNONYMS.get(str(name), str(name)): value for name, value in given.items()}
        for name in fields.keys() - set(FIELDS):
            raise UserError(f"{place} gives {name!r}\n  {did_you_mean(name, FIELDS)}")
    elif isinstance(given, tuple | list) and len(given) == 2:
        fields = dict(zip(("images", "labels"), given, strict=True))
    else:
        kind = f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
        hint = "images and labels are wanted: (images, labels), {images: ..., labels: ...}, or a"
        raise UserError(f"{place} gives {kind}\n  {hint} Dataset of Hugging Face")
    for name in ("images", "labels"):
        if fields.get(name) is None:
            raise UserError(f"{place} gives no {name}, but {', '.join(fields)}")
    return {name: value for name, value in fields.items() if value is not None}


def _end_to_end(place: str, parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts.values() for name in part):
        if lacking := [split for split, part in parts.items() if name not in part]:
            raise UserError(f"{place}: {lacking[0]} has no {name}, and another split has")
        if name == "class_names":
            fields[name] = next(iter(parts.values()))[name]
            continue
        values = [on_cpu(part[name]) for part in parts.values()]
        if all(isinstance(value, list) for value in values):
            fields[name] = [item for value in values for item in value]
            continue
        try:
            fields[name] = np.concatenate([np.asarray(value) for value in values])
        except ValueError as error:
            shapes = ", ".join(f"{s} {np.shape(p[name])}" for s, p in parts.items())
            raise UserError(f"{place}: {name} of the splits do not fit: {shapes}") from error
    fields["split"] = [name for name, part in parts.items() for _ in range(len(part["images"]))]
    return fields


def on_cpu(given: Any) -> Any:
    """A tensor of torch as one that numpy can read: without a gradient, in a type it has."""
    if isinstance(given, list | tuple):
        return [on_cpu(one) for one in given] if given and hasattr(given[0], "detach") else given
    if not hasattr(given, "detach"):
        return given
    plain = given.detach().cpu()
    return plain.float() if plain.is_floating_point() else plain


def _images(place: str, given: Any, channels: int) -> tuple[np.ndarray | EncodedImages, list[str]]:
    """(N, C, H, W) uint8, or files; and how they were read."""
    given = on_cpu(given)
    paths = isinstance(given, list | tuple) and all(isinstance(g, str | PurePath) for g in given)
    if paths or (isinstance(given, np.ndarray) and given.dtype.kind == "U"):
        files = [os.path.abspath(os.path.expanduser(str(name))) for name in given]
        missing = functools.partial(elsewhere, os.path.dirname(files[0]) if files else "", files)
        return EncodedImages(files.__getitem__, files.__getitem__, channels, None, missing), []
    try:
        array = np.asarray(given)
    except ValueError:  # lists of arrays of several shapes
        array = np.empty(0, object)
    if array.dtype == object:
        hint = "bring them to one size before, or give names of files with data.image_size"
        raise UserError(f"{place}: images are of several shapes, or Python objects\n  {hint}")
    shape, notes = list(array.shape), list[str]()
    at = {n for n in (1, 3) if len(shape) == 4 and shape[n] in (1, 3)}
    if len(shape) != 3 and not at:
        hint = LAYOUTS
        if len(shape) == 2:
            hint += "; rows of pixels become images by images.reshape(-1, height, width)"
        if len(shape) == 4 and 4 in (shape[1], shape[3]):
            hint += "; transparency goes with images[..., :3]"
        raise UserError(f"{place}: images have shape {array.shape}\n  {hint}")
    if len(shape) == 3:
        array = array[:, None]
    elif len(at) == 2:
        notes.append(f"{place}: images {array.shape} are read as (N, C, H, W)")
    elif at == {3}:
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8:
        array, said = _as_bytes(place, array)
        notes.append(said)
    return np.ascontiguousarray(array), notes


def _as_bytes(place: str, array: np.ndarray) -> tuple[np.ndarray, str]:
    """Images of other numbers as uint8, and how."""
    said = f"{place}: images are {array.dtype}"
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255), f"{said}, read as 0 and 255"
    if array.dtype.kind not in "iuf" or not array.size:
        raise UserError(f"{said}\n  {LAYOUTS}")
    low, high = array.min(), array.max()
    if np.isnan(low):
        count = int(np.isnan(array).reshape(len(array), -1).any(1).sum())
        raise UserError(f"{place}: {count:,} of {len(array):,} images hold NaN")
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(array * 255).astype(np.uint8), f"{said} from 0 to 1, read as 256 levels"
    whole = array.dtype.kind != "f" or bool((array == np.rint(array)).all())
    if whole and low >= 0 and high <= 255:
        return array.astype(np.uint8), f"{said} from {low:g} to {high:g}, read as 256 levels"
    hint = "give pixels as uint8, or as floats from 0 to 1: data.normalize does the rest"
    if whole and low >= 0:
        hint = "give pixels as uint8: of 16 bits images // 257"
    problem = f"{said} from {low:g} to {high:g}, which says nothing of black and white"
    raise UserError(f"{problem}\n  {hint}")


def _column(place: str, name: str, given: Any, count: int) -> list[Any]:
    values = np.asarray(given)
    if values.shape != (count,):
        raise UserError(f"{place}: {name} have shape {values.shape}, there are {count} images")
    return values.tolist()


def _split(place: str, values: Sequence[Any]) -> np.ndarray:
    """Codes of words, or of themselves."""
    codes = []
    for value in values:
        code = value if value in (TRAIN, VAL, TEST) else SPLIT_WORDS.get(str(value).lower())
        if code is None:
            raise UserError(f"{place}: split {value!r} is none of train, val and test")
        codes.append(int(code))
    return np.array(codes, np.int8)


def _labels(
    where: str, given: Any, class_names: Any, count: int
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    """(N,) int64 or (N, classes) float32, the class names, and how they were read."""
    try:
        values = np.asarray(on_cpu(given))
    except ValueError:  # lists of several lengths
        raise UserError(f"{where} are lists of several lengths\n  {SEVERAL}") from None
    names = None if class_names is None else tuple(map(str, class_names))
    if values.ndim == 2 and values.size == len(values):
        values = values.reshape(-1)
    if values.shape[:1] != (count,):
        raise UserError(f"{where} have shape {values.shape}, there are {count} images")
    if values.ndim == 2 and values.dtype.kind in "iubf":
        return _several(where, values, names)
    if values.ndim > 2:
        raise UserError(f"{where} have shape {values.shape}\n  {OTHER_TASKS['masks']}")
    if values.ndim > 1 or values.dtype.kind not in "iubfUO":
        raise UserError(f"{where} are {values.dtype} of shape {values.shape}\n  {SEVERAL}")
    if values.dtype.kind == "f":
        refuse_amounts(map(str, values[~np.isnan(values)].tolist()), where)
        values = np.where(np.isnan(values), -1, values).astype(np.int64)
    plain = [None if value in (None, "", -1) else value for value in values.tolist()]
    if odd := [value for value in plain if not isinstance(value, str | int | None)]:
        raise UserError(f"{where} hold a {type(odd[0]).__name__}\n  {SEVERAL}")
    if names is None:
        refuse_amounts((value for value in plain if isinstance(value, str)), where)
        return *class_labels(plain), []
    codes: dict[Any, int] = {i: i for i in range(len(names))}
    codes |= {name: i for i, name in enumerate(names)} | {None: -1}
    if unknown := [value for value in plain if value not in codes]:
        problem = f"hold {unknown[0]!r}, which is none of {len(names)} class_names, from 0"
        raise UserError(f"{where} {problem}")
    return np.array([codes[value] for value in plain], np.int64), names, []


def _several(
    where: str, values: np.ndarray, names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...], list[str]]:
    classes = len(values[0])
    if not np.isin(values, (0, 1)).all():
        hint = OTHER_TASKS["boxes"] if classes in (4, 5) else SEVERAL
        problem = f"{where} have shape {values.shape}, and other numbers than 0 and 1"
        raise UserError(f"{problem}\n  {hint}")
    if names is not None and len(names) != classes:
        raise UserError(f"{where} have {classes} columns, class_names are {len(names)}")
    names = names or tuple(map(str, range(classes)))
    if (values.sum(1) == 1).all():
        said = f"{where} of one 1 per row are read as one class per image"
        return values.argmax(1).astype(np.int64), names, [said]
    return values.astype(np.float32), names, []
