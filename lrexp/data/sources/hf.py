"""Image classification sets of Hugging Face: from the hub, from parquet files, from folders."""

from __future__ import annotations

import bisect
import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lrexp.config.errors import ConfigError, UserError, did_you_mean
from lrexp.data.images import ImageError
from lrexp.data.source import TEST, TRAIN, VAL, EncodedImages, Source
from lrexp.data.sources.hf_tables import Part, folder_inside, from_folder, from_hub, is_imagefolder
from lrexp.data.sources.imagefolder import imagefolder
from lrexp.data.sources.labels import (
    LABEL_COLUMNS,
    OTHER_TASKS,
    SPLIT_WORDS,
    checked,
    class_labels,
    label_sets,
    refuse_amounts,
)


@dataclass(frozen=True)
class _Cells:
    """The rows of all parts, end to end."""

    parts: Sequence[Part]
    image: str  # the column of images
    starts: Sequence[int]  # the first row of each part

    def at(self, i: int) -> tuple[Part, int]:
        """The part and row of image i."""
        part = bisect.bisect_right(self.starts, i) - 1
        return self.parts[part], i - self.starts[part]

    def name(self, i: int) -> str:
        """What messages call image i; rows count from 0 as in `datasets` and pandas."""
        part, row = self.at(i)
        return f"{part.called} row {row}"

    def values(self, column: str) -> list[Any]:
        """A column as plain values."""
        return [v for part in self.parts for v in part.table.column(column).to_pylist()]

    def encoded(self, i: int) -> bytes | str:
        """The bytes of image i, or the path of its file."""
        part, row = self.at(i)
        cell = part.table.column(self.image)[row].as_py()
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
    splits = {"train_split": train_split, "val_split": val_split, "test_split": test_split}
    columns = {"image_column": image_column, "label_column": label_column, "group_by": group_by}
    local = Path(path).expanduser()
    if local.exists():
        local = local if subset is None else folder_inside(local, subset)
        if is_imagefolder(local):
            for key, value in (columns | splits).items():
                if value is not None:
                    problem = f"does not apply: {local} is a folder of images"
                    raise ConfigError(f"data.{key}", problem, given=value)
            return imagefolder(str(local), channels, test_only)
        place, found = str(local), from_folder(local)
    else:
        place, found = path, from_hub(path, subset, revision)
    return from_parts(place, found, splits, columns, channels, test_only)


def from_parts(
    place: str,
    found: dict[str, list[Part]],
    splits: dict[str, str | None],
    columns: dict[str, str | None],
    channels: int,
    test_only: bool = False,
) -> Source:
    """The data set that tables by split are.

    Args:
        place: what messages call it.
        found: split name → parts.
        splits: what `hf` takes as train_split, val_split and test_split.
        columns: likewise image_column, label_column and group_by.
        channels: as of `hf`.
        test_only: likewise.

    Raises:
        UserError: when there are no such columns or splits.
    """
    chosen = _chosen_splits(place, found, splits, test_only)
    firsts = {code: parts[0] for code, parts in chosen.items()}
    features = _features(next(iter(firsts.values())))
    label_column, group_by = columns["label_column"], columns["group_by"]
    image = columns["image_column"] or _image_column(place, features)
    label = label_column or _label_column(place, features, image)
    columns = columns | {"image_column": image, "label_column": label}
    for code, part in firsts.items():
        _check_columns(part, columns, code, test_only)
    parts = list(itertools.chain.from_iterable(chosen.values()))
    _check_same_kind(parts, "label_column", label)
    if group_by is not None:
        _check_same_kind(parts, "group_by", group_by)
    _check_same_classes(list(firsts.values()), label)
    sizes = [sum(part.table.num_rows for part in parts) for parts in chosen.values()]
    starts = list(itertools.accumulate((part.table.num_rows for part in parts), initial=0))
    cells = _Cells(parts, image, starts[:-1])
    labels, names = _labels(cells, label, features[label])
    codes, groups = None, ()
    if group_by is not None:
        values = cells.values(group_by)
        if None in values:
            raise UserError(f"{cells.name(values.index(None))} has no {group_by}")
        codes, groups = class_labels(values)
    split = np.repeat(list(chosen), sizes).astype(np.int8)
    images = EncodedImages(cells.encoded, cells.name, channels, None)
    others = [n for n, f in features.items() if n != label and _class_names(f) is not None]
    notes = [f"{place}: column {label} as label, not {', '.join(others)} (data.label_column=NAME)"]
    notes = notes if others and label_column is None else []
    source = Source(images, labels, names, split, codes, groups, notes=tuple(notes))
    return source if test_only else checked(source, place)


