"""Image classification sets of Hugging Face: from the hub, from parquet files, from folders."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages, Source
from lrexp.data.sources.hf_tables import Part, folder_inside, from_folder, from_hub, is_imagefolder
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.data.sources.labels import SPLIT_WORDS, checked, class_labels, group_codes, label_sets

if TYPE_CHECKING:
    pass


LABEL_COLUMNS = ("label", "labels", "class", "classes", "category", "target", "fine_label")


@dataclass(frozen=True)
class _Cells:
    """One column of all parts, end to end."""

    parts: Sequence[Part]
    column: str
    starts: Sequence[int]  # the first row of each part

    def at(self, i: int) -> tuple[Part, int]:
        """The part and row of image i."""
        part = bisect.bisect_right(self.starts, i) - 1
        return self.parts[part], i - self.starts[part]

    def name(self, i: int) -> str:
        """What messages call image i."""
        part, row = self.at(i)
        return part.name(row)

    def encoded(self, i: int) -> bytes | str:
        """The bytes of image i, or the path of its file."""
        part, row = self.at(i)
        cell = part.table.column(self.column)[row].as_py()
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, "")
        if data is not None and not isinstance(data, str):
            return data
        path = data or path
        if not path:
            raise ImageError("has no image")
        return os.path.join(part.folder, path)


def hf(
    path: str,
    subset: str | None,
    revision: str | None,
    train_split: str | None,
    val_split: str | None,
    test_split: str | None,
    image_column: str | None,
    label_column: str | None,
    channels: int,
    group_by: str | None,
    test_only: bool = False,
) -> Source:
    """Any image classification set that Hugging Face's `datasets` can hold.

    Args:
        path: a folder, a parquet file, or a name on the hub such as uoft-cs/cifar10.
        subset: the configuration's name on the hub; a folder inside a local one.
        revision: a commit, tag or branch on the hub.
        train_split: its name in the data; None: guessed.
        val_split: likewise; `none` leaves it out.
        test_split: likewise.
        image_column: the column of images; None: guessed.
        label_column: the column of classes, or of lists of them; None: guessed.
        channels: 1 (grey) or 3 (RGB), which every image is converted to.
        group_by: a column whose equal values belong together.
        test_only: nothing trains on it: it needs no training split, and one class will do.

    Raises:
        UserError: when it cannot be had, or has no such columns or splits.
    """
    local = Path(path).expanduser()
    if local.exists():
        if subset is not None:
            local = folder_inside(local, subset)
        if is_imagefolder(local):
            chosen = {"image_column": image_column, "label_column": label_column}
            chosen |= {"group_by": group_by, "train_split": train_split}
            chosen |= {"val_split": val_split, "test_split": test_split}
            for key, value in chosen.items():
                if value is not None:
                    problem = f"does not apply: {local} is a folder of images"
                    raise ConfigError(f"data.{key}", problem, given=value)
            return imagefolder(str(local), channels, test_only)
        place, found = str(local), from_folder(local)
    else:
        place, found = path, from_hub(path, subset, revision)
    given = {"train_split": train_split, "val_split": val_split, "test_split": test_split}
    parts = _chosen_splits(place, found, given, test_only)
    features, rows = _features(parts), sum(part.table.num_rows for part in parts.values())
    image = _image_column(place, features, image_column)
    label = _label_column(place, features, label_column, image)
    starts = [0, *itertools.accumulate(p.table.num_rows for p in parts.values())][:-1]
    cells = _Cells(tuple(parts.values()), image, tuple(starts))
    for code, part in parts.items():
        for column in {image, label, group_by} - {None}:
            _check_column(part, column, "group_by" if column == group_by else "label_column", code)
    labels, names = _labels(cells, label, features[label])
    for part in parts.values():
        _check_same_classes(part, next(iter(parts.values())), label)
    codes, groups = None, ()
    if group_by is not None:
        values = _values(cells, group_by)
        if None in values:
            raise UserError(f"{cells.name(values.index(None))} has no {group_by}")
        codes, groups = group_codes(values)
    split = np.repeat(list(parts), [part.table.num_rows for part in parts.values()])
    source = Source(
        EncodedImages(cells.encoded, cells.name, rows, channels, None),
        labels,
        names,
        split.astype(np.int8),
        codes,
        groups,
    )
    return source if test_only else checked(source, place)


def _chosen_splits(
    place: str, found: dict[str, Part], given: dict[str, str | None], test_only: bool
) -> dict[int, Part]:
    """Split code → part, in the order train, val, test."""
    taken = {name for name in given.values() if name is not None}
    chosen: dict[int, Part] = {}
    for code, (key, name) in zip((TRAIN, VAL, TEST), given.items(), strict=True):
        if name == "none":
            continue
        if name is None:
            guesses = [n for n in found if SPLIT_WORDS.get(n.lower()) == code and n not in taken]
            if len(guesses) > 1:
                problem = f"{place} has several such splits: {', '.join(guesses)}"
                raise ConfigError(f"data.{key}", problem, f"choose with data.{key}=NAME")
            if guesses:
                chosen[code] = found[guesses[0]]
        elif name not in found:
            problem = f"{place} has no such split"
            raise ConfigError(f"data.{key}", problem, did_you_mean(name, found), name)
        else:
            chosen[code] = found[name]
    if TRAIN not in chosen and not (test_only and chosen):
        hint = f"its splits: {', '.join(found)}; choose with data.train_split=NAME"
        raise UserError(f"{place} has no training split\n  {hint}")
    names = [name for name in given.values() if name not in (None, "none")]
    if len(set(names)) < len(names):
        raise ConfigError("data.test_split", "a split is named twice", given=names[-1])
    return chosen


def _features(parts: dict[int, Part]) -> dict[str, Any]:
    """What the columns of the first split hold, in the terms of `datasets`."""
    from datasets import Features

    return dict(Features.from_arrow_schema(next(iter(parts.values())).table.schema))


def _image_column(place: str, features: dict[str, Any], given: str | None) -> str:
    from datasets import Image

    if given is not None:
        return _known("image_column", place, features, given)
    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    # Files that others wrote say nothing of images: they hold bytes, alone or beside a path.
    images = images or [name for name, feature in features.items() if _is_bytes(feature)]
    if len(images) != 1:
        which = f"more than one column of images ({', '.join(images)})" if images else "no images"
        hint = f"its columns: {', '.join(features)}; choose with data.image_column=NAME"
        raise UserError(f"{place} has {which}\n  {hint}")
    return images[0]


def _is_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _label_column(place: str, features: dict[str, Any], given: str | None, image: str) -> str:
    from datasets import ClassLabel

    if given is not None:
        return _known("label_column", place, features, given)
    classes = [
        name
        for name, feature in features.items()
        if isinstance(getattr(feature, "feature", feature), ClassLabel)
    ]
    if len(classes) == 1:
        return classes[0]
    named = [name for name in LABEL_COLUMNS if name in (classes or features) and name != image]
    if not named:
        which = f"several columns of classes ({', '.join(classes)})" if classes else "no labels"
        hint = f"its columns: {', '.join(features)}; choose with data.label_column=NAME"
        raise UserError(f"{place} has {which}\n  {hint}")
    return named[0]


def _known(key: str, place: str, features: dict[str, Any], given: str) -> str:
    if given not in features:
        hint = did_you_mean(given, features)
        raise ConfigError(f"data.{key}", f"{place} has no such column", hint, given)
    return given


def _check_column(part: Part, column: str, key: str, code: int) -> None:
    if column not in part.table.column_names:
        hint = did_you_mean(column, part.table.column_names)
        if code != TRAIN:
            hint += f"\n  data.{'val' if code == VAL else 'test'}_split=none leaves that split out"
        raise ConfigError(f"data.{key}", f"{part.called[0]} has no such column", hint, column)


def _check_same_classes(part: Part, first: Part, column: str) -> None:
    """Refuse a split whose class names stand in another order: its numbers mean something else."""
    from datasets import Features

    found = []
    for one in (part, first):
        feature = Features.from_arrow_schema(one.table.schema).get(column)
        found.append(getattr(getattr(feature, "feature", feature), "names", None))
    if found[0] != found[1]:
        names = (f"{', '.join(map(str, f[:5]))}, ..." if f else "not said" for f in found)
        problem = f"classes of {part.called[0]}: {next(names)}; of {first.called[0]}: {next(names)}"
        raise ConfigError("data.label_column", problem, "they must be the same", column)


def _values(cells: _Cells, column: str) -> list[Any]:
    return [v for part in cells.parts for v in part.table.column(column).to_pylist()]


def _labels(cells: _Cells, column: str, feature: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 or (N, classes) float32, and the class names."""
    values = _values(cells, column)
    several = hasattr(feature, "feature")  # a list of what one image has
    inner = feature.feature if several else feature
    names = getattr(inner, "names", None)
    kind = str(getattr(inner, "dtype", inner))
    if names is None and not re.fullmatch(r"u?int\d+|bool|(large_)?string(_view)?", kind):
        problem = f"holds {kind}, which are no classes"
        raise ConfigError("data.label_column", problem, given=column)
    if names is not None:
        _check_range(cells, column, values, len(names))
    if several:
        sets = [[v for v in value or () if v is not None] for value in values]
        labels, found = label_sets(sets, None if names is None else range(len(names)))
    elif names is None:
        missing = [None if type(v) is int and v == -1 else v for v in values]
        return class_labels(missing)
    else:
        return np.array([-1 if v is None else v for v in values], np.int64), tuple(names)
    return labels, found if names is None else tuple(names)


def _check_range(cells: _Cells, column: str, values: list[Any], classes: int) -> None:
    """Refuse labels that no class has. -1 stands for a missing one."""
    for i, value in enumerate(values):
        for label in value or () if isinstance(value, list) else (value,):
            if label is not None and not (0 <= label < classes or (label == -1 and value == -1)):
                problem = f"{column} {label} is no class: there are {classes}, from 0"
                raise UserError(f"{cells.name(i)}: {problem}")