def _chosen_splits(
    place: str, found: dict[str, list[Part]], given: dict[str, str | None], test_only: bool
) -> dict[int, list[Part]]:
    """Split code → parts, in the order train, val, test."""
    chosen: dict[int, list[Part]] = {}
    for code, (key, name) in zip((TRAIN, VAL, TEST), given.items(), strict=True):
        if name == "none":
            continue
        if name not in (None, *found):
            problem = f"{place} has no such split"
            raise ConfigError(f"data.{key}", problem, did_you_mean(name, found), name)
        guesses = [n for n in found if SPLIT_WORDS.get(n.lower()) == code]
        names = [name] if name else [n for n in guesses if n not in given.values()]
        if len(names) > 1:
            problem = f"{place} has several such splits: {', '.join(names)}"
            raise ConfigError(f"data.{key}", problem, f"choose with data.{key}=NAME")
        if names:
            chosen[code] = found[names[0]]
    if TRAIN not in chosen and not (test_only and chosen):
        hint = f"its splits: {', '.join(found)}; choose with data.train_split=NAME"
        raise UserError(f"{place} has no training split\n  {hint}")
    names = [name for name in given.values() if name not in (None, "none")]
    if len(set(names)) < len(names):
        raise ConfigError("data.test_split", "a split is named twice", given=names[-1])
    return chosen


def _features(part: Part) -> dict[str, Any]:
    """What columns hold, in the terms of `datasets`."""
    from datasets import Features

    return dict(Features.from_arrow_schema(part.table.schema))


def _image_column(place: str, features: dict[str, Any]) -> str:
    from datasets import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    # Files that others wrote say nothing of images: they hold bytes, alone or beside a path.
    images = images or [name for name, feature in features.items() if _is_bytes(feature)]
    if len(images) != 1:
        which = f"more than one column of images ({', '.join(images)})" if images else "no images"
        hint = f"its columns: {', '.join(features)}; choose with data.image_column=NAME"
        if any(re.search("mask|annotation|segment", name.lower()) for name in images):
            hint += f"\n  {OTHER_TASKS['masks']}"
        raise UserError(f"{place} has {which}\n  {hint}")
    return images[0]


def _is_bytes(feature: Any) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return getattr(feature, "dtype", "") in ("binary", "large_binary")


def _label_column(place: str, features: dict[str, Any], image: str) -> str:
    classes = [name for name, feature in features.items() if _class_names(feature) is not None]
    if len(classes) == 1:
        return classes[0]
    named = [name for name in LABEL_COLUMNS if name in (classes or features) and name != image]
    if not named:
        which = f"several columns of classes ({', '.join(classes)})" if classes else "no labels"
        hint = f"its columns: {', '.join(features)}; choose with data.label_column=NAME"
        others = [other_task(name, features[name]) for name in features if name != image]
        hint = "\n  ".join([hint, *dict.fromkeys(filter(None, others))])
        raise UserError(f"{place} has {which}\n  {hint}")
    return named[0]


def _class_names(feature: Any) -> list[str] | None:
    """Of a column of classes, or of lists of them."""
    return getattr(getattr(feature, "feature", feature), "names", None)


def other_task(name: str, feature: Any) -> str:
    """What a column that holds boxes or masks is for, and what to use instead; empty for others."""
    from datasets import Image

    inner = getattr(feature, "feature", feature)
    nested = isinstance(inner, dict) and any("box" in str(key) for key in inner)
    listed = hasattr(inner, "feature") or (inner is not feature and "float" in _kind(feature))
    if nested or (listed and "box" in name.lower()):
        return OTHER_TASKS["boxes"]
    if isinstance(feature, Image) or (hasattr(feature, "shape") and len(feature.shape) > 1):
        return OTHER_TASKS["masks"]
    return ""


def _check_columns(part: Part, wanted: dict[str, str | None], code: int, test_only: bool) -> None:
    known = part.table.column_names
    for key, column in wanted.items():
        if column not in (None, *known):
            hint = did_you_mean(column, known)
            if code != TRAIN and not test_only:
                left = f"data.{'val' if code == VAL else 'test'}_split=none"
                hint += f"\n  {left} leaves that split out"
            raise ConfigError(f"data.{key}", f"{part.called} has no such column", hint, column)


def _check_same_kind(parts: list[Part], key: str, column: str) -> None:
    """Refuse text in one split and numbers in another: neither compares with the other."""
    kinds = [_kind(_features(part)[column]) for part in parts]
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0]:
            problem = f"is {kind} in {part.called}, {kinds[0]} in {parts[0].called}"
            raise ConfigError(f"data.{key}", problem, "they must be the same", column)


def _kind(feature: Any) -> str:
    """What a column of labels or groups holds, in words."""
    inner = getattr(feature, "feature", feature)
    kind = str(getattr(inner, "dtype", inner))
    kind = "text" if "string" in kind else kind
    kind = "whole numbers" if re.fullmatch(r"u?int\d+|bool", kind) else kind
    return kind if inner is feature else f"lists of {kind}"


def _check_same_classes(parts: list[Part], column: str) -> None:
    """Refuse a split whose class names stand in another order: its numbers mean something else."""
    first, *others = [_class_names(_features(part)[column]) for part in parts]
    for part, names in zip(parts[1:], others, strict=True):
        if names != first:
            said = (f"{', '.join(f[:5])}, ..." if f else "not said" for f in (names, first))
            problem = f"classes of {part.called}: {next(said)}; of {parts[0].called}: {next(said)}"
            raise ConfigError("data.label_column", problem, "they must be the same", column)


def _labels(cells: _Cells, column: str, feature: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """(N,) int64 or (N, classes) float32, and the class names."""
    values, names = cells.values(column), _class_names(feature)
    several = hasattr(feature, "feature")  # a list of what one image has
    sets = [[v for v in value or () if v is not None] for value in values] if several else []
    if names is None:
        inner = feature.feature if several else feature
        kind = str(getattr(inner, "dtype", inner))
        if not re.fullmatch(r"u?int\d+|bool|(large_)?string(_view)?", kind):
            problem = f"holds {kind}, which are no classes"
            hint = other_task(f"{column} box", feature)  # lists of numbers are nothing else here
            if not several and ("float" in kind or "decimal" in kind):
                hint = OTHER_TASKS["amounts"]
            raise ConfigError("data.label_column", problem, hint, column)
        texts = itertools.chain.from_iterable(sets) if several else values
        refuse_amounts((v for v in texts if isinstance(v, str)), f"column {column}")
        # -1 stands for a missing one
        missing = [None if type(v) is int and v == -1 else v for v in values]
        return label_sets(sets) if several else class_labels(missing)
    for i, value in enumerate(values):
        for label in sets[i] if several else (value,):
            if not (label is None or 0 <= label < len(names) or label == value == -1):
                problem = f"{column} {label} is no class: there are {len(names)}, from 0"
                raise UserError(f"{cells.name(i)}: {problem}")
    if several:
        return label_sets(sets, range(len(names)))[0], tuple(names)
    return np.array([-1 if v is None else v for v in values], np.int64), tuple(names)
